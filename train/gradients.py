"""What each net of a step adds to the gradients: its norm, and how far two of them pull apart."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Gradients:
    """Watches gradients grow: every `note` measures what came since the one before, relative to `scale`."""

    def __init__(self, parameters: Iterable[nn.Parameter], scale: float = 1.0) -> None:
        self.norms: list[float] = []
        self.kept: list[list[Tensor]] = []
        self._parameters = list(parameters)
        self._scale = scale
        self._before = self._now()

    def note(self, keep: bool = False) -> None:
        """Take the norm of what was added; `keep` it for `cosine`."""
        now = self._now()
        added = [a - b for a, b in zip(now, self._before, strict=True)]
        self.norms.append(float(torch.nn.utils.get_total_norm(added)) / self._scale)
        self._before = now
        if keep:
            self.kept.append(added)

    def _now(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self._parameters]


def cosine(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    """The cosine between two gradients, each a list of tensors in one order; 0 where one of them is zero."""
    left, right = torch.cat([t.flatten() for t in a]), torch.cat([t.flatten() for t in b])
    return float(torch.nn.functional.cosine_similarity(left, right, dim=0))
