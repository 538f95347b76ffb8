"""Models of what evaluating gives: Gaussian processes and others, compared by what they say of rows left out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import kendalltau

from ofa.arrays import FloatArray, IntArray
from ofa.search.engines import global_generators

_FITTED = 320  # rows that a process' settings are fitted to; all rows are learned from
_GROWTH = 1.25  # as much more rows, and settings are fitted again
_FOLDED = 1.6  # as much more rows, and trees are compared with the others again
_JITTER = 1e-6


@dataclass(frozen=True)
class Rows:
    """What is learned from: features (rows, features) and their groups (features,), targets and variances (rows,).

    Targets have mean 0 and deviation 1; `noise` holds the variance that an evaluation reports of itself, or zeros.
    """

    features: FloatArray
    groups: IntArray
    targets: FloatArray
    noise: FloatArray

    def __len__(self) -> int:
        return len(self.targets)


class Fitted(ABC):
    """A model that has learned; `left_out`, (rows,), is what it says of each row if that row is not learned from."""

    left_out: FloatArray
    noise: float  # the deviation of a target around what is predicted that no network explains

    @abstractmethod
    def predict(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations of the target, without the noise of an evaluation, (population,) each."""

    def means(self, features: FloatArray) -> FloatArray:
        """The means alone, which cost less."""
        return self.predict(features)[0]


class Surrogate(ABC):
    """A way to learn; it keeps what it found between rounds, so each search has its own."""

    @abstractmethod
    def fit(self, rows: Rows) -> Fitted:
        """Learn from rows."""


class Posterior(Fitted):
    """A Gaussian posterior under any kernel: `within` are covariances of the rows, noise included."""

    def __init__(self, kernel: Kernel, rows: Rows) -> None:
        self.kernel, self.rows = kernel, rows
        within = kernel.covariance(rows.features, rows.features)
        noise = kernel.noise + rows.noise
        self.noise = float(np.sqrt(np.mean(noise)))
        self.inverse = np.linalg.inv(within + np.diag(noise + _JITTER))
        self.weights = self.inverse @ rows.targets
        self.left_out = rows.targets - self.weights / np.diag(self.inverse)

    def predict(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        across = self.kernel.covariance(features, self.rows.features)
        explained = np.einsum("ij,ij->i", across @ self.inverse, across)
        variance = np.maximum(self.kernel.variance(features) - explained, 1e-10)
        return across @ self.weights, np.sqrt(variance)

    def means(self, features: FloatArray) -> FloatArray:
        result: FloatArray = self.kernel.covariance(features, self.rows.features) @ self.weights
        return result


@dataclass(frozen=True)
class Kernel:
    """`linear` times a scalar product plus `smooth` times Matérn-5/2, of features scaled by `scales`; and `noise`."""

    scales: FloatArray  # (features,)
    linear: float
    smooth: float
    noise: float
    reach: float = 1.0  # the distance that counts as one

    def covariance(self, first: FloatArray, second: FloatArray) -> FloatArray:
        left, right = first * self.scales, second * self.scales
        product = left @ right.T
        result: FloatArray = self.linear * product
        if self.smooth:
            square = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * product
            distance = np.sqrt(5 * np.maximum(square, 0, out=square), out=square)
            distance /= self.reach
            smooth = self.smooth * (1 + distance + distance**2 / 3)
            smooth *= np.exp(np.negative(distance, out=distance), out=distance)
            result += smooth
        return result

    def variance(self, features: FloatArray) -> FloatArray:
        result: FloatArray = self.linear * ((features * self.scales) ** 2).sum(1) + self.smooth
        return result


class GaussianProcess(Surrogate):
    """A linear part, a smooth part (Matérn-5/2), and a scale for every choice, by the largest posterior density.

    Choices share what is usual of a scale, so that few rows are enough to begin with (Eriksson & Jankowiak, 2021).
    """

    def __init__(self) -> None:
        self._values: FloatArray | None = None
        self._fitted = 0

    def fit(self, rows: Rows) -> Fitted:
        groups = int(rows.groups.max()) + 1
        start = self._values
        if start is None:
            start = np.concatenate([np.full(groups, 0.0), [-1.0, -1.0, np.log(0.1), np.log(len(rows.features[0]))]])
        if len(rows) >= self._fitted * _GROWTH:
            start = self._maximised(rows, start)
            self._values, self._fitted = start, len(rows)
        return Posterior(self._kernel(rows, start), rows)

    def _kernel(self, rows: Rows, values: FloatArray) -> Kernel:
        weights, (linear, smooth, noise, reach) = values[:-4], np.exp(values[-4:])
        scales = np.exp(weights / 2)[rows.groups]
        return Kernel(scales, linear / scales.size, smooth, noise, float(np.sqrt(reach)))

    def _maximised(self, rows: Rows, start: FloatArray) -> FloatArray:
        chosen = slice(None) if len(rows) <= _FITTED else np.linspace(0, len(rows) - 1, _FITTED).astype(int)
        features, targets = rows.features[chosen], torch.from_numpy(rows.targets[chosen])
        noise = torch.from_numpy(rows.noise[chosen] + _JITTER)
        groups = range(int(rows.groups.max()) + 1)
        products = np.stack([(part := features[:, rows.groups == group]) @ part.T for group in groups])
        stacked = torch.from_numpy(products.reshape(len(products), -1))
        size, columns = len(targets), features.shape[1]

        def loss(values: FloatArray) -> tuple[float, FloatArray]:
            given = torch.tensor(values, requires_grad=True)
            density = _density(given, stacked, targets, noise, size, columns)
            density.backward()
            assert given.grad is not None
            return float(density.detach()), given.grad.numpy()

        bounds = [(-6.0, 4.0)] * len(groups) + [(-12.0, 6.0), (-12.0, 4.0), (-12.0, 2.0), (-2.0, 9.0)]
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 30})
        return np.asarray(found.x)


