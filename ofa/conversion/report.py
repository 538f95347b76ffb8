"""What a conversion found: every choice and its layers, and for every other layer the reason why it stays as it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ofa.arrays import FloatArray
from ofa.conversion.converter import Conversion
from ofa.conversion.proof import NOT_SHOWN
from ofa.groups import skipped_by


@dataclass(frozen=True)
class Layer:
    """One module with parameters of its own; `held` is why its output channels stay, where only its inputs change."""

    name: str
    type: str
    params: int
    choices: tuple[str, ...]
    reason: str
    held: str = ""


@dataclass(frozen=True)
class Elastic:
    """One choice: its options, the layers that follow it, and the importance (L1) of its weakest and strongest unit.

    `way` says how it was shown that the options are right (sliced = zeroed, permuted, sliced = extracted; inside the
    network, or not shown), `moved` by how much the output changes without what the smallest option removes, relative to
    its largest value: a comparison of what moves nothing could not fail.
    """

    name: str
    kind: str
    options: tuple[int | str, ...]
    layers: tuple[str, ...]
    importance: tuple[float, float] | None
    way: str = ""
    moved: float | None = None


@dataclass(frozen=True)
class Report:
    """Every choice and every layer of a supernet; `error` is the proof's largest relative difference.

    `ranges` are the (smallest, largest) subnet's costs by name: macs, params, peak_bytes. `notes` are faults of the
    engine's own that were met: rules of operators that failed, and froze what they touched.
    """

    elastic: tuple[Elastic, ...]
    layers: tuple[Layer, ...]
    space_size: int
    error: float
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...] = ()

    @property
    def elastic_share(self) -> float:
        """Share of the parameters that lie in a layer with at least one choice."""
        total = sum(layer.params for layer in self.layers)
        return sum(layer.params for layer in self.layers if layer.choices) / total if total else 0.0

    @property
    def summary(self) -> str:
        share = f"{self.elastic_share:.0%} of the parameters elastic"
        return f"{len(self.elastic)} choices, {self.space_size:.3g} subnets, {share}"

    @property
    def shown(self) -> str:
        """How many choices were shown in which way, and the least that one of them moves the output."""
        ways = Counter(row.way for row in self.elastic if row.way)
        if not ways:
            return "shown: nothing"
        least = min((row.moved for row in self.elastic if row.moved is not None and row.way != NOT_SHOWN), default=None)
        counts = ", ".join(
            f"{number} by {way}" if way != NOT_SHOWN else f"{number} {way}" for way, number in ways.items()
        )
        return f"shown: {counts}" + (f"; each moves the output by {least:.1g} of its range at least" if least else "")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, HTML or text, by the file's ending.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        writers = {".json": self.to_json, ".html": self._html, ".txt": self.__str__}
        if path.suffix not in writers:
            raise ValueError(f"a report is saved as {', '.join(writers)}, got {path.name}")
        path.write_text(writers[path.suffix](), encoding="utf-8")

    def tables(self) -> list[Any]:
        """Rich tables: the choices, and the layers without one."""
        from rich.table import Table

        costs = ", ".join(f"{name} {low:,.0f} to {high:,.0f}" for name, (low, high) in self.ranges.items())
        choices = Table(title="\n".join((self.summary, costs, self.shown, *self.notes)))
        choices.add_column("choice", no_wrap=True)
        for column in ("options", "layers", "moves"):
            choices.add_column(column, overflow="fold")
        for row in self.elastic:
            moved = "" if row.moved is None else f"{row.moved:.1g}"
            more = f" and {len(row.layers) - 2} more" if len(row.layers) > 2 else ""
            choices.add_row(
                row.name,
                ", ".join(map(str, row.options)),
                ", ".join(layer or "the network" for layer in row.layers[:2]) + more,
                moved,
            )
        frozen = Table("layer", "type", "params", "stays because", title="layers that stay as they are")
        for layer in self.layers:
            if not layer.choices:
                frozen.add_row(layer.name, layer.type, f"{layer.params:,}", layer.reason)
        return [choices, frozen] if frozen.rows else [choices]

    def __str__(self) -> str:
        text: str = self._rendered().export_text()
        return text

    def _html(self) -> str:
        html: str = self._rendered().export_html()
        return html

    def _rendered(self) -> Any:
        import io

        from rich.console import Console

        console = Console(width=160, record=True, file=io.StringIO())
        for table in self.tables():
            console.print(table)
        return console


def make_report(
    model: nn.Module, found: Conversion, scores: Sequence[FloatArray]
) -> tuple[tuple[Elastic, ...], tuple[Layer, ...]]:
    """The rows of a report: what is elastic, and every layer."""
    groups = found.groups
    decides = {g: offer.choice.name for offer in found.offers for g in offer.sizes}
    members = {g: tuple(dict.fromkeys(m[0].rpartition(".")[0] for m in groups.groups[g].members)) for g in decides}
    blocks = {stage.name: stage.blocks for stage in found.stages}
    rows = []
    for offer in found.offers:
        own = [offer.choice.name.removesuffix(".sparsity")] if offer.choice.kind == "sparsity" else []
        layers = [name for g in offer.sizes for name in members[g]] or own or blocks.get(offer.choice.name, ())
        values = [float(v) for g in offer.sizes for v in scores[g]] if offer.choice.kind == "width" else []
        spread = (min(values), max(values)) if values else None
        choice = offer.choice
        parts = [groups.groups[g].name for g in offer.sizes] or [choice.name]
        way = ", ".join(dict.fromkeys(found.ways[part] for part in parts if part in found.ways))
        moved = min((found.moved[part] for part in parts if part in found.moved), default=None)
        layers = tuple(dict.fromkeys(layers))
        rows.append(Elastic(choice.name, choice.kind, choice.options, layers, spread, way, moved))
    return tuple(rows), tuple(layer_rows(model, found, decides))


def layer_rows(model: nn.Module, found: Conversion, decides: Mapping[int, str]) -> list[Layer]:
    groups, names = found.groups, {offer.choice.name for offer in found.offers}
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
            others = [*(found.stages[s].name for s, _ in skipped_by(name, found.stages)), f"{name}.sparsity"]
            choices.update(dict.fromkeys(other for other in others if other in names))
            prefix = f"{name}." if name else ""
            reason = next((groups.reasons[prefix + p] for p in own if prefix + p in groups.reasons), "")
            reasons = [failed.get(name, reason), found.dense.get(name, "")]
            why = "" if choices else "; ".join(filter(None, reasons)) or "no option fits"
            size = sum(p.numel() for p in own.values())
            layers.append(Layer(name, type(module).__name__, size, tuple(choices), why, reason if choices else ""))
    return layers
