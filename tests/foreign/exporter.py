"""An exporter: the weights in half precision, and how far the network is from itself with them."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from ofa.conf.program.exporters import Exporter, Facts
from ofa.slicing import Plan


@dataclass(frozen=True)
class Half(Exporter):
    name, file = "half", "half.safetensors"

    def write(
        self, network: torch.nn.Module, example: torch.Tensor, path: Path, plan: Plan, facts: Facts
    ) -> dict[str, float]:
        rounded = copy.deepcopy(network).half()
        save_file(rounded.state_dict(), path)
        with torch.no_grad():
            return {"half_difference": float((rounded.float()(example) - network(example)).abs().max())}
