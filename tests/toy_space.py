"""A tabulated search problem whose whole front is known: five stages of a network that was never built."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np

from ofa import Choice, SearchSpace, Subnet
from ofa.search.front import Front, ScoredNetwork
from ofa.space import Genome

WIDTHS = (8, 16, 24, 32)
WEIGHTS = np.array([3.0, 1.0, 2.0, 0.5])  # what each width is worth
PRICES = np.array([1.0, 4.0, 2.0, 8.0])  # what it costs


def toy_space() -> SearchSpace:
    """Four widths, two kernels and a depth; the last width and kernel are of a block that may be skipped."""
    skipped = (("depth", 1),)
    return SearchSpace(
        (
            Choice("depth", "depth", (1, 2)),
            *(Choice(f"width{i}", "width", WIDTHS) for i in range(3)),
            Choice("width3", "width", WIDTHS, within=skipped),
            Choice("kernel0", "kernel", (3, 5, 7)),
            Choice("kernel1", "kernel", (3, 5, 7), within=skipped),
        )
    )


def wide_space(choices: int = 24) -> SearchSpace:
    """Far too many combinations to list."""
    return SearchSpace(tuple(Choice(f"width{i}", "width", WIDTHS) for i in range(choices)))


def wide_costs(genomes: Genome) -> dict[str, np.ndarray]:
    widths = 8.0 * (genomes + 1)
    return {"macs": 1e3 * (widths[:, 1:] * widths[:, :-1]).sum(axis=1), "params": widths.sum(axis=1) * 10}


def toy_costs(genomes: Genome) -> dict[str, np.ndarray]:
    runs = genomes[:, 0] == 1
    widths = 8.0 * (genomes[:, 1:5] + 1)
    kernels = 2.0 * genomes[:, 5:7] + 3
    block = np.where(runs, widths[:, 3] * kernels[:, 1] ** 2, 0.0)
    macs = 1e3 * (widths[:, :3] @ PRICES[:3] + PRICES[3] * block / 9 + 2 * kernels[:, 0] ** 2)
    return {"macs": macs, "params": widths[:, :3].sum(axis=1) * 50 + 20 * block + kernels[:, 0] ** 2}


def accuracy(subnet: Subnet) -> dict[str, float]:
    """Returns diminish with every width, and the kernels only help wide networks."""
    widths = np.array([subnet[f"width{i}"] for i in range(4)], dtype=float)
    worth = WEIGHTS * np.log(widths)
    worth[3] *= subnet["depth"] == 2
    kernels = 0.3 * np.log(subnet["kernel0"]) * np.log(widths[0]) + 0.2 * np.log(subnet["kernel1"]) * worth[3]
    return {"accuracy": float(60 + worth.sum() + kernels)}


@cache
def toy_rows() -> tuple[ScoredNetwork, ...]:
    """Every distinct subnet, evaluated."""
    space = toy_space()
    grid = np.array(list(itertools.product(*(range(n) for n in space.counts))))
    genomes = np.unique(space.canonical_genomes(grid), axis=0)
    costs = toy_costs(genomes)
    rows = []
    for i, genome in enumerate(genomes):
        subnet = space.decode(genome)
        metrics = accuracy(subnet) | {name: float(values[i]) for name, values in costs.items()}
        rows.append(ScoredNetwork(f"subnet-{i:04d}", subnet, metrics))
    return tuple(rows)


@cache
def toy_front() -> Front:
    return Front.of(toy_rows(), ["accuracy", "macs"])


REFERENCE = {"accuracy": 60.0, "macs": 1.8e6}
