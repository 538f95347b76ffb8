"""Weights with N:M zeros, packed: what is kept, and where."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ofa.conf.program.exporters.exporter import Exporter, Facts, words
from ofa.slicing import Plan
from ofa.sparsity import load_packed, save_packed


@dataclass(frozen=True)
class Packed(Exporter):
    """The weights without their zeros, of networks that have layers with a pattern. The facts are its metadata."""

    name: ClassVar[str] = "packed"
    file: ClassVar[str] = "packed.safetensors"

    def fits(self, plan: Plan) -> bool:
        return bool(plan.zeros)

    def write(self, network: nn.Module, example: Tensor, path: Path, plan: Plan, facts: Facts) -> Mapping[str, float]:
        save_packed(network, plan.patterns, path, words(facts))
        again = deepcopy(network)
        load_packed(again, path)
        state = again.state_dict()
        wrong = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, state[name])]
        if wrong:
            raise ValueError(f"{path} holds other values of {', '.join(wrong)}")
        return {}
