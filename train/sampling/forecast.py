"""A forecast of subnets' losses, learned while they train: ridge regression on the options they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ofa import SearchSpace, Subnet

Floats = npt.NDArray[np.float64]


@dataclass
class LossForecast:
    """Least squares in which an epoch weighs `memory` times what the next one does; `ridge` keeps options near equal.

    Losses are taken relative to their mean in the epoch, since all fall together.

    >>> from ofa import Choice
    >>> space = SearchSpace((Choice("stem", "width", (8, 16)),))
    >>> forecast = LossForecast()
    >>> forecast.learn(space, [space.smallest, space.largest], [0.8, 0.4])
    >>> low, high = forecast(space, [space.largest, space.smallest])
    >>> bool(low < 0 < high)
    True

    Raises:
        ValueError: a ridge that is not above 0, or a memory outside (0, 1].
    """

    ridge: float = 1.0
    memory: float = 0.9
    seen: int = field(default=0, init=False)
    _squares: Floats = field(default_factory=lambda: np.zeros((0, 0)), repr=False)
    _products: Floats = field(default_factory=lambda: np.zeros(0), repr=False)

    def __post_init__(self) -> None:
        if self.ridge <= 0 or not 0 < self.memory <= 1:
            raise ValueError(f"ridge is above 0 and memory in (0, 1], got {self.ridge} and {self.memory}")

    def __call__(self, space: SearchSpace, subnets: Sequence[Subnet]) -> Floats:
        """The loss expected of each, relative to the mean; zeros before anything was learned."""
        rows = features(space, subnets)
        if not len(self._products):
            return np.zeros(len(rows))
        identity = np.eye(len(self._products))
        result: Floats = rows @ np.linalg.solve(self._squares + self.ridge * identity, self._products)
        return result

    def learn(self, space: SearchSpace, subnets: Sequence[Subnet], losses: Sequence[float]) -> None:
        """Take in the losses of one epoch; ones that are not finite teach nothing."""
        rows, values = features(space, subnets), np.array(losses, dtype=np.float64)
        self.seen += 1
        if not np.isfinite(values).all():
            return
        if not len(self._products):
            self._squares, self._products = np.zeros((rows.shape[1], rows.shape[1])), np.zeros(rows.shape[1])
        self._squares = self.memory * self._squares + rows.T @ rows
        self._products = self.memory * self._products + rows.T @ (values - values.mean())

    def state_dict(self) -> dict[str, Any]:
        squares, products = torch.from_numpy(self._squares), torch.from_numpy(self._products)
        return {"squares": squares, "products": products, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._squares, self._products = state["squares"].numpy().copy(), state["products"].numpy().copy()
        self.seen = int(state["seen"])


def features(space: SearchSpace, subnets: Sequence[Subnet]) -> Floats:
    """One-hot options of canonical genomes and a constant, shape (subnets, options + 1)."""
    genomes = space.canonical_genomes(np.stack([space.encode(subnet) for subnet in subnets]))
    columns = np.concatenate([[0], np.cumsum(space.counts)])
    rows = np.zeros((len(genomes), columns[-1] + 1))
    rows[np.arange(len(genomes))[:, None], columns[:-1] + genomes] = 1
    rows[:, -1] = 1
    return rows
