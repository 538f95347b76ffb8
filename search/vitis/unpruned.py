"""What earlier rounds of pruning left: channels that are not all zero, which alone are ranked and offered again."""

from __future__ import annotations

import math
from dataclasses import dataclass, is_dataclass

import numpy as np
import torch
from torch import Tensor

from ofa import SearchSpace, Supernet
from ofa.slicing import Measure, importance_of, importances, others

BELOW, TINY = 1e-6, 1e-12  # of the mean score; and where all are zero


@dataclass(frozen=True)
class Remaining:
    """An importance that is below all others where nothing is left: what an earlier round removed goes first.

    Raises:
        TypeError: the measure gives something else than scores, or not as many.
    """

    measure: str | Measure

    @property
    def name(self) -> str:
        """What it is called in a file."""
        measure = self.measure
        if isinstance(measure, str):
            return measure
        known = (name for name, kind in importances().items() if measure == kind())
        kind = measure if hasattr(measure, "__qualname__") else type(measure)
        own = repr(measure) if is_dataclass(measure) else kind.__qualname__
        return next(known, f"{kind.__module__}.{own}")

    @property
    def gradients(self) -> bool:
        """Whether a loss is run backward before."""
        return bool(getattr(importance_of(self.measure), "gradients", False))

    def __call__(self, parameter: Tensor, dim: int) -> Tensor | None:
        scores = importance_of(self.measure)(parameter, dim)
        if scores is None:
            return None
        if not isinstance(scores, Tensor) or scores.shape != (parameter.shape[dim],):
            got = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise TypeError(
                f"importance gives a tensor of one score for each of the {parameter.shape[dim]} indices along dimension"
                f" {dim} of a parameter of shape {tuple(parameter.shape)}, or None; {self.name} gave {got}"
            )
        kind = torch.promote_types(scores.dtype, torch.float32)
        return lowered(scores.to(parameter.device, kind), presence(parameter, dim) > 0)


def lowered(scores: Tensor, left: Tensor) -> Tensor:
    """Scores of at least zero where something is left, shifted where some are negative, and a bit below elsewhere."""
    if not left.any():
        return torch.zeros_like(scores)
    raised = torch.where(left, scores - scores[left].min().clamp(max=0), 0)
    return torch.where(left, raised, -(BELOW * raised.mean() + TINY))


def presence(parameter: Tensor, dim: int) -> Tensor:
    """The sum of magnitudes of each index: zero where nothing is left."""
    rest = others(parameter, dim)
    return parameter.abs().sum(rest) if rest else parameter.abs()


def remains(supernet: Supernet, space: SearchSpace) -> SearchSpace:
    """The part of a space without widths that hold more than all channels that are left.

    The active subnet of `supernet` is the largest, and its units are in order of importance.
    """
    kept = {}
    for name, units in supernet.importance(presence).items():
        options, whole = np.array(space[name].options), int(supernet.space[name].largest)
        enough = options >= math.ceil(float(np.mean(units > 0)) * whole - 1e-6)
        kept[name] = options[: int(np.argmax(enough)) + 1 if enough.any() else None].tolist()
    return space.restrict(kept)
