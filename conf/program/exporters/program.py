"""A program of `torch.export`, which runs without the class's code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ofa.conf.program.exporters.exporter import Exporter, Facts, distance, output, words
from ofa.export import export_program
from ofa.slicing import Plan


@dataclass(frozen=True)
class Program(Exporter):
    """`torch.export.load(path).module()`; its output may differ by `tolerance`, relative to the largest.

    The facts are extra files in it.
    """

    name: ClassVar[str] = "program"
    file: ClassVar[str] = "model.pt2"
    tolerance: float = 1e-5

    def write(self, network: nn.Module, example: Tensor, path: Path, plan: Plan, facts: Facts) -> Mapping[str, float]:
        export_program(network, example, path, words(facts))
        distance(output(torch.export.load(path).module(), example), output(network, example), path, self.tolerance)
        return {}
