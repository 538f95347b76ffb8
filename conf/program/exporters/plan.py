"""The plan by which a backbone becomes the network, without being traced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from ofa.conf.program.exporters.exporter import Exporter, Facts
from ofa.files import write_text
from ofa.persistence import plan_from_json, plan_to_json
from ofa.slicing import Plan


@dataclass(frozen=True)
class PlanFile(Exporter):
    """What is left of each parameter, and the facts, as text; `ofa.slicing.reduced` makes a backbone that small."""

    name: ClassVar[str] = "plan"
    file: ClassVar[str] = "plan.json"

    def write(self, network: nn.Module, example: Tensor, path: Path, plan: Plan, facts: Facts) -> Mapping[str, float]:
        text = plan_to_json(plan, facts)
        write_text(path, text)
        if plan_to_json(plan_from_json(path.read_text()), facts) != text:
            raise ValueError(f"{path} holds another plan")
        return {}
