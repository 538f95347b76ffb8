"""The plan by which a backbone becomes the network, without being traced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from ofa.conf.program.exporters.exporter import Exporter
from ofa.files import write_text
from ofa.persistence import plan_from_json, plan_to_json
from ofa.slicing import Plan


@dataclass(frozen=True)
class PlanFile(Exporter):
    """What of each parameter is left, as text: `ofa.slicing.reduced` makes the network of the backbone by it."""

    name: ClassVar[str] = "plan"
    file: ClassVar[str] = "plan.json"

    def write(self, network: nn.Module, example: Tensor, path: Path, plan: Plan) -> Mapping[str, float]:
        text = plan_to_json(plan, {})
        write_text(path, text)
        if plan_to_json(plan_from_json(path.read_text()), {}) != text:
            raise ValueError(f"{path} holds another plan")
        return {}
