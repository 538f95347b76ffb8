"""A page that shows a front: figures where the mouse is, a network's choices where one clicks; nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ofa.files import write_text
from ofa.search.certainty import ends_of
from ofa.search.objectives import Floats, Objective, found
from ofa.search.picture import WIDE, axes_of, axis


class Row(Protocol):
    """What is shown of a network."""

    @property
    def name(self) -> str: ...

    @property
    def subnet(self) -> Mapping[str, Any] | None: ...

    @property
    def metrics(self) -> Mapping[str, float]: ...


Rows = Sequence[Row]
_STYLES: Mapping[str, dict[str, Any]] = {
    "evaluated": {"mode": "markers", "marker": {"color": "#adb5bd", "size": 6}},
    "front": {"mode": "lines+markers", "line": {"color": "#9ec5e8", "shape": "hv"}, "marker": {"size": 7}},
    "taken (test)": {"mode": "markers", "marker": {"color": "#1769aa", "size": 11}},
    "teacher": {"mode": "markers", "marker": {"color": "#d9480f", "size": 15, "symbol": "star"}},
}
_CLICK = """
const place = document.getElementById('{plot_id}');
const shown = document.createElement('pre');
shown.id = 'network';
shown.style = 'font-family: monospace; margin: 0 4em';
shown.textContent = 'Click a network to see all its figures and choices.';
place.after(shown);
place.on('plotly_click', click => { shown.textContent = click.points[0].customdata || shown.textContent; });
"""


def write_page(
    path: Path, objectives: Sequence[Objective], groups: Mapping[str, Rows], title: str, growth: Floats
) -> Path:
    """Write an HTML file that stands alone; `groups` are networks by the name of their style, drawn in that order.

    `growth` is the hypervolume after each evaluation, as a share.
    """
    from plotly.graph_objects import Scatter  # slow to import
    from plotly.subplots import make_subplots

    x, y = axes_of(objectives)
    groups = {name: [row for row in rows if {x, y} <= row.metrics.keys()] for name, rows in groups.items()}
    every = [row.metrics for rows in groups.values() for row in rows]
    (across, x_unit), (up, y_unit) = (axis(n, objectives, max((m[n] for m in every), default=1.0)) for n in (x, y))
    figure = make_subplots(rows=2, row_heights=[0.8, 0.2], vertical_spacing=0.14)
    for name, rows in groups.items():
        ends = [ends_of(row.metrics, y) or (row.metrics[y], row.metrics[y]) for row in rows]
        validation = groups["taken (test)"] and name in ("evaluated", "front")
        figure.add_trace(
            Scatter(
                name=f"{name} (validation)" if validation else name,
                x=[row.metrics[x] / x_unit for row in rows],
                y=[row.metrics[y] / y_unit for row in rows],
                error_y={
                    "type": "data",
                    "array": [(high - row.metrics[y]) / y_unit for row, (_, high) in zip(rows, ends, strict=True)],
                    "arrayminus": [(row.metrics[y] - low) / y_unit for row, (low, _) in zip(rows, ends, strict=True)],
                    "visible": any(low < high for low, high in ends),
                },
                text=[spoken(row, objectives) for row in rows],
                customdata=[detailed(row, objectives) for row in rows],
                hovertemplate="%{text}<extra></extra>",
                **_STYLES[name],
            ),
            row=1,
            col=1,
        )
    growing = {"x": list(range(1, len(growth) + 1)), "y": growth.tolist(), "line": {"color": "#1769aa", "shape": "hv"}}
    figure.add_trace(Scatter(**growing, showlegend=False, hoverinfo="x+y"), row=2, col=1)
    costs = [m[x] for m in every]
    wide = bool(costs) and min(costs) > 0 and max(costs) >= WIDE * min(costs)
    figure.update_layout(title=title, template="plotly_white", height=800)
    figure.update_xaxes(title=across, type="log" if wide else "linear", row=1)
    if wide:
        steps = [digit * 10.0**power for power in range(-12, 13) for digit in (1, 2, 5)]
        figure.update_xaxes(tickvals=steps, ticktext=[f"{step:g}" for step in steps], row=1)
    figure.update_yaxes(title=up, row=1)
    figure.update_xaxes(title="Evaluations", row=2)
    figure.update_yaxes(title="Hypervolume", range=[0, 1.05], row=2)
    write_text(path, figure.to_html(include_plotlyjs=True, post_script=_CLICK))
    return path


def spoken(row: Row, objectives: Sequence[Objective]) -> str:
    """A network's name and figures, as people write them, a line each.

    >>> from ofa.search.front import ScoredNetwork
    >>> spoken(ScoredNetwork("small", None, {"accuracy": 90.0, "macs": 1e6, "seconds": 0.5}), ())
    '<b>small</b><br>accuracy 90.00 %<br>macs 1.000 M'
    """
    known = [(o, row.metrics[name]) for name in row.metrics if (o := found(name, objectives)) is not None]
    lines = [f"{o.name} {o.written(value, ends_of(row.metrics, o.name))}" for o, value in known]
    return "<br>".join([f"<b>{row.name}</b>", *lines])


def detailed(row: Row, objectives: Sequence[Objective]) -> str:
    """The same, every other figure, and what was chosen.

    >>> from ofa import Subnet
    >>> from ofa.search.front import ScoredNetwork
    >>> print(detailed(ScoredNetwork("small", Subnet({"stem": 8}), {"accuracy": 90.0, "seconds": 0.5}), ()))
    small
      accuracy  90.00 %
      seconds   0.5
    choices
      stem  8
    """
    figures = {}
    for name, value in row.metrics.items():
        objective = found(name, objectives)
        figures[name] = f"{value:.4g}" if objective is None else objective.written(value)
    choices = {} if row.subnet is None else {name: json.dumps(value) for name, value in row.subnet.items()}
    return "\n".join([row.name, *aligned(figures), *(["choices"] if choices else []), *aligned(choices)])


def aligned(cells: Mapping[str, str]) -> list[str]:
    width = max(map(len, cells), default=0)
    return [f"  {name:{width}}  {cell}" for name, cell in cells.items()]
