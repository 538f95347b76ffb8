"""Latency of an ONNX file in OpenVINO on the CPU (the extra `openvino`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils._pytree import tree_leaves

from ofa.search.latency.artefact import Artefact
from ofa.search.latency.device import Clock, LatencyDevice, Stopwatch, check_threads, stopwatch, version_of


@dataclass(frozen=True)
class OpenVino(LatencyDevice):
    """The network as an ONNX file in OpenVINO's CPU plugin, with so many `threads`.

    `clock` is what times a run: the thread's CPU time (cpu), the clock on the wall (wall), or (auto) the first with one
    thread and the second with more.

    >>> OpenVino(threads=2).fingerprint["threads"]
    '2'

    Raises:
        ValueError: fewer than 1 thread, or no such clock; when loading, OpenVINO is missing or refuses the network.
    """

    threads: int = 1
    clock: Clock = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threads(self.threads, self.clock)

    @property
    def runtime(self) -> str:
        return f"openvino {version_of('openvino')}"

    def load(self, artefact: Artefact) -> Stopwatch:
        request = self._compiled(artefact).create_infer_request()
        arrays = [np.asarray(t.detach().cpu()) for t in tree_leaves(artefact.example)]
        watch = stopwatch(lambda: request.infer(arrays), self.clock, self.threads)
        watch(2)
        return watch

    def _compiled(self, artefact: Artefact) -> Any:
        try:
            import openvino
        except ImportError:
            raise ValueError("latency=openvino_cpu needs OpenVINO: pip install 'ofa-lab[openvino]'") from None
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            return openvino.Core().compile_model(str(artefact.onnx), "CPU", settings)
        except Exception as error:  # OpenVINO's errors share no other base
            reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise ValueError(f"OpenVINO refuses this {type(artefact.network).__name__}: {reason}") from None
