"""Latency predicted from costs by non-negative least squares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa.search.objectives import Floats
from ofa.search.problem import Costs
from ofa.space import Genome

Features = Mapping[str, npt.ArrayLike]


@dataclass(frozen=True)
class HeldOut:
    """Mean absolute error on networks left out of the fit, in per cent, beside a line on MACs alone."""

    percent: float
    macs_only_percent: float
    networks: int

    def __str__(self) -> str:
        return (
            f"held-out error on {self.networks} networks: {self.percent:.1f} % "
            f"(MACs alone: {self.macs_only_percent:.1f} %)"
        )


@dataclass(frozen=True)
class LatencyPredictor:
    """Milliseconds per unit of each feature, none negative, plus a constant.

    >>> features = {"macs_conv": np.array([1e6, 2e6, 3e6, 4e6])}
    >>> predictor = LatencyPredictor.fit(features, [1.5, 2.5, 3.5, 4.5])
    >>> predictor.predict({"macs_conv": [8e6]}).round(3).tolist()
    [8.5]
    """

    coefficients: Mapping[str, float]
    intercept_ms: float
    held_out: HeldOut | None = None

    @classmethod
    def fit(cls, features: Features, latency_ms: npt.ArrayLike, folds: int = 5) -> LatencyPredictor:
        """Fit named features, each of shape (networks,), to measured latencies, by their relative error.

        A feature `macs` only serves the line to compare with when there are others; without it that line is
        on the sum of all features called `macs_…`. Fewer than three networks have no held-out error.

        Raises:
            ValueError: no features, unequal lengths, or a latency that is not positive.
        """
        names, columns, target = _table(features, latency_ms)
        parts = [name for name in names if name != "macs"] or names
        chosen = columns[:, [names.index(name) for name in parts]]
        weights = _solve(chosen, target)
        held_out = None
        if len(target) > 2:
            macs = _macs(names, columns)
            errors = [_held_out(table, target, folds) for table in (chosen, macs)]
            held_out = HeldOut(errors[0], errors[1], len(target))
        return cls(dict(zip(parts, weights[1:].tolist(), strict=True)), float(weights[0]), held_out)

    def predict(self, features: Features) -> Floats:
        """Latency in milliseconds, shape (networks,); features that were not fitted are ignored.

        Raises:
            ValueError: a fitted feature is missing.
        """
        missing = [name for name in self.coefficients if name not in features]
        if missing:
            raise ValueError(f"features {missing} were fitted and are missing among {sorted(features)}")
        terms = [slope * np.asarray(features[name], dtype=np.float64) for name, slope in self.coefficients.items()]
        return np.asarray(self.intercept_ms + np.sum(terms, axis=0))

    def attach(self, costs: Costs) -> Costs:
        """Costs that give the predicted `latency_ms` too; `costs` must give the fitted features."""

        def with_latency(genomes: Genome) -> Mapping[str, Floats]:
            known = costs(genomes)
            return {**known, "latency_ms": self.predict(known)}

        return with_latency

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> LatencyPredictor:
        """Read what `to_json` wrote; a ValueError if it is something else."""
        try:
            row = json.loads(text)
            held_out = None if row["held_out"] is None else HeldOut(**row["held_out"])
            coefficients = {str(name): float(slope) for name, slope in row["coefficients"].items()}
            return cls(coefficients, float(row["intercept_ms"]), held_out)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not a latency predictor: {text[:80]!r} ({error!r})") from None


def _table(features: Features, latency_ms: npt.ArrayLike) -> tuple[list[str], Floats, Floats]:
    """Names, features of shape (networks, features), and latencies of shape (networks,)."""
    target = np.asarray(latency_ms, dtype=np.float64)
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in features.items()}
    if target.ndim != 1 or not len(target) or not np.all(np.isfinite(target) & (target > 0)):
        raise ValueError(f"latencies are a row of positive milliseconds, got {latency_ms!r:.120}")
    uneven = [f"{name} {list(values.shape)}" for name, values in arrays.items() if values.shape != target.shape]
    if uneven or not arrays:
        raise ValueError(f"every feature needs one value for each of the {len(target)} latencies, got {uneven}")
    return list(arrays), np.stack(list(arrays.values()), axis=1), target


def _macs(names: Sequence[str], columns: Floats) -> Floats:
    """MACs alone, shape (networks, 1)."""
    kinds = ["macs"] if "macs" in names else [name for name in names if name.startswith("macs_")]
    total: Floats = columns[:, [names.index(name) for name in kinds]].sum(axis=1, keepdims=True)
    return total


def _relative(columns: Floats, target: Floats) -> Floats:
    """A constant and the features, as shares of the latencies, (networks, 1 + features): their sum is to be 1."""
    rows: Floats = np.column_stack([np.ones(len(target)), columns]) / target[:, None]
    return rows


def _model() -> Any:
    """Least squares without negative slopes, of columns that are brought to one scale."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    return make_pipeline(MaxAbsScaler(), LinearRegression(positive=True, fit_intercept=False))


def _solve(columns: Floats, target: Floats) -> Floats:
    """Constant and slopes, none negative, least squares of the relative error."""
    rows = _relative(columns, target)
    scaler, line = _model().fit(rows, np.ones(len(target)))
    return np.asarray(line.coef_ / scaler.scale_)


def _held_out(columns: Floats, target: Floats, folds: int) -> float:
    """Mean absolute relative error in per cent, every network predicted by a fit without its fold."""
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    fold = PredefinedSplit(np.arange(len(target)) % min(max(folds, 2), len(target)))
    rows = _relative(columns, target)
    return float(100 * np.abs(cross_val_predict(_model(), rows, np.ones(len(target)), cv=fold) - 1).mean())
