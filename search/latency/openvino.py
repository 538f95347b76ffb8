"""Latency of an ONNX file in OpenVINO on the CPU (the extra `openvino`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils._pytree import tree_leaves

from ofa.search.latency.artefact import Artefact
from ofa.search.latency.device import Stopwatch, ThreadedDevice, version_of


@dataclass(frozen=True)
class OpenVino(ThreadedDevice):
    """The network as an ONNX file in OpenVINO's CPU plugin, with so many `threads`.

    >>> OpenVino(threads=2).fingerprint["threads"]
    '2'

    Raises:
        ValueError: fewer than 1 thread, or no such clock; when loading, OpenVINO is missing or refuses the network.
    """

    @property
    def runtime(self) -> str:
        return f"openvino {version_of('openvino')}"

    def load(self, artefact: Artefact) -> Stopwatch:
        request = self._compiled(artefact).create_infer_request()
        arrays = [np.asarray(t.detach().cpu()) for t in tree_leaves(artefact.example)]
        watch = self.stopwatch(lambda: request.infer(arrays))
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
