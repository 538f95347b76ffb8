"""What was predicted before it was evaluated, and how well: the honest errors of a model."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, spearmanr

from ofa.arrays import FloatArray
from ofa.search.engines import Ledger
from ofa.space import Genome

_BAND = 1.645  # deviations to each side that hold 90 % of a normal distribution
_LAST = 30  # forecasts that the figures are of


@dataclass(frozen=True)
class Forecast:
    """What was believed of an objective of a genome, (choices,), when it was asked for.

    `noise` is the deviation of an evaluation, as far as it was known.
    """

    genome: Genome
    objective: str
    expected: float
    deviation: float
    noise: float

    @property
    def band(self) -> tuple[float, float]:
        """What nine evaluations of ten should lie between."""
        half = _BAND * float(np.hypot(self.deviation, self.noise))
        return self.expected - half, self.expected + half


@dataclass(frozen=True)
class Figures:
    """Rank correlations, mean absolute error in per cent, and the share in per cent that the 90 % band held."""

    number: int
    kendall: float
    spearman: float
    mape: float
    held: float

    @classmethod
    def of(cls, forecasts: Sequence[Forecast], true: FloatArray) -> Figures:
        """From forecasts and what evaluating gave, (forecasts,)."""
        said = np.array([forecast.expected for forecast in forecasts])
        bands = np.array([forecast.band for forecast in forecasts]).reshape(-1, 2)
        varied = len(said) > 1 and np.ptp(said) > 0 and np.ptp(true) > 0
        tau, rho = (float(kendalltau(said, true)[0]), float(spearmanr(said, true)[0])) if varied else (np.nan, np.nan)
        error = 100 * float(np.mean(np.abs(said - true) / np.maximum(np.abs(true), 1e-12)))
        held = 100 * float(np.mean((bands[:, 0] <= true) & (true <= bands[:, 1])))
        return cls(len(said), tau, rho, error, held)

    def __str__(self) -> str:
        return (
            f"Kendall {self.kendall:.2f}, Spearman {self.spearman:.2f}, MAPE {self.mape:.2g} %,"
            f" {self.held:.0f} % in the 90 % band"
        )


class Forecasts:
    """The ledger of what was predicted before it was evaluated."""

    def __init__(self) -> None:
        self.made: list[Forecast] = []

    def told(self, ledger: Ledger, objective: str) -> tuple[list[Forecast], FloatArray]:
        """The forecasts of an objective that evaluations have answered, and the answers."""
        pairs = [(f, ledger.metrics(f.genome)) for f in self.made if f.objective == objective]
        known = [(f, metrics[objective]) for f, metrics in pairs if metrics and np.isfinite(metrics[objective])]
        return [f for f, _ in known], np.array([value for _, value in known])

    def figures(self, ledger: Ledger, objective: str, last: int = _LAST) -> Figures | None:
        """How good the last forecasts were, on networks that were not learned from then; None before there are two."""
        forecasts, true = self.told(ledger, objective)
        return Figures.of(forecasts[-last:], true[-last:]) if len(true) > 1 else None

    def save(self, ledger: Ledger, path: Path) -> Path:
        """One row a forecast, in the order in which they were made; what is not evaluated has no value."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["objective", "predicted", "deviation", "low", "high", "evaluated", "subnet"])
            for forecast in self.made:
                metrics = ledger.metrics(forecast.genome) or {}
                figures = (forecast.expected, forecast.deviation, *forecast.band)
                subnet = json.dumps(dict(ledger.problem.space.decode(forecast.genome)))
                value = metrics.get(forecast.objective, "")
                writer.writerow([forecast.objective, *(f"{f:.6g}" for f in figures), value, subnet])
        return path
