"""Pictures: a front, and curves of sensitivity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ofa.files import replacing
from ofa.search.objectives import CostObjective, Objective, found

Metrics = Mapping[str, float]
_TEXT, _LINE = "#343a40", "#ced4da"
_EVALUATED = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 3.5,
    "color": "#adb5bd",
    "alpha": 0.7,
    "mew": 0,
}
_FRONT = {"linewidth": 1.6, "marker": "o", "markersize": 5.5, "color": "#1769aa", "mec": "white", "mew": 0.8}
_TEACHER = {"linestyle": "none", "marker": "*", "markersize": 15, "color": "#d9480f", "mec": "white"}


def draw(
    path: Path,
    objectives: Sequence[Objective],
    front: Sequence[Metrics],
    evaluated: Sequence[Metrics],
    teacher: Sequence[Metrics],
    across: str | None = None,
    up: str | None = None,
) -> Path:
    """Write the metrics of a front over those of everything evaluated, with the teacher's as a star."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    x, y = _axes(objectives, across, up)
    layers = [
        ("evaluated", evaluated, _EVALUATED),
        ("front", front, _FRONT),
        ("teacher", teacher, _TEACHER),
    ]
    points = [_points(rows, x, y) for _, rows, _ in layers]
    (across_label, x_unit), (up_label, y_unit) = (
        axis(name, objectives, max((point[i] for layer in points for point in layer), default=1.0))
        for i, name in enumerate((x, y))
    )
    figure = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
    axes: Any = figure.add_subplot()
    for order, ((label, _, style), layer) in enumerate(zip(layers, points, strict=True)):
        if layer:
            places = [px / x_unit for px, _ in layer], [py / y_unit for _, py in layer]
            axes.plot(*places, label=label, zorder=2 + order, **style)
    _dress(axes, across_label, up_label)
    with replacing(path, binary=True) as file:
        figure.savefig(file, format=path.suffix.lstrip("."))
    return path


def axis(name: str, objectives: Sequence[Objective], largest: float) -> tuple[str, float]:
    """Label and divisor of an axis on which a figure reaches `largest`; its name, where it is no objective."""
    objective = found(name, objectives)
    return (name, 1.0) if objective is None else objective.axis(largest)


def _axes(objectives: Sequence[Objective], across: str | None, up: str | None) -> tuple[str, str]:
    """Names across and up: the first cost against the first other objective."""
    costs = [objective.name for objective in objectives if isinstance(objective, CostObjective)]
    x = across or next(iter(costs), "macs")
    y = up or next((objective.name for objective in objectives if objective.name != x), "accuracy")
    return x, y


def _points(rows: Sequence[Metrics], x: str, y: str) -> list[tuple[float, float]]:
    """Finite (x, y) of the rows that have both, from left to right."""
    points = [(row.get(x, math.nan), row.get(y, math.nan)) for row in rows]
    return sorted(point for point in points if all(map(math.isfinite, point)))


def _dress(axes: Any, across: str, up: str) -> None:
    axes.set_xlabel(across, color=_TEXT)
    axes.set_ylabel(up, color=_TEXT)
    axes.grid(color="#e9ecef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_TEXT, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="best", labelcolor=_TEXT)
    axes.margins(x=0.04, y=0.08)


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, most: int = 10) -> Path:
    """Write the damage of each choice over the share of it that is kept; the `most` sensitive ones are named.

    `rows` is what `SensitivitySearch.to_json` gives.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
    axes: Any = figure.add_subplot()
    worst = sorted(rows, key=lambda row: -max(point["damage"] for point in row["points"]))
    for i, row in enumerate(worst):
        shares = [100 * point["share"] for point in row["points"]]
        damages = [100 * point["damage"] for point in row["points"]]
        style: dict[str, Any] = (
            {"label": row["choice"], "linewidth": 1.6} if i < most else {"color": _LINE, "zorder": 1}
        )
        axes.plot(shares, damages, marker="o", markersize=3, **style)
    _dress(axes, "Units kept (%)", "Score lost (%)")
    with replacing(path, binary=True) as file:
        figure.savefig(file, format=path.suffix.lstrip("."))
    return path
