"""N:M patterns: of every block of weights along the input channels some are zero (Zhou et al., 2021)."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PART = 2**19  # values


@dataclass(frozen=True)
class Pattern:
    """Of every `block` consecutive weights along the input channels `zeros` are zero; written "2:4".

    A last block of fewer entries behaves as if zeros filled it up: the missing ones count as zero.

    >>> pattern = Pattern.parse("2:4")
    >>> pattern.mask(torch.tensor([[1.0, -4.0, 2.0, 3.0]])).tolist(), pattern.density
    ([[False, True, False, True]], 0.5)

    Raises:
        ValueError: none or all of a block are zero, or it has more than 256.
    """

    zeros: int
    block: int

    def __post_init__(self) -> None:
        if not 0 < self.zeros < self.block <= 256:
            raise ValueError(
                f"a block has 2 to 256 weights, of which at least one is zero and one is not,"
                f" got {self.zeros} zeros of {self.block}"
            )

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """The pattern that "zeros:block" says; None for "dense".

        Raises:
            ValueError: it says something else.
            TypeError: it is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f'a pattern is a text, such as "2:4" or "dense", got {text!r}')
        if text == "dense":
            return None
        found = re.fullmatch(r"(\d+):(\d+)", text)
        if found is None:
            raise ValueError(f"a pattern is zeros:block, such as 2:4, or dense; got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.zeros}:{self.block}"

    @property
    def density(self) -> float:
        """The share of the weights that stay."""
        return 1 - self.zeros / self.block

    def mask(
        self,
        values: Tensor,
        dim: int = 1,
        dtype: torch.dtype = torch.bool,
        *,
        spare_zeros: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        """Where values stay: in every block along `dim` the `zeros` smallest magnitudes go.

        Of equal magnitudes those of lower indices stay, on every device. Values are floating-point numbers, none of
        them NaN. In the values' own `dtype` a mask is ones and zeros; on a CPU that is several times faster to make and
        to multiply with than booleans. With `spare_zeros` a block whose largest magnitudes are some of its zeros keeps
        all of them, which is faster and, for values that are zero themselves, the same. `out` is written instead of a
        new tensor.

        Raises:
            TypeError: values that are no floating-point numbers.
        """
        if not values.is_floating_point():
            raise TypeError(f"values are floating-point numbers, got {values.dtype}")
        values, dim = values.detach(), dim % values.ndim
        other = 0 if dim else values.ndim - 1
        rows = values.shape[other]
        if _at_hand(values):  # many megabytes at once would leave the processor's cache with every operation
            rows = max(1, PART * rows // max(values.numel(), 1))
            rows -= rows % self.block if other == dim else 0  # of a vector whole blocks
        if rows >= values.shape[other] and out is None:
            return self._mask(values, dim, spare_zeros).to(dtype)
        result = torch.empty_like(values, dtype=dtype) if out is None else out
        for part, target in zip(values.split(rows, other), result.split(rows, other), strict=True):
            target.copy_(self._mask(part, dim, spare_zeros))
        return result

    def _mask(self, values: Tensor, dim: int, spare_zeros: bool) -> Tensor:
        kept = largest(self.blocks(values.abs(), dim, -math.inf), dim + 1, self.zeros, spare_zeros)
        return kept.flatten(dim, dim + 1).narrow(dim, 0, values.shape[dim])

    def fits(self, weight: Tensor, dim: int = 1) -> bool:
        """Whether every block along `dim` has at least `zeros` zeros."""
        dim %= weight.ndim
        nonzero = (self.blocks(weight, dim) != 0).sum(dim + 1)
        return bool((nonzero <= self.block - self.zeros).all())

    def blocks(self, tensor: Tensor, dim: int, fill: float = 0.0) -> Tensor:
        """(…, size, …) as (…, blocks, block, …), the last block filled up."""
        missing = -tensor.shape[dim] % self.block
        if missing:
            tensor = F.pad(tensor, (0, 0) * (tensor.ndim - 1 - dim) + (0, missing), value=fill)
        blocks: Tensor = tensor.unflatten(dim, (tensor.shape[dim] // self.block, self.block))
        return blocks


def largest(scores: Tensor, dim: int, zeros: int, spare_zeros: bool = False) -> Tensor:
    """Zeros, in the scores' dtype, for the `zeros` smallest along `dim`, of equals those of higher indices; else ones.

    The smallest of the others is a threshold. Where the next score is below it, that is all.
    """
    lower, threshold = order_statistics(scores, dim, zeros)
    if not _at_hand(scores):
        return admitted(scores, threshold, dim, zeros, spare_zeros)
    kept, tied = _ones(torch.ge, scores, threshold), _ones(torch.eq, lower, threshold)
    if spare_zeros:
        tied *= threshold > 0
    if tied.sum() > 0:
        where = tied.squeeze(dim) > 0
        some, limit = scores.movedim(dim, -1)[where], threshold.movedim(dim, -1)[where]
        kept.movedim(dim, -1)[where] = admitted(some, limit, 1, zeros)
    return kept


def admitted(scores: Tensor, threshold: Tensor, dim: int, zeros: int, spare_zeros: bool = False) -> Tensor:
    """Ones for the scores above the threshold, and for its equals from the first on, until just `zeros` are left."""
    above, equal = _ones(torch.gt, scores, threshold), _ones(torch.eq, scores, threshold)
    room = scores.shape[dim] - zeros - above.sum(dim, keepdim=True)
    if spare_zeros:
        room = torch.where(threshold > 0, room, scores.shape[dim])
    return above + equal * (equal.cumsum(dim) <= room)


def order_statistics(scores: Tensor, dim: int, rank: int) -> tuple[Tensor, Tensor]:
    """Along `dim` (kept, of size 1) the score at place `rank` of the ascending order, after the one before it.

    A sorting network over short rows is ten times faster than sorting them; an exported graph is better short.
    """
    if torch.compiler.is_compiling():
        top = scores.topk(scores.shape[dim] - rank + 1, dim).values
        return top.narrow(dim, top.shape[dim] - 1, 1), top.narrow(dim, top.shape[dim] - 2, 1)
    rows = list(scores.unbind(dim))
    for i, j, low, high in exchanges(len(rows), rank):
        a, b = rows[i], rows[j]
        rows[i] = torch.minimum(a, b) if low else a
        rows[j] = torch.maximum(a, b) if high else b
    return rows[rank - 1].unsqueeze(dim), rows[rank].unsqueeze(dim)


@functools.cache
def exchanges(size: int, rank: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Which of two rows becomes the smaller, the larger, and whether that matters for places `rank` - 1 and `rank`."""
    needed, steps = {rank - 1, rank}, []
    for i, j in reversed(merge_sort(size)):
        if i in needed or j in needed:
            steps.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(steps))


def merge_sort(size: int) -> list[tuple[int, int]]:
    """Batcher's odd-even merge sort (1968): the pairs of places to put in order one after the other."""
    powers = [1 << e for e in range((size - 1).bit_length())]
    return [
        (i, i + k)
        for p in powers
        for k in reversed(powers[: powers.index(p) + 1])
        for i in range(k % p, size - k)
        if (i - k % p) // k % 2 == 0 and i // (2 * p) == (i + k) // (2 * p)
    ]


def _at_hand(scores: Tensor) -> bool:
    """Whether a look at the values is cheap, and true of later ones: on a CPU, outside of tracing."""
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return scores.device.type == "cpu" and not tracing


def _ones(compare: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Ones where it holds, in the numbers' dtype: on a CPU written at once, four times as fast as through booleans."""
    return compare(a, b, out=torch.empty_like(a)) if _at_hand(a) else compare(a, b).to(a.dtype)
