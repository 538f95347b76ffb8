"""The latency model: of several predictors the one that errs least on networks left out, with a band."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from ofa.costs import FEATURES_VERSION
from ofa.search.objectives import Floats
from ofa.search.prediction.predictors import (
    Boosted,
    Features,
    Fitted,
    Gaussian,
    MacsLine,
    Physical,
    Predictor,
    Table,
    left_out,
)
from ofa.search.problem import Costs
from ofa.space import Genome

PREDICTORS: tuple[Predictor, ...] = (Physical(), Gaussian(), Boosted(), MacsLine())
COVERED = 0.95
_PERCENTS = ("percent", "macs_only_percent", "noise_percent")
CLEARLY = 0.9  # times the error of a predictor before it: a few networks left out tell no smaller differences


@dataclass(frozen=True)
class HeldOut:
    """Mean absolute error on networks left out of the fit, in per cent, beside a line on MACs alone and the noise.

    The noise is how far a second measurement of a network is from its first; nan where nothing was measured twice.

    >>> print(HeldOut(percent=3.2, macs_only_percent=14.0, noise_percent=2.5, networks=24))
    held-out error on 24 networks: 3.2 % (MACs alone: 14.0 %, measured again: 2.5 %)
    """

    percent: float
    macs_only_percent: float
    noise_percent: float
    networks: int

    @classmethod
    def from_json(cls, row: Mapping[str, float | None]) -> HeldOut:
        """From plain values, none where a figure is not known."""
        percent, alone, noise = (math.nan if (x := row[name]) is None else float(x) for name in _PERCENTS)
        return cls(percent, alone, noise, int(row["networks"] or 0))

    def __str__(self) -> str:
        noise = "" if math.isnan(self.noise_percent) else f", measured again: {self.noise_percent:.1f} %"
        return (
            f"held-out error on {self.networks} networks: {self.percent:.1f} % "
            f"(MACs alone: {self.macs_only_percent:.1f} %{noise})"
        )


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds of networks from their features, with a band that holds 95 % of measurements.

    Every predictor predicts each measured network from the others. The first one is kept, unless another errs clearly
    less, or the line on MACs errs less at all. `band` is half the band, as a factor: 1.05 is 5 % up and down.

    >>> model = LatencyModel.fit({"macs": [1e6, 2e6, 3e6, 4e6, 5e6]}, [2.0, 3.0, 4.0, 5.0, 6.0])
    >>> model.predictor, model.predict({"macs": [8e6]}).round(1).tolist()
    ('macs', [9.0])
    """

    predictor: str
    held_out: HeldOut | None
    band: float
    table: Table
    latency_ms: Floats
    errors: Mapping[str, float]
    _fitted: Fitted = field(repr=False, compare=False)

    @classmethod
    def fit(
        cls,
        features: Features,
        latency_ms: npt.ArrayLike,
        noise_percent: float = math.nan,
        predictors: Sequence[Predictor] = PREDICTORS,
    ) -> LatencyModel:
        """Fit features, each (networks,), to measured latencies. Fewer than three networks have no held-out error.

        Raises:
            ValueError: no features, unequal lengths, or a latency that is not positive.
        """
        table, target = measured(features, latency_ms)
        if len(target) < 3:
            line = MacsLine()
            return cls(line.name, None, 2.0, table, target, {}, line.fit(table, target))
        found = {predictor.name: left_out(predictor, table, target) for predictor in predictors}
        errors = {name: float(100 * np.abs(values / target - 1).mean()) for name, values in found.items()}
        best, alone = chosen(predictors, errors), errors.get(MacsLine.name, math.nan)
        held_out = HeldOut(errors[best.name], alone, noise_percent, len(target))
        band = conformal(np.abs(np.log(target / found[best.name])))
        return cls(best.name, held_out, band, table, target, errors, best.fit(table, target))

    def predict(self, features: Features) -> Floats:
        """Milliseconds, (networks,); features that were not seen count nothing.

        Raises:
            ValueError: no features, or unequal lengths.
        """
        return np.maximum(self._fitted(Table.of(features)), 0.1 * float(self.latency_ms.min()))

    def interval(self, features: Features) -> tuple[Floats, Floats]:
        """Lower and upper end of the bands, (networks,) each."""
        middle = self.predict(features)
        return middle / self.band, middle * self.band

    def attach(self, costs: Costs, features: Callable[[Genome], Features], name: str = "latency_ms") -> Costs:
        """Costs that give the predicted latency too."""
        return lambda genomes: {**costs(genomes), name: self.predict(features(genomes))}

    def to_json(self) -> str:
        """What was measured, and which predictor was chosen: reading it fits that again."""
        held_out = None if self.held_out is None else {k: finite(v) for k, v in asdict(self.held_out).items()}
        columns = {name: self.table.column(name).tolist() for name in self.table.names}
        row = {
            "version": FEATURES_VERSION,
            "held_out": held_out,
            "predictor": self.predictor,
            "band": self.band,
            "errors": dict(self.errors),
        }
        return json.dumps({**row, "latency_ms": self.latency_ms.tolist(), "features": columns}, indent=1)

    @classmethod
    def from_json(cls, text: str, predictors: Sequence[Predictor] = PREDICTORS) -> LatencyModel:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            row = json.loads(text)
            if row.get("version") != FEATURES_VERSION:
                raise ValueError("fitted to features of another version: delete it, and measure again")
            table, target = measured(row["features"], row["latency_ms"])
            predictor = {one.name: one for one in predictors}[row["predictor"]]
            held = None if row["held_out"] is None else HeldOut.from_json(row["held_out"])
            errors = {str(name): float(value) for name, value in row["errors"].items()}
            fitted = predictor.fit(table, target)
            return cls(predictor.name, held, float(row["band"]), table, target, errors, fitted)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not a latency model: {text[:80]!r} ({error!r})") from None


