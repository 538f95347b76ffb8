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
_NAME = {"textcoords": "offset points", "fontsize": 6.5, "color": _TEXT, "rotation": 90, "ha": "center", "va": "bottom"}
WIDE = 8
"""Times that the largest cost is the smallest from which on costs are drawn by their logarithms."""
_LIMIT = {"color": "#868e96", "linewidth": 1.0, "linestyle": (0, (4, 3))}
Rows = Mapping[str, Metrics]


def draw(
    path: Path,
    objectives: Sequence[Objective],
    front: Sequence[Metrics],
    evaluated: Sequence[Metrics],
    teacher: Rows,
    tested: Rows,
    across: str | None = None,
    up: str | None = None,
    title: str = "",
    limits: Metrics | None = None,
) -> Path:
    """Write the metrics of a front, as a staircase, over those of everything evaluated, the teacher's as a star.

    `tested` rows, with figures of another split, stand before the front, which becomes lighter; they are named.
    """
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    x, y = axes_of(objectives, across, up)
    every = _points([*evaluated, *front, *teacher.values(), *tested.values()], x, y)
    (across_label, x_unit), (up_label, y_unit) = (
        axis(name, objectives, max((point[i] for point in every), default=1.0)) for i, name in enumerate((x, y))
    )
    figure = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
    axes: Any = figure.add_subplot()
    stairs = "steps-post" if {x, y} <= {objective.name for objective in objectives} else "default"
    line = (_BEHIND if tested else _FRONT) | {"drawstyle": stairs}
    for label, rows, style in ("evaluated", evaluated, _EVALUATED), ("front", front, line):
        if points := _points(rows, x, y):
            places = [px / x_unit for px, _ in points], [py / y_unit for _, py in points]
            axes.plot(*places, label=f"{label} (validation)" if tested else label, **style)
    for label, named, style in ("taken (test)", tested, _TESTED), ("teacher", teacher, _TEACHER):
        _bars(axes, named, (x, x_unit), (y, y_unit), label, style)
    for name, row in tested.items():
        for px, py in _points([row], x, y):
            top = (ends_of(row, y) or (py, py))[1]
            axes.annotate(name.removeprefix("subnet-"), (px / x_unit, top / y_unit), (0, 4), **_NAME)
    if limits and x in limits:
        axes.axvline(limits[x] / x_unit, label="budget", **_LIMIT)
    dress(axes, across_label, up_label)
    if every and every[0][0] > 0 and every[-1][0] >= WIDE * every[0][0]:
        by_logarithms(axes)
    axes.set_title(title, color=_TEXT, fontsize=10)
    with replacing(path, binary=True) as file:
        figure.savefig(file, format=path.suffix.lstrip("."))
    return path


def _bars(
    axes: Any, rows: Rows, across: tuple[str, float], up: tuple[str, float], label: str, style: Mapping[str, Any]
) -> None:
    """Points, with the intervals of what goes up; both axes by name and unit."""
    (x, x_unit), (y, y_unit) = across, up
    known = [row for row in rows.values() if _points([row], x, y)]
    if not known:
        return
    ends = [ends_of(row, y) or (row[y], row[y]) for row in known]
    below = [max(row[y] - low, 0) / y_unit for row, (low, _) in zip(known, ends, strict=True)]
    above = [max(high - row[y], 0) / y_unit for row, (_, high) in zip(known, ends, strict=True)]
    places = [row[x] / x_unit for row in known], [row[y] / y_unit for row in known]
    axes.errorbar(*places, yerr=(below, above), label=label, zorder=4, elinewidth=1.1, capsize=2.5, **style)


def axis(name: str, objectives: Sequence[Objective], largest: float) -> tuple[str, float]:
    """Label and divisor of an axis on which a figure reaches `largest`; its name, where it is no objective."""
    objective = found(name, objectives)
    return (name, 1.0) if objective is None else objective.axis(largest)


def axes_of(objectives: Sequence[Objective], across: str | None = None, up: str | None = None) -> tuple[str, str]:
    """Names across and up: the first cost against the first other objective."""
    costs = [objective.name for objective in objectives if isinstance(objective, CostObjective)]
    x = across or next(iter(costs), "macs")
    y = up or next((objective.name for objective in objectives if objective.name != x), "accuracy")
    return x, y


def _points(rows: Sequence[Metrics], x: str, y: str) -> list[tuple[float, float]]:
    """Finite (x, y) of the rows that have both, from left to right."""
    points = [(row.get(x, math.nan), row.get(y, math.nan)) for row in rows]
    return sorted(point for point in points if all(map(math.isfinite, point)))


def dress(axes: Any, across: str, up: str) -> None:
    axes.set_xlabel(across, color=_TEXT)
    axes.set_ylabel(up, color=_TEXT)
    axes.grid(color="#e9ecef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_TEXT, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="best", labelcolor=_TEXT)
    axes.margins(x=0.04, y=0.1)


def by_logarithms(axes: Any) -> None:
    """What goes across stands by its logarithm, with numbers as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, most: int = 10, noise: float = 0.0) -> Path:
    """Write the damage of each choice over the share of it that is kept; the `most` sensitive ones have colours.

    `rows` is what `Analysis.to_json` gives. The others are grey, and named beside, the most sensitive first. Damage up
    to `noise` may be none; a band shows it.
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
    if noise:
        axes.axhspan(0, 100 * noise, color="#f1f3f5", zorder=0, label="95 % interval of the whole network")
    dress(axes, "Units kept (%)", "Score lost (% of the whole network's)")
    if others := [row["choice"] for row in worst[most:]]:
        size = min(6.0, 280 / len(others))
        axes.text(1.02, 1.0, "\n".join(others), transform=axes.transAxes, va="top", fontsize=size, color=_TEXT)
    with replacing(path, binary=True) as file:
        figure.savefig(file, format=path.suffix.lstrip("."))
    return path
