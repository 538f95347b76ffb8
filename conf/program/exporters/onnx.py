"""ONNX, which runs in onnxruntime and many other places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ofa.conf.program.exporters.exporter import Exporter, Facts, distance, output, words
from ofa.export import export_onnx
from ofa.slicing import Plan


@dataclass(frozen=True)
class Onnx(Exporter):
    """An ONNX file for batches of any size; in onnxruntime outputs may differ by `tolerance`, relative to the largest.

    A network that fixes its batch gets a file for single samples. The facts stand in its metadata, as text or JSON.
    """

    name: ClassVar[str] = "onnx"
    file: ClassVar[str] = "model.onnx"
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.tolerance <= 0:
            raise ValueError(f"a tolerance above 0, got {self.tolerance}")

    def write(self, network: nn.Module, example: Tensor, path: Path, plan: Plan, facts: Facts) -> Mapping[str, float]:
        import onnxruntime

        export_onnx(network, example, path, metadata=words(facts))
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (node,) = session.get_inputs()
        batches = [example] if node.shape[0] == 1 else [example, torch.cat([example, example.flip(-1), -example])]
        differences = []
        for batch in batches:
            (got,) = session.run(None, {node.name: batch.cpu().numpy()})
            differences.append(distance(torch.from_numpy(got), output(network, batch), path, self.tolerance))
        return {"onnx_difference": max(differences)}
