"""What a conversion found: for every layer its choices, or the reason why it stays as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ofa.choices import space_of
from ofa.choices import Offer, space_of
from ofa.depth import Stage, skipped_by
from ofa.groups import Groups


@dataclass(frozen=True)
class Layer:
    """One module with parameters of its own."""

    name: str
    type: str
    params: int
    choices: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Report:
    """Every layer of a supernet: elastic, or frozen and why; `error` is the proof's largest relative difference."""

    layers: tuple[Layer, ...]
    choices: int
    space_size: int
    error: float

    @property
    def elastic_share(self) -> float:
        """Share of the parameters that lie in a layer with at least one choice."""
        total = sum(layer.params for layer in self.layers)
        return sum(layer.params for layer in self.layers if layer.choices) / total if total else 0.0

    @property
    def summary(self) -> str:
        share = f"{self.elastic_share:.0%} of the parameters elastic"
        return f"{self.choices} choices, {self.space_size:.3g} subnets, {share}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def table(self) -> Any:
        """A rich table: one row a layer."""
        from rich.table import Table

        table = Table("layer", "type", "params", "elastic in", "frozen because", title=self.summary)
        for layer in self.layers:
            table.add_row(layer.name, layer.type, f"{layer.params:,}", ", ".join(layer.choices), layer.reason)
        return table

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=160)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()


def make_report(
    model: nn.Module, offers: Sequence[Offer], groups: Groups, stages: Sequence[Stage], error: float
) -> Report:
    space = space_of(offers)
    names = {choice.name for choice in space.choices}
    decides = {g: offer.choice.name for offer in offers for g in offer.sizes}
    owned: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    for g, group in enumerate(groups.groups):
        for member, _, _ in group.members:
            module = member.rpartition(".")[0]
            if g in decides:
                owned.setdefault(module, []).append(decides[g])
            elif group.name in groups.reasons:
                failed.setdefault(module, groups.reasons[group.name])
    layers = []
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own:
            choices = dict.fromkeys(owned.get(name, []))
            choices.update({stages[s].name: None for s, _ in skipped_by(name, stages) if stages[s].name in names})
            prefix = f"{name}." if name else ""
            reason = next((groups.reasons[prefix + p] for p in own if prefix + p in groups.reasons), "")
            reason = failed.get(name, reason or "no option fits") if not choices else ""
            size = sum(p.numel() for p in own.values())
            layers.append(Layer(name, type(module).__name__, size, tuple(choices), reason))
    return Report(tuple(layers), len(space), space.size, error)