def _density(
    values: torch.Tensor, stacked: torch.Tensor, targets: torch.Tensor, noise: torch.Tensor, size: int, columns: int
) -> torch.Tensor:
    """The negative logarithm of the posterior density of settings, (groups + 4,), up to a constant."""
    weights, (linear, smooth, level, reach) = values[:-4], values[-4:].exp()
    product = (weights.exp() @ stacked).view(size, size)
    diagonal = product.diagonal()
    square = (diagonal[:, None] + diagonal[None] - 2 * product).clamp_min(1e-12)
    distance = (5 * square / reach).sqrt()
    matern = (1 + distance + distance**2 / 3) * (-distance).exp()
    covariance = linear / columns * product + smooth * matern + torch.diag(level + noise)
    factor = torch.linalg.cholesky(covariance)
    solved = torch.cholesky_solve(targets[:, None], factor)[:, 0]
    likelihood = 0.5 * targets @ solved + factor.diagonal().log().sum()
    prior = 0.5 * (weights**2).sum() + 0.02 * (values[-4:-1] + 1).square().sum()
    prior = prior + 0.1 * (values[-1] - np.log(columns)).square()
    result: torch.Tensor = likelihood + prior
    return result


@dataclass(frozen=True)
class Ridge(Surrogate):
    """A linear model, its penalty by the error on rows left out; `reach`es other than 0 make it kernel ridge."""

    penalties: Sequence[float] = tuple(np.geomspace(1e-3, 10, 9).tolist())
    reaches: Sequence[float] = (0.0,)

    def fit(self, rows: Rows) -> Fitted:
        scales = 1 / np.maximum(rows.features.std(axis=0), 0.05)
        found = [self._best(rows, scales, reach) for reach in self.reaches]
        return Posterior(min(found, key=lambda pair: pair[0])[1], rows)

    def _best(self, rows: Rows, scales: FloatArray, reach: float) -> tuple[float, Kernel]:
        """The smallest error on rows left out over the penalties, and its kernel: one decomposition for all."""
        columns = len(scales)
        share = 0.0 if reach else 1 / columns
        kernel = Kernel(scales, share, 1.0 if reach else 0.0, 0.0, reach * columns**0.5 or 1.0)
        values, vectors = np.linalg.eigh(kernel.covariance(rows.features, rows.features))
        turned, errors = vectors.T @ rows.targets, []
        for penalty in self.penalties:
            shrunk = 1 / (np.maximum(values, 0) + penalty + _JITTER)
            missed = (vectors @ (shrunk * turned)) / ((vectors**2) @ shrunk)
            errors.append((float(np.mean(missed**2)), penalty))
        error, penalty = min(errors)
        return error, replace(kernel, noise=penalty)


