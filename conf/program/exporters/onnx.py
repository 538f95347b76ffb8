"""ONNX, which runs in onnxruntime and many other places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ofa.conf.program.exporters.exporter import Exporter, distance, output
from ofa.export import export_onnx
from ofa.slicing import Plan


@dataclass(frozen=True)
class Onnx(Exporter):
    """An ONNX file; in onnxruntime its output may differ by `tolerance`, relative to the largest."""

    name: ClassVar[str] = "onnx"
    file: ClassVar[str] = "model.onnx"
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.tolerance <= 0:
            raise ValueError(f"a tolerance above 0, got {self.tolerance}")

    def write(self, network: nn.Module, example: Tensor, path: Path, plan: Plan) -> Mapping[str, float]:
        import onnxruntime

        export_onnx(network, example, path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {session.get_inputs()[0].name: example.cpu().numpy()})
        return {"onnx_difference": distance(torch.from_numpy(got), output(network, example), path, self.tolerance)}
