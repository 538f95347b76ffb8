"""Pictures: latencies predicted against measured, and the error over the number of measured networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NAMED = 5  # of the largest residuals
_POINTS: dict[str, Any] = {
    "fmt": "o",
    "markersize": 4,
    "color": "#1769aa",
    "ecolor": "#a5c8e4",
    "elinewidth": 1.2,
    "mec": "white",
    "mew": 0.5,
}
_GREY = "#868e96"


def draw_predictions(
    path: Path,
    measured_ms: npt.ArrayLike,
    predicted_ms: npt.ArrayLike,
    band: float,
    names: Sequence[str],
    title: str = "",
) -> Path:
    """Write measured over predicted latencies with their bands; the largest residuals are named.

    >>> from tempfile import mkdtemp
    >>> draw_predictions(Path(mkdtemp()) / "fit.png", [1.0, 2.1], [1.0, 2.0], 1.05, ["small", "large"]).exists()
    True
    """
    measured, predicted = (np.asarray(values, dtype=np.float64) for values in (measured_ms, predicted_ms))
    figure, axes = _figure()
    ends = np.array([min(measured.min(), predicted.min()), max(measured.max(), predicted.max())])
    axes.plot(ends, ends, color=_GREY, linewidth=1, zorder=1)
    around = np.stack([predicted - predicted / band, predicted * band - predicted])
    axes.errorbar(predicted, measured, xerr=around, zorder=2, **_POINTS)
    worst = np.argsort(-np.abs(np.log(measured / predicted)))[:NAMED]
    for i in worst.tolist():
        label = f"{names[i]} {100 * (measured[i] / predicted[i] - 1):+.0f} %"
        axes.annotate(label, (predicted[i], measured[i]), (4, -8), textcoords="offset points", fontsize=7, color=_GREY)
    axes.set(xscale="log", yscale="log", xlabel="predicted (ms), with its band", ylabel="measured (ms)", title=title)
    return _written(figure, path)


def draw_errors(path: Path, errors: Mapping[str, Mapping[int, float]], noise_percent: float, title: str = "") -> Path:
    """Write the error of each predictor over the number of measured networks, the noise floor as a line.

    >>> from tempfile import mkdtemp
    >>> errors = {"macs": {10: 9.0, 20: 8.0}, "physical": {10: 4.0, 20: 3.0}}
    >>> draw_errors(Path(mkdtemp()) / "errors.png", errors, noise_percent=2.0).exists()
    True
    """
    figure, axes = _figure()
    for name, by_number in errors.items():
        axes.plot(list(by_number), list(by_number.values()), marker="o", markersize=4, label=name)
    if np.isfinite(noise_percent):
        axes.axhline(noise_percent, color=_GREY, linestyle="--", linewidth=1, label="measured again")
    axes.set(xlabel="measured networks", ylabel="error on others (%)", title=title)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return _written(figure, path)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(6.4, 4.6), dpi=160, layout="constrained")
    axes: Any = figure.add_subplot()
    axes.grid(color="#e9ecef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _written(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
