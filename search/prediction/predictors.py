"""Predictors: from features to milliseconds, each fitted by its relative error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from ofa.search.objectives import Floats

Features = Mapping[str, npt.ArrayLike]
"""Named features, each of shape (networks,)."""

CACHES = tuple(2.0**k for k in range(18, 26))  # bytes of weights beyond which some cache overflows
RIDGE = 0.03  # the variance of relative errors over that of a part's share of the time
FOLDS = 20  # up to so many networks each one is left out alone


@dataclass(frozen=True)
class Table:
    """Features of networks, (networks, features), under their names.

    >>> table = Table.of({"macs": [1e6, 2e6], "kernels": [3, 4]})
    >>> table.rows([1]).column("kernels").tolist(), table.column("macs_conv").tolist()
    ([4.0], [0.0, 0.0])
    """

    names: tuple[str, ...]
    values: Floats

    @classmethod
    def of(cls, features: Features) -> Table:
        """Features by name; of no network, or of unequally many, they are none.

        Raises:
            ValueError: they are no table.
        """
        arrays = {name: np.asarray(values, dtype=np.float64) for name, values in features.items()}
        shapes = {name: list(values.shape) for name, values in arrays.items()}
        if len({tuple(shape) for shape in shapes.values()}) != 1 or any(len(shape) != 1 for shape in shapes.values()):
            raise ValueError(f"features are arrays of one length, got {shapes or 'none'}")
        return cls(tuple(arrays), np.stack(list(arrays.values()), axis=1))

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, float]]) -> Table:
        """Features of one network a row; what a row lacks is 0."""
        names = tuple(dict.fromkeys(name for row in rows for name in row))
        return cls(names, np.array([[float(row.get(name, 0.0)) for name in names] for row in rows]))

    @property
    def features(self) -> dict[str, Floats]:
        """Each feature by its name, (networks,)."""
        return {name: self.values[:, i] for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, places: Sequence[int] | npt.NDArray[np.int64]) -> Table:
        """Some of the networks."""
        return Table(self.names, self.values[np.asarray(places, dtype=np.int64)])

    def column(self, name: str) -> Floats:
        """A feature, (networks,), zeros where there is none of this name."""
        return self.values[:, self.names.index(name)] if name in self.names else np.zeros(len(self))

    def columns(self, names: Sequence[str]) -> Floats:
        """Features, (networks, names)."""
        return np.stack([self.column(name) for name in names], axis=1)

    @cached_property
    def macs(self) -> Floats:
        """All MACs, (networks,): `macs`, or else the sum of all `macs_…`."""
        kinds = ["macs"] if "macs" in self.names else [n for n in self.names if n.startswith("macs_")]
        total: Floats = self.columns(kinds).sum(axis=1) if kinds else np.ones(len(self))
        return total

    @cached_property
    def logarithms(self) -> Floats:
        """log(1 + feature), (networks, features)."""
        return np.log1p(self.values)


Fitted = Callable[[Table], Floats]
"""Milliseconds, (networks,), of features."""


class Predictor(Protocol):
    """A way to predict: one method; `name` is what tables call it.

    >>> class Constant:
    ...     name = "constant"
    ...     def fit(self, table, latency_ms):
    ...         return lambda wanted: np.full(len(wanted), np.median(latency_ms))
    >>> Constant().fit(Table.of({"macs": [1e6, 2e6]}), np.array([1.0, 2.0]))(Table.of({"macs": [9e6]})).tolist()
    [1.5]
    """

    name: ClassVar[str]

    def fit(self, table: Table, latency_ms: Floats) -> Fitted:
        """What predicts, from measured networks; only relative errors matter."""


@dataclass(frozen=True)
class MacsLine:
    """Milliseconds per MAC and a constant: what every other predictor has to beat.

    >>> fitted = MacsLine().fit(Table.of({"macs": [1e6, 2e6]}), np.array([1.5, 2.5]))
    >>> fitted(Table.of({"macs": [8e6]})).round(3).tolist()
    [8.5]
    """

    name: ClassVar[str] = "macs"

    def fit(self, table: Table, latency_ms: Floats) -> Fitted:
        prices = solve(table.macs[:, None], latency_ms, 0.0)
        return lambda wanted: prices[0] + prices[1] * wanted.macs


@dataclass(frozen=True)
class Physical:
    """A price of each feature, none negative, and a constant: what a network does takes the sum of its parts' times.

    Bytes of weights have more prices, beyond the sizes of caches. Where few networks say little, `ridge` spreads the
    time over all parts that could have taken it.

    >>> table = Table.of({"macs_conv": [1e6, 2e6, 3e6, 1e6], "kernels": [10, 20, 10, 30]})
    >>> fitted = Physical(ridge=1e-9).fit(table, np.array([2.0, 4.0, 4.0, 4.0]))
    >>> fitted(Table.of({"macs_conv": [5e6], "kernels": [10]})).round(2).tolist()
    [6.0]
    """

    name: ClassVar[str] = "physical"
    ridge: float = RIDGE

    def fit(self, table: Table, latency_ms: Floats) -> Fitted:
        names = parts(table)
        prices = solve(design(table, names), latency_ms, self.ridge)
        return lambda wanted: prices[0] + design(wanted, names) @ prices[1:]


@dataclass(frozen=True)
class Gaussian:
    """The physical predictor times a Gaussian process of what it left, over the logarithms of the features.

    What is left is that of networks that the physical predictor had not seen. Length and height of the process are
    those of a small grid that leave the least error, each network left out in turn, which has a closed form.

    >>> table = Table.of({"macs": np.arange(1.0, 9.0)})
    >>> Gaussian().fit(table, 2 * np.arange(1.0, 9.0))(Table.of({"macs": [20.0]})).round(0).tolist()
    [40.0]
    """

    name: ClassVar[str] = "gaussian"

    def fit(self, table: Table, latency_ms: Floats) -> Fitted:
        base, rest = Physical().fit(table, latency_ms), residuals(Physical(), table, latency_ms)
        names, known = table.names, table.logarithms
        centre, scale = known.mean(axis=0), known.std(axis=0)
        used = scale > 1e-6 * np.maximum(np.abs(centre), 1.0)

        def place(wanted: Table) -> Floats:
            logs = np.log1p(wanted.columns(names))[:, used]
            return np.asarray((logs - centre[used]) / scale[used])

        length, weights = process(place(table), rest)
        points = place(table)
        return lambda wanted: base(wanted) * np.exp(matern(place(wanted), points, length) @ weights)


@dataclass(frozen=True)
class Boosted:
    """The physical predictor times boosted trees of what it left, over the features (scikit-learn's).

    >>> table = Table.of({"macs": np.arange(1.0, 9.0)})
    >>> Boosted().fit(table, 2 * np.arange(1.0, 9.0))(Table.of({"macs": [20.0]})).round(0).tolist()
    [40.0]
    """

    name: ClassVar[str] = "boosted"
    trees: int = 60

    def fit(self, table: Table, latency_ms: Floats) -> Fitted:
        from sklearn.ensemble import GradientBoostingRegressor

        settings = {"max_depth": 2, "learning_rate": 0.08, "subsample": 0.7, "random_state": 0}
        base, names = Physical().fit(table, latency_ms), table.names
        trees = GradientBoostingRegressor(n_estimators=self.trees, **settings)
        trees.fit(table.logarithms, residuals(Physical(), table, latency_ms))
        return lambda wanted: np.asarray(base(wanted) * np.exp(trees.predict(np.log1p(wanted.columns(names)))))


def parts(table: Table) -> tuple[str, ...]:
    """The features that a network's time is a sum over: all but the sum of others, where there are others."""
    return tuple(name for name in table.names if name != "macs") or table.names


def design(table: Table, names: Sequence[str]) -> Floats:
    """What has a price: features, and bytes of weights beyond each size of a cache, (networks, prices)."""
    over = np.maximum(table.column("weight_bytes")[:, None] - np.array(CACHES), 0.0)
    return np.concatenate([table.columns(names), over], axis=1)


def solve(columns: Floats, latency_ms: Floats, ridge: float, expected: Floats | None = None) -> Floats:
    """A constant and prices, none negative, (1 + columns,): least squares of the relative error.

    `ridge` draws what each column takes at most of a network's time to 0, or to what `expected` prices say.
    """
    rows = np.column_stack([np.ones(len(latency_ms)), columns]) / latency_ms[:, None]
    scale = np.where(rows.max(axis=0) > 0, rows.max(axis=0), 1.0)
    drawn = np.zeros(rows.shape[1]) if expected is None else expected * scale
    left = np.vstack([rows / scale, np.sqrt(ridge) * np.eye(rows.shape[1])])
    right = np.concatenate([np.ones(len(rows)), np.sqrt(ridge) * drawn])
    prices, _ = nnls(left, right, maxiter=100 * left.shape[1])
    return np.asarray(prices / scale)


def left_out(predictor: Predictor, table: Table, latency_ms: Floats) -> Floats:
    """The prediction for every network by a fit without it (or, of many, without its fold), (networks,)."""
    fold, result = np.arange(len(table)) % FOLDS, np.zeros(len(table))
    for one in np.unique(fold):
        rest, mine = np.flatnonzero(fold != one), np.flatnonzero(fold == one)
        result[mine] = predictor.fit(table.rows(rest), latency_ms[rest])(table.rows(mine))
    return np.maximum(result, 1e-3 * latency_ms)  # a prediction of 0 is wrong by all of it, not by more


def residuals(predictor: Predictor, table: Table, latency_ms: Floats) -> Floats:
    """log(measured / predicted) of every network by a fit without it, (networks,)."""
    return np.log(latency_ms / left_out(predictor, table, latency_ms))


def matern(one: Floats, other: Floats, length: float) -> Floats:
    """The Matérn 5/2 kernel, (one, other)."""
    distance = np.sqrt(np.maximum(((one[:, None] - other[None]) ** 2).sum(axis=2), 0.0)) * np.sqrt(5) / length
    kernel: Floats = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return kernel


def process(points: Floats, values: Floats) -> tuple[float, Floats]:
    """Length of the kernel, and the weights of the points, by the least error where each point is left out."""
    best: tuple[float, float, Floats] = (float(np.square(values).mean()), 1.0, np.zeros(len(values)))
    for length in np.sqrt(max(points.shape[1], 1)) * np.array([0.5, 1.0, 2.0, 4.0]):
        kernel = matern(points, points, length)
        for noise in (0.1, 0.3, 1.0, 3.0):
            inverse = np.linalg.inv(kernel + noise * np.eye(len(points)))
            weights = inverse @ values
            error = float(np.square(weights / np.diag(inverse)).mean())
            if error < best[0]:
                best = (error, float(length), weights)
    return best[1], best[2]
