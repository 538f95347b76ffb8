"""The weights as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ofa.conf.program.exporters.exporter import Exporter, Facts, words
from ofa.export import save_weights
from ofa.slicing import Plan


@dataclass(frozen=True)
class Weights(Exporter):
    """All parameters and buffers; those that are tied are written once. The facts are its metadata."""

    name: ClassVar[str] = "weights"
    file: ClassVar[str] = "weights.safetensors"

    def write(self, network: nn.Module, example: Tensor, path: Path, plan: Plan, facts: Facts) -> Mapping[str, float]:
        from safetensors.torch import load_file

        save_weights(network, path, words(facts))
        state = network.state_dict()
        wrong = [name for name, tensor in load_file(path).items() if not torch.equal(tensor, state[name].cpu())]
        if wrong:
            raise ValueError(f"{path} holds other values of {', '.join(wrong)}")
        return {}
