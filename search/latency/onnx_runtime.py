"""Latency of an ONNX file in onnxruntime: on the CPU, or by another of its execution providers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils._pytree import tree_leaves

from ofa.search.latency.artefact import Artefact
from ofa.search.latency.device import Clock, Stopwatch, ThreadedDevice, stopwatch, version_of


@dataclass(frozen=True)
class OnnxRuntime(ThreadedDevice):
    """The network as an ONNX file in onnxruntime, with so many `threads` of the CPU, or by another `provider`.

    >>> watch = OnnxRuntime().load(Artefact(nn.Linear(4, 2), torch.zeros(1, 4)))
    >>> min(watch(3)) >= 0
    True

    Raises:
        ValueError: fewer than 1 thread, or no such clock.
    """

    provider: str = "CPUExecutionProvider"

    @property
    def runtime(self) -> str:
        return f"onnxruntime {version_of('onnxruntime')}"

    def load(self, artefact: Artefact) -> Stopwatch:
        session = self.session(artefact.onnx)
        arrays = (np.asarray(t.detach().cpu()) for t in tree_leaves(artefact.example))
        feed = dict(zip((node.name for node in session.get_inputs()), arrays, strict=True))
        clock: Clock = "wall" if self.clock == "auto" and self.provider != "CPUExecutionProvider" else self.clock
        watch = stopwatch(lambda: session.run(None, feed), clock, self.threads)
        try:
            watch(1)
        except Exception as error:  # onnxruntime's errors share no other base
            raise ValueError(f"onnxruntime does not run it on {_shapes(feed)}: {error}") from None
        return watch

    def session(self, path: Path) -> Any:
        """A session of an ONNX file.

        Raises:
            ValueError: onnxruntime lacks the provider, or refuses the file.
        """
        import onnxruntime

        if self.provider not in (known := onnxruntime.get_available_providers()):
            hint = "" if self.provider.startswith("CPU") else "; those of GPUs come with pip install onnxruntime-gpu"
            raise ValueError(f"this onnxruntime has {', '.join(known)}, not {self.provider}{hint}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(path, options, providers=[self.provider])
        except Exception as error:  # onnxruntime's errors share no other base
            raise ValueError(f"onnxruntime cannot load {path}: {error}") from None


def _shapes(feed: dict[str, npt.NDArray[Any]]) -> str:
    return ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in feed.items())
