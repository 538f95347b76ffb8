"""Children of subnets as the Vitis AI Optimizer's search makes them: mutants and crossovers."""

from __future__ import annotations

import numpy as np

from ofa import SearchSpace, Subnet
from ofa.search.vitis.settings import Settings


def mutant(settings: Settings, space: SearchSpace, parent: Subnet, prob: float, rng: np.random.Generator) -> Subnet:
    """A subnet in which each group of layers has, with this probability, another width and other kernels of `space`."""
    changed: dict[str, int | str] = {}
    for group in settings.groups:
        if rng.random() < prob:
            chosen = [choice.name for layer in group for choice in (layer.width, layer.kernel) if choice is not None]
            for name in dict.fromkeys(chosen):
                others = [option for option in space[name].options if option != parent[name]]
                changed[name] = others[rng.integers(len(others))] if others else parent[name]
    return parent.replace(**changed)


def crossover(first: Subnet, second: Subnet, p: float, rng: np.random.Generator) -> Subnet:
    """A subnet that has each width and each kernel of the first with this probability, else of the second."""
    return second.replace(**{name: option for name, option in first.items() if rng.random() < p})
