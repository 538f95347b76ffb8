"""The picture of a front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.objectives import Objective, axis

if TYPE_CHECKING:
    from search.front import Front, Row

_FRONT, _TEACHER, _OTHERS, _TEXT = "#1769aa", "#d9480f", "#adb5bd", "#343a40"


def draw(front: Front, path: Path, across: str | None = None, up: str | None = None) -> Path:
    """Write the front over everything evaluated, with the teacher as a star."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    x, y = _axes(front.objectives, across, up)
    figure = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
    axes: Any = figure.add_subplot()
    shown = [*front.evaluated, *front.rows, *([] if front.teacher is None else [front.teacher])]
    labels = [axis(name, max((row.metrics.get(name, 0.0) for row in shown), default=1.0)) for name in (x, y)]
    scale = (labels[0][1], labels[1][1])
    others, rows = _points(front.evaluated, x, y, scale), _points(front.rows, x, y, scale)
    dots = {"linestyle": "none", "marker": "o"}
    axes.plot(
        *others,
        **dots,
        color=_OTHERS,
        markersize=3.5,
        alpha=0.7,
        markeredgewidth=0,
        label="evaluated",
        zorder=2,
    )
    line = {"color": _FRONT, "linewidth": 1.6, "marker": "o", "markersize": 5.5}
    axes.plot(*rows, **line, markeredgecolor="white", markeredgewidth=0.8, label="front", zorder=3)
    if front.teacher is not None:
        star = {
            "linestyle": "none",
            "marker": "*",
            "markersize": 15,
            "color": _TEACHER,
            "markeredgecolor": "white",
        }
        axes.plot(*_points([front.teacher], x, y, scale), **star, label="teacher", zorder=4)
    _dress(axes, labels[0][0], labels[1][0])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _axes(objectives: Sequence[Objective], across: str | None, up: str | None) -> tuple[str, str]:
    """Names across and up: the first cost against the first other objective."""
    costs = [objective.name for objective in objectives if objective.name in ("macs", "params", "latency_ms")]
    x = across or next(iter(costs), "macs")
    y = up or next((objective.name for objective in objectives if objective.name != x), "accuracy")
    return x, y


def _points(
    rows: Sequence[Row], x: str, y: str, scale: tuple[float, float]
) -> tuple[list[float], list[float]]:
    known = sorted(
        (row.metrics[x] / scale[0], row.metrics[y] / scale[1]) for row in rows if {x, y} <= set(row.metrics)
    )
    return [point[0] for point in known], [point[1] for point in known]


def _dress(axes: Any, across: str, up: str) -> None:
    axes.set_xlabel(across, color=_TEXT)
    axes.set_ylabel(up, color=_TEXT)
    axes.grid(color="#e9ecef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_TEXT, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#ced4da")
    axes.legend(frameon=False, loc="best", labelcolor=_TEXT)
    axes.margins(x=0.04, y=0.08)
