"""What a conversion found: every choice and its layers, and for every dimension that stays the reason."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ofa.arrays import FloatArray
from ofa.conversion.converter import Conversion
from ofa.conversion.dimensions import Dimension, Reasons, dimensions_of, merged
from ofa.conversion.proof import NOT_SHOWN
from ofa.groups import skipped_by

MOST = 12  # options that are shown one by one


@dataclass(frozen=True)
class Layer:
    """One module with parameters of its own: the choices that change it, and each of its dimensions.

    A dimension that could be smaller is decided by choices, or stays for a reason; kernels of up to 3 are not among
    them. A choice of depth skips the layer's block as a whole.
    """

    name: str
    type: str
    params: int
    choices: tuple[str, ...]
    dimensions: tuple[Dimension, ...] = ()

    @property
    def staying(self) -> tuple[Dimension, ...]:
        """The dimensions that no choice decides."""
        return tuple(row for row in self.dimensions if not row.choices)

    @property
    def reason(self) -> str:
        """Why dimensions of it stay, each reason once; empty where none does."""
        return "; ".join(dict.fromkeys(row.reason for row in self.staying))

    def why(self, name: str = "outputs") -> str:
        """Why the dimension of a name stays; empty where it does not, or is none."""
        return next((row.reason for row in self.dimensions if row.name == name), "")

    def explained(self, others: Mapping[str, Elastic]) -> str:
        """Why this layer is as it is, in sentences."""
        sentences = [f"{self.name or 'The network itself'} is a {self.type} of {self.params:,} parameters."]
        for row in self.dimensions:
            if not row.choices:
                size = f" ({row.size})" if row.size else ""
                sentences.append(f"Its {row.name}{size}: they stay, {row.reason}.")
            for name in row.choices:
                sentences.append(f"Its {row.name} ({row.size}): {others[name].described(self.name)}.")
        decided = {name for row in self.dimensions for name in row.choices}
        sentences += [f"Besides, {others[c].described(self.name)}." for c in self.choices if c not in decided]
        return "\n".join(sentences)


@dataclass(frozen=True)
class Elastic:
    """One choice: its options, the layers that follow it, and the importance of its weakest and its strongest unit (the
    mean size of the weights that a unit owns, relative to the mean over all units of its group: about 1).

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

    @property
    def offered(self) -> str:
        """The options; of many the first and the last."""
        most = [*self.options[:3], "…", f"{self.options[-1]} ({len(self.options)} options)"]
        return ", ".join(map(str, self.options if len(self.options) <= MOST else most))

    def described(self, layer: str) -> str:
        """What the choice offers a layer, and what it was shown by, as part of a sentence."""
        options = self.offered
        if self.kind == "depth":
            return f"the choice {self.name} ({options} of its blocks run) can skip it"
        others = [name for name in self.layers if name != layer]
        along = f", with {', '.join(others[:3])}" + (f" and {len(others) - 3} more" if others[3:] else "")
        shown = f" (shown by {self.way}" + (f"; it moves the output by {self.moved:.1g})" if self.moved else ")")
        return f"the choice {self.name}: {options}{along if others else ''}{shown if self.way else ''}"


@dataclass(frozen=True)
class Report:
    """Every choice and every layer of a supernet; `error` is the proof's largest relative difference.

    `ranges` are the (smallest, largest) subnet's costs by name: macs, params, peak_bytes. `notes` are faults of the
    engine's own that were met: rules of operators that failed, and froze what they touched. `shares` of the parameters
    are elastic in all of their dimensions, in some, in none; kernels of up to 3 do not count as a dimension.

    >>> from ofa import Supernet
    >>> report = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4)).report
    >>> report.summary
    '1 choices, 2 subnets, 14% of the parameters elastic in all of their dimensions, 84% in some, 2% in none'
    >>> report.layers[1].why("outputs")
    "the network's output"
    """

    elastic: tuple[Elastic, ...]
    layers: tuple[Layer, ...]
    space_size: int
    error: float
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...] = ()
    shares: tuple[float, float, float] = (0.0, 0.0, 1.0)

    @property
    def elastic_share(self) -> float:
        """Share of the parameters that lie in a layer with at least one choice."""
        total = sum(layer.params for layer in self.layers)
        return sum(layer.params for layer in self.layers if layer.choices) / total if total else 0.0

    @property
    def summary(self) -> str:
        every, some, none = self.shares
        share = (
            f"{every:.0%} of the parameters elastic in all of their dimensions, {some:.0%} in some, {none:.0%} in none"
        )
        return f"{len(self.elastic)} choices, {self.space_size:.3g} subnets, {share}"

    def explain(self, name: str) -> str:
        """Why a layer is as it is: what decides each of its dimensions, or what fixed it.

        Raises:
            ValueError: no layer has this name; close ones are shown.
        """
        layers = {layer.name: layer for layer in self.layers}
        if name not in layers:
            inside = [other for other in layers if other.startswith(f"{name}.")]
            close = inside or difflib.get_close_matches(name, layers, n=5, cutoff=0.4) or list(layers)
            raise ValueError(f"no layer {name!r} with parameters of its own; there are {', '.join(close[:8])}")
        return layers[name].explained({row.name: row for row in self.elastic})

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
                row.offered,
                ", ".join(layer or "the network" for layer in row.layers[:2]) + more,
                moved,
            )
        staying = Table("layer", "type", "params", "dimension", "stays because", title="dimensions that stay")
        for layer in self.layers:
            for n, one in enumerate(layer.staying):
                own = ("", "", "") if n else (layer.name, layer.type, f"{layer.params:,}")
                staying.add_row(*own, f"{one.size or ''} {one.name}".strip(), one.reason)
        return [choices, staying] if staying.rows else [choices]

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