@dataclass
class Boosting(Surrogate):
    """Boosted trees; what is said of rows left out comes from five parts, and is kept while few rows are new."""

    trees: int = 80
    _known: FloatArray | None = field(default=None, init=False)

    def fit(self, rows: Rows) -> Fitted:
        left_out = self._known
        if left_out is None or len(rows) >= _FOLDED * len(left_out):
            self._known = left_out = self._folds(rows)
        return Trees(self._regressor, rows, left_out)

    def _folds(self, rows: Rows) -> FloatArray:
        part, result = np.arange(len(rows)) % 5, np.zeros(len(rows))
        for k in range(5):
            learned = self._regressor().fit(rows.features[part != k], rows.targets[part != k])
            result[part == k] = learned.predict(rows.features[part == k])
        return result

    def _regressor(self) -> Any:
        with global_generators(0):  # what it imports draws from them
            from sklearn.ensemble import GradientBoostingRegressor

        return GradientBoostingRegressor(
            n_estimators=self.trees, max_depth=3, subsample=0.8, max_features="sqrt", random_state=0
        )


class Trees(Fitted):
    """Boosted trees with one deviation everywhere, grown when they are first asked."""

    noise = 0.0

    def __init__(self, regressor: Callable[[], Any], rows: Rows, left_out: FloatArray) -> None:
        self._regressor, self._rows, self.left_out = regressor, rows, left_out
        self._deviation = float(np.std(left_out - rows.targets[: len(left_out)]))

    @cached_property
    def _grown(self) -> Any:
        return self._regressor().fit(self._rows.features, self._rows.targets)

    def predict(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self._grown.predict(features), np.full(len(features), self._deviation)


class Contest(Surrogate):
    """Several ways to learn; at every round, that one whose order of the rows left out is nearest to the true one.

    `winner` is its name, `order` its rank correlation (Kendall) on rows left out.
    """

    def __init__(self) -> None:
        smooth = Ridge(tuple(np.geomspace(1e-4, 0.3, 6).tolist()), (0.5, 1.0, 2.0, 4.0))
        self.ways: dict[str, Surrogate] = {
            "Gaussian process": GaussianProcess(),
            "kernel ridge": smooth,
            "ridge": Ridge(),
            "boosting": Boosting(),
        }
        self.winner, self.order = "", float("nan")

    def __str__(self) -> str:
        return f"{self.winner} (Kendall {self.order:.2f} left out)"

    def fit(self, rows: Rows) -> Fitted:
        fitted = {name: way.fit(rows) for name, way in self.ways.items()}
        known = min(len(model.left_out) for model in fitted.values())
        orders = {name: _order(model.left_out[:known], rows.targets[:known]) for name, model in fitted.items()}
        self.winner = max(orders, key=lambda name: orders[name])
        self.order = orders[self.winner]
        return fitted[self.winner]


def _order(said: FloatArray, true: FloatArray) -> float:
    """Kendall's rank correlation, 0 where nothing differs."""
    found = float(kendalltau(said, true)[0])
    return found if np.isfinite(found) else 0.0
