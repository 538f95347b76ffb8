"""Pictures: a front, and curves of sensitivity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ofa.files import replacing
from ofa.search.certainty import ends_of
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
_BEHIND = _FRONT | {"linewidth": 1.2, "markersize": 4.5, "color": "#9ec5e8"}
_TESTED = {"linestyle": "none", "marker": "o", "markersize": 6, "color": "#1769aa", "mec": "white", "mew": 0.8}
_TEACHER = {"linestyle": "none", "marker": "*", "markersize": 15, "color": "#d9480f", "mec": "white"}
_BAR = {"elinewidth": 1.1, "capsize": 2.5}
_LIMIT = {"color": "#868e96", "linewidth": 1.0, "linestyle": (0, (4, 3))}
Rows = Mapping[str, Metrics]


def draw(
    path: Path,
    objectives: Sequence[Objective],
    front: Rows,
    evaluated: Sequence[Metrics],
    teacher: Rows,
    tested: Rows,
    across: str | None = None,
    up: str | None = None,
    title: str = "",
    limits: Metrics | None = None,
) -> Path:
    """Write the metrics of a front, as a staircase, over those of everything evaluated, the teacher's as a star.

    `tested` rows, with figures of another split, stand before the front, which becomes lighter.
    """
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    x, y = _axes(objectives, across, up)
    behind = [*evaluated, *front.values()]
    every = [*behind, *teacher.values(), *tested.values()]
    labels = [
        axis(name, objectives, max((px[i] for px in _points(every, x, y)), default=1.0)) for i, name in _pair(x, y)
    ]
    units = {x: labels[0][1], y: labels[1][1]}
    figure = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
    axes: Any = figure.add_subplot()
    split = " (validation)" if tested else ""
    stairs = "steps-post" if front and {x, y} <= {o.name for o in objectives} else "default"
    for rows, label, style in (
        (evaluated, f"evaluated{split}", _EVALUATED),
        ([*front.values()], f"front{split}", (_BEHIND if tested else _FRONT) | {"drawstyle": stairs}),
    ):
        if points := _points(rows, x, y):
            axes.plot(*zip(*((px / units[x], py / units[y]) for px, py in points), strict=True), label=label, **style)
    for rows, label, style in ((tested, "taken (test)", _TESTED), (teacher, "teacher", _TEACHER)):
        _bars(axes, rows, (x, y), units, label, style)
    for name, row in tested.items():
        if points := _points([row], x, y):
            place = points[0][0] / units[x], points[0][1] / units[y]
            axes.annotate(
                name.removeprefix("subnet-"), place, (4, -9), textcoords="offset points", fontsize=6.5, color=_TEXT
            )
    if x in (limits or {}):
        axes.axvline((limits or {})[x] / units[x], label="budget", **_LIMIT)
    _dress(axes, labels[0][0], labels[1][0])
    axes.set_title(title, color=_TEXT, fontsize=10)
    with replacing(path, binary=True) as file:
        figure.savefig(file, format=path.suffix.lstrip("."))
    return path


def _pair(x: str, y: str) -> list[tuple[int, str]]:
    return [(0, x), (1, y)]


def _bars(axes: Any, rows: Rows, names: tuple[str, str], units: Metrics, label: str, style: Mapping[str, Any]) -> None:
    """Points with the intervals of what goes up."""
    x, y = names
    known = [row for row in rows.values() if _points([row], x, y)]
    if not known:
        return
    ends = [ends_of(row, y) or (row[y], row[y]) for row in known]
    bars = [[max(row[y] - low, 0) / units[y] for row, (low, _) in zip(known, ends, strict=True)]]
    bars += [[max(high - row[y], 0) / units[y] for row, (_, high) in zip(known, ends, strict=True)]]
    places = [row[x] / units[x] for row in known], [row[y] / units[y] for row in known]
    axes.errorbar(*places, yerr=bars, label=label, zorder=4, **_BAR, **style)


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