def elastic_rows(found: Conversion, scores: Sequence[FloatArray]) -> tuple[Elastic, ...]:
    """The rows of a report's choices; `scores` are the importances of the units of every group.

    >>> import numpy as np
    >>> from ofa import Supernet
    >>> found = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4)).conversion
    >>> [(row.name, row.offered, row.layers) for row in elastic_rows(found, [np.ones(16)])]
    [('0.width', '8, 16', ('0', '1'))]
    """
    groups, proved = found.groups, found.proved
    decides = {g for one in found.choices for g in one.sizes}
    members = {g: tuple(dict.fromkeys(m[0].rpartition(".")[0] for m in groups.groups[g].members)) for g in decides}
    blocks = {stage.name: stage.blocks for stage in found.stages}
    rows = []
    for one in found.choices:
        choice = one.choice
        own = [choice.name.removesuffix(".sparsity")] if choice.kind == "sparsity" else []
        layers = [name for g in one.sizes for name in members[g]] or own or blocks.get(choice.name, ())
        values = [float(v) for g in one.sizes for v in scores[g]] if choice.kind == "width" else []
        spread = (min(values), max(values)) if values else None
        parts = [groups.groups[g].name for g in one.sizes] or [choice.name]
        way = ", ".join(dict.fromkeys(proved.ways[part] for part in parts if part in proved.ways))
        moved = min((proved.moved[part] for part in parts if part in proved.moved), default=None)
        rows.append(Elastic(choice.name, choice.kind, choice.options, tuple(dict.fromkeys(layers)), spread, way, moved))
    return tuple(rows)


def layer_rows(model: nn.Module, found: Conversion) -> tuple[tuple[Layer, ...], tuple[float, float, float]]:
    """Every layer with its dimensions, and the shares of the parameters with all, some, none of theirs elastic.

    >>> from ofa import Supernet
    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4))
    >>> layers, shares = layer_rows(supernet.model, supernet.conversion)
    >>> [(layer.name, layer.type, layer.choices) for layer in layers]
    [('0', 'Linear', ('0.width',)), ('1', 'Linear', ('0.width',))]
    """
    reasons, names = Reasons(found), {one.choice.name for one in found.choices}
    layers, sums = [], [0, 0, 0]
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own:
            rows = list(dimensions_of(name, module, reasons))
            for local, parameter in own.items():
                open_ = [bool(row.choices) for full, row in rows if full == (f"{name}.{local}" if name else local)]
                sums[0 if open_ and all(open_) else 1 if any(open_) else 2] += parameter.numel()
            choices = [c for _, row in rows for c in row.choices]
            choices += [found.stages[s].name for s, _ in skipped_by(name, found.stages)] + [f"{name}.sparsity"]
            kept = tuple(dict.fromkeys(choice for choice in choices if choice in names))
            dimensions = merged([row for _, row in rows])
            dense = (Dimension("pattern", 0, (), found.dense[name]),) if name in found.dense else ()
            size = sum(p.numel() for p in own.values())
            layers.append(Layer(name, type(module).__name__, size, kept, (*dimensions, *dense)))
    every, some, none = (number / max(1, sum(sums)) for number in sums)
    return tuple(layers), (every, some, none)
