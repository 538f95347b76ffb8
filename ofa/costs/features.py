"""Features: what a latency follows from, exactly: MACs by kind, bytes moved, kernels, channels as runtimes pad them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ofa.arrays import FloatArray, IntArray
from ofa.costs.sizes import Sizes
from ofa.groups import Stage, skipped_by
from ofa.tracing import CostTerm, Trace, Work

VERSION = 2  # of what the features mean: latencies are predicted from features of one version
TILES = (4, 8, 16)  # channels that runtimes take at once
LEVELS = (4096, 1024, 256, 64, 16, 1)  # positions of a contraction, rounded down to one of these
CHANNELS = {"conv": 2, "pointwise": 2, "depthwise": 2, "grouped": 2, "linear": 2}  # sizes that are channels, the first

_WORDS = {  # what an operator other than a contraction is, by a part of its name: the first that fits
    "clipped": ("relu", "hardtanh", "clamp", "threshold"),
    "batched": ("batch_norm",),
    "turned": ("permute", "transpose"),
    "smooth": ("gelu", "silu", "sigmoid", "tanh", "exp", "hardswish", "mish", "elu", "softplus", "erf", "pow", "sqrt"),
    "normal": ("layer_norm", "group_norm", "rms_norm", "softmax", "var"),
    "summed": ("mean", "sum", "max", "pool", "norm"),
    "moved": ("copy", "clone", "cat", "pad", "index", "roll", "view", "strided", "upsample", "shuffle", "col", "stack"),
}
_PART = ("clipped", "batched", "turned")  # folded into others by runtimes, or a view in some of them


class _Product(NamedTuple):
    """A product of sizes, of which the first `padded` are channels, while all `blocks` (stage, position) run."""

    sizes: tuple[int, ...]
    padded: int
    blocks: tuple[tuple[int, int], ...]


class FeatureModel:
    """Features of subnets as formulas, or of one network, where there are no `sizes` that change.

    `macs` and those of each kind (`macs_conv`, `…_pointwise`, `…_depthwise`, `…_grouped`, `…_linear`, `…_matmul`) and
    size (`macs_at_256`: contractions of 256 to 1023 positions); `read_bytes` and `written_bytes` of contractions,
    `weight_bytes` of all operators, `…_bytes` written by the others (clipped, batched, turned, smooth, normal, summed,
    moved, plain); `kernels`: contractions, `operators`: the others, but for those that runtimes fold into them
    (clipped, batched) and views that they copy (turned); `taps_grouped`: MACs of grouped convolutions if their groups
    had one channel each. Where 4, 8 or 16 does not divide a number of channels above 1: `padding_8`, MACs added by
    filling it up; `macs_uneven_8` and `kernels_uneven_8`, the MACs and number of those contractions. All of one sample;
    zeros of N:M patterns count.

    >>> from ofa.tracing import trace
    >>> found = FeatureModel(trace(nn.Conv2d(3, 6, 3, padding=1), (torch.zeros(1, 3, 16, 16),), {})).network()
    >>> found["macs_conv"], found["padding_8"], found["kernels_uneven_8"]  # 16 × 16 × 9 × 3 × 6; 8 × 8 padded
    (41472.0, 105984.0, 1.0)
    """

    def __init__(self, trace: Trace, sizes: Sizes | None = None, stages: Sequence[Stage] = ()) -> None:
        self.sizes, self.stages, self.batch = sizes, stages, trace.batch
        self._places: dict[tuple[str, int], int] = {}  # elastic sizes by their index, fixed ones by what they are
        self._shares: dict[_Product, dict[str, float]] = {}  # of each product, how much it adds to which feature
        self._contractions: Counter[_Product] = Counter()
        for work in trace.work:
            self._add(work)
        products, shares = list(self._shares), self._shares.values()
        self.names = tuple(dict.fromkeys(name for share in shares for name in share))
        self._sums = np.array([[share.get(name, 0.0) for share in shares] for name in self.names])
        most = max((len(product.sizes) for product in products), default=0)
        filled = [product.sizes + (-1,) * (most - len(product.sizes)) for product in products]  # the last size is one
        self._factors = np.array(filled, dtype=np.int64).reshape(len(products), most).T
        self._tiled = np.flatnonzero([product.padded > 0 for product in products])
        self._channels = np.arange(most)[:, None] < np.array([products[row].padded for row in self._tiled])
        self._counts = np.array([self._contractions[products[row]] for row in self._tiled])
        self._blocks: dict[tuple[int, int], list[int]] = {}
        for row, product in enumerate(products):
            for block in product.blocks:
                self._blocks.setdefault(block, []).append(row)

    def _add(self, work: Work) -> None:
        """Note what an operator adds to the features."""
        once = CostTerm(self.batch, (), "", work.writes.module)
        for term in work.weights:
            self._note(("weight_bytes",), replace(term, constant=term.constant * self.batch))
        if not work.macs:
            kind = kind_of(work.kind)
            self._note((f"{kind}_bytes",), work.writes)
            if kind not in _PART:
                self._note(("operators",), once)
            return
        level = next(x for x in LEVELS if x <= max(1, work.positions // self.batch))
        for term in work.macs:
            size = (f"macs_at_{level}",) if term.kind in CHANNELS else ()  # attention has its own kind alone
            self._note(("macs", f"macs_{term.kind}", *size), term, CHANNELS.get(term.kind, 0))
            self._note(("kernels",), once)
            if term.kind == "grouped":  # groups of few channels do not fill a processor
                self._note(("taps_grouped",), replace(term, vectors=(term.vectors[0], *term.vectors[2:])))
        for term in work.reads:
            self._note(("read_bytes",), term)
        self._note(("written_bytes",), work.writes)

    def _note(self, names: tuple[str, ...], term: CostTerm, padded: int = 0) -> None:
        channels, others = term.vectors[:padded], term.vectors[padded:]
        elastic = [place for place in map(self._elastic, others) if place is not None]
        fixed = math.prod(len(vector) for vector in others if self._elastic(vector) is None)
        sizes = (*map(self._place, channels), *sorted(elastic))
        blocks = tuple(skipped_by(term.module, self.stages))
        product = _Product(sizes, len(channels), blocks)
        share = self._shares.setdefault(product, {})
        self._contractions[product] += 1
        for name in names:
            share[name] = share.get(name, 0.0) + term.constant * fixed / self.batch

    def _elastic(self, vector: IntArray) -> int | None:
        """Where the size of a vector stands in the table of them; None where it never changes."""
        index = None if self.sizes is None else self.sizes.add(vector)
        return None if index is None else self._places.setdefault(("elastic", index), len(self._places))

    def _place(self, vector: IntArray) -> int:
        """Where a size stands that may be fixed."""
        place = self._elastic(vector)
        return self._places.setdefault(("fixed", len(vector)), len(self._places)) if place is None else place

    def network(self) -> dict[str, float]:
        """The features of the network itself."""
        found = self.evaluate(np.zeros((1, 1), dtype=np.int64), np.zeros((1, 0), dtype=np.int64))
        return {name: float(values[0]) for name, values in found.items()}

    def evaluate(self, units: IntArray, depths: IntArray) -> dict[str, FloatArray]:
        """Features (population,) of subnets: `units` (population, groups) kept, `depths` (population, stages) run."""
        table = self._table(units)
        values = np.ones((len(self._shares), len(units)))
        for (stage, position), rows in self._blocks.items():
            values[rows] *= depths[:, stage] > position
        macs = values[self._tiled]
        for factor in self._factors:
            values *= table[factor]
        found = dict(zip(self.names, self._sums @ values, strict=True))
        return found | self._padding(table, macs, values[self._tiled])

    def _table(self, units: IntArray) -> FloatArray:
        """Every size, (sizes + 1, population), the last one 1."""
        elastic = None if self.sizes is None else self.sizes.evaluate(units)
        table = np.ones((len(self._places) + 1, len(units)))
        for (kind, number), place in self._places.items():
            table[place] = elastic[number] if kind == "elastic" and elastic is not None else number
        return table

    def _padding(self, table: FloatArray, runs: FloatArray, sizes: FloatArray) -> dict[str, FloatArray]:
        """What runtimes add, (population,), where tiles do not divide numbers of channels above 1."""
        shares = self._sums[self.names.index("macs"), self._tiled] if len(self._tiled) else np.zeros(0)
        factors, found = self._factors[:, self._tiled], {}
        for tile in TILES:
            filled, padded = np.where(table > 1, np.ceil(table / tile) * tile, table), runs.copy()
            for factor, channels in zip(factors, self._channels, strict=True):
                padded[channels] *= filled[factor[channels]]
                padded[~channels] *= table[factor[~channels]]
            uneven = ((filled != table)[factors] & self._channels[:, :, None]).any(axis=0)
            found[f"padding_{tile}"] = shares @ (padded - sizes)
            found[f"macs_uneven_{tile}"] = shares @ (sizes * uneven)
            found[f"kernels_uneven_{tile}"] = self._counts @ (runs * uneven)
        return found


def kind_of(operator: str) -> str:
    """What an operator other than a contraction is: a kind of `_WORDS`, else plain.

    >>> kind_of("hardswish_"), kind_of("relu_"), kind_of("native_batch_norm"), kind_of("add")
    ('smooth', 'clipped', 'batched', 'plain')
    """
    return next((kind for kind, parts in _WORDS.items() if any(part in operator for part in parts)), "plain")