def measured(features: Features, latency_ms: npt.ArrayLike) -> tuple[Table, Floats]:
    """Features and latencies of networks, checked."""
    table, target = Table.of(features), np.asarray(latency_ms, dtype=np.float64)
    if target.ndim != 1 or not len(target) or not np.all(np.isfinite(target) & (target > 0)):
        raise ValueError(f"latencies are a row of positive milliseconds, got {latency_ms!r:.120}")
    if len(table) != len(target) or not np.isfinite(table.values).all() or (table.values < 0).any():
        raise ValueError(f"every feature needs one value, 0 or more, for each of {len(target)} latencies")
    return table, target


def chosen(predictors: Sequence[Predictor], errors: Mapping[str, float]) -> Predictor:
    """The first predictor, or one that errs clearly less; the line on MACs, if it errs less than that."""
    best = predictors[0]
    for predictor in predictors[1:]:
        margin = 1.0 if predictor.name == MacsLine.name else CLEARLY
        best = predictor if errors[predictor.name] < margin * errors[best.name] else best
    return best


def conformal(residuals: Floats) -> float:
    """Half the band, as a factor, that holds the share `COVERED` of new networks, from |log(measured / predicted)|.

    Split-conformal: the residual of rank ⌈(n + 1) × share⌉. Few networks have no such rank; then, and where it is the
    wider one, Student's band of the same spread, for half as many free residuals as the fits share their networks.

    >>> round(conformal(np.full(40, 0.02)), 3)
    1.043
    """
    ordered, n = np.sort(residuals), len(residuals)
    rank = min(math.ceil((n + 1) * COVERED), n)
    spread = float(np.sqrt(np.square(ordered).mean()))
    normal = float(student.ppf((1 + COVERED) / 2, max(n / 2, 1))) * spread * math.sqrt(1 + 1 / n)
    return math.exp(max(float(ordered[rank - 1]), normal))


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
