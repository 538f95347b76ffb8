"""ONNX, which runs in onnxruntime and many other places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from ofa.conf.program.exporters.exporter import Exporter, Facts, words
from ofa.export import export_onnx
from ofa.slicing import Plan

if TYPE_CHECKING:
    from ofa.onnx_files import OnnxSupernet  # imports onnx


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
        from ofa.onnx_files import difference

        self.export(network, example, path, words(facts))
        found = difference(path, network, example)
        if not found <= self.tolerance:
            raise ValueError(f"{path} differs from the network by {found:.1e}, above {self.tolerance:.1e}")
        return {"onnx_difference": found}

    def export(self, network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
        """The file, before it is checked."""
        export_onnx(network, example, path, metadata=metadata)

    def sliced(self, onnx: OnnxSupernet) -> Exporter:
        return Sliced(self.tolerance, onnx=onnx)


@dataclass(frozen=True)
class Sliced(Onnx):
    """The same, sliced from the graph of a supernet."""

    onnx: OnnxSupernet = field(kw_only=True)

    def export(self, network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
        self.onnx.export(network, example, path, metadata)
