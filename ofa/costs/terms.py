"""Exact costs as formulas: MACs, parameters and activation traffic of a whole population without a forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

from ofa.arrays import BoolArray, FloatArray, IntArray
from ofa.costs.sizes import Sizes
from ofa.groups import Groups, Stage, skipped_by
from ofa.sparsity import Pattern, SparseLayer, saved
from ofa.tracing import CostTerm, Trace

Key = TypeVar("Key")
Patterns = Mapping[str, Sequence[tuple[BoolArray, Pattern]]]
"""For a layer the patterns that it takes, each with the members of the population that it does in, (population,)."""


@dataclass(frozen=True)
class Cost:
    """What one subnet costs: multiply–accumulates per sample (1 MAC = 2 FLOPs; those with zeros in an N:M pattern do
    not count), parameters (zeros count), the activation bytes that are alive at once at most, per sample, and the bytes
    of the parameters, packed where they have a pattern. Bytes are those of the dtypes at the conversion; those of
    activations are an upper bound where one head of an attention is left, whose layouts need fewer copies.

    >>> from ofa import Supernet
    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4))
    >>> cost = supernet.cost(supernet.space.smallest)  # 4 → 8 → 2
    >>> cost.macs, cost.params, cost.weight_bytes
    (48, 58, 232)
    """

    macs: int
    params: int
    peak_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class _Term:
    """A product of sizes: `constant` times those at the indices `sizes`, while all `blocks` (stage, position) run."""

    name: str
    constant: float
    sizes: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...]
    owner: str


class CostModel:
    """Cost formulas of a network, evaluated for arrays of group sizes (population, groups) and depths."""

    def __init__(
        self,
        trace: Trace,
        groups: Groups,
        stages: Sequence[Stage],
        parameters: Mapping[str, Tensor],
        sparse: Mapping[str, SparseLayer],
    ) -> None:
        self.stages, self.sparse = tuple(stages), sparse
        self._sizes = Sizes(groups)
        self._terms: list[_Term] = []
        for product in trace.macs:
            for name in ("macs", f"macs_{product.kind}"):
                self._add(name, product, 1 / trace.batch)
            self._add("kernels", CostTerm(1, (), "", product.module), 1)
        for product in trace.bytes:
            self._add("bytes", product, 1 / trace.batch)
        modules, alive = trace.alive
        self._alive = alive.astype(np.float64)  # (moments, buffers)
        self._moments = _rows(tuple(skipped_by(module, self.stages)) for module in modules)
        self._shared = list(shared_buffers(trace, self.stages))
        for name, tensor in parameters.items():
            vectors = tuple(v for v in trace.parameters[name] if v is not None)
            constant = tensor.numel() // math.prod(len(v) for v in vectors)
            self._add("params", CostTerm(constant, vectors, "", name), 1)
            self._add("weight_bytes", CostTerm(constant, vectors, "", name), tensor.element_size())
        inputs = {name: trace.parameters[layer.weight][layer.dim] for name, layer in sparse.items()}
        self._channels = {name: None if v is None else self._sizes.add(v) for name, v in inputs.items()}
        self._elements = {name: parameters[layer.weight].element_size() for name, layer in sparse.items()}
        self._constants = np.array([term.constant for term in self._terms])
        most = max((len(term.sizes) for term in self._terms), default=0)
        padded = [term.sizes + (-1,) * (most - len(term.sizes)) for term in self._terms]  # the last size is one
        self._factors = np.array(padded, dtype=np.int64).reshape(len(padded), most).T  # (factors, terms)
        self._named = _rows((term.name,) for term in self._terms)
        self._owned = _rows(((term.name, term.owner),) for term in self._terms)
        self._blocks = _rows(term.blocks for term in self._terms)

    def _add(self, name: str, product: CostTerm, scale: float) -> None:
        indices, constant = [], product.constant * scale
        for vector in product.vectors:
            index = self._sizes.add(vector)
            if index is None:
                constant *= len(vector)
            else:
                indices.append(index)
        blocks = tuple(skipped_by(product.module, self.stages))
        self._terms.append(_Term(name, constant, tuple(indices), blocks, product.module))

    def evaluate(self, units: IntArray, depths: IntArray, patterns: Patterns) -> dict[str, FloatArray]:
        """Costs of subnets: `units` (population, groups) that are kept, `depths` (population, stages) blocks that run.

        Keys: macs, params, weight_bytes, peak_bytes and bytes (of activations: alive at once, and written; per sample),
        kernels (contractions), and MACs by kind, whose zeros count: they are what a dense runtime does.
        """
        sizes = self._sizes.evaluate(units)
        values = np.repeat(self._constants[:, None], len(units), axis=1)  # (terms, population)
        for factor in self._factors:
            values *= sizes[factor]
        peak = self._peak_bytes(values, depths)  # before those of skipped blocks are gone
        for (stage, position), rows in self._blocks.items():
            values[rows] *= depths[:, stage] > position
        for key, share in self._stays(sizes, patterns).items():
            values[self._owned[key]] *= share
        none = dict.fromkeys(("macs", "params", "weight_bytes"), np.zeros(len(units)))
        return none | {name: values[rows].sum(axis=0) for name, rows in self._named.items()} | {"peak_bytes": peak}

    def _stays(self, sizes: FloatArray, patterns: Patterns) -> dict[tuple[str, str], FloatArray]:
        """The share of each sparse layer's MACs, and of its weight's bytes, that the patterns leave, (population,)."""
        result: dict[tuple[str, str], FloatArray] = {}
        for name, rows in patterns.items():
            layer, index = self.sparse[name], self._channels[name]
            channels = layer.channels * sizes[-1] if index is None else sizes[index]
            macs, stored = np.ones_like(channels), np.ones_like(channels)
            for mine, pattern in rows:
                macs[mine], stored[mine] = saved(pattern, channels[mine], self._elements[name])
            result["macs", name], result["weight_bytes", layer.weight] = macs, stored
        return result

    def _peak_bytes(self, values: FloatArray, depths: IntArray) -> FloatArray:
        """The most activation bytes alive at once in an inference pass, per sample: inputs and every allocated output.

        While a block is skipped its moments do not count, and its output is its input.
        """
        if "bytes" not in self._named:
            return np.zeros(len(depths))
        buffers = values[self._named["bytes"]]  # (buffers, population)
        totals = self._alive @ buffers  # (moments, population)
        for (stage, position), moments in self._moments.items():
            totals[moments] *= depths[:, stage] > position
        for shared in self._shared:
            mine = np.flatnonzero(depths[:, shared.stage] == shared.depth)
            twice = shared.counts @ buffers[shared.chain][:, mine]
            totals[np.ix_(shared.moments, mine)] -= twice
        peak: FloatArray = totals.max(axis=0, initial=0)
        return peak


@dataclass(frozen=True)
class _Shared:
    """Buffers of a stage that are one while its blocks from `depth` on are skipped: all after the last that runs.

    `counts` (moments, chain) are the buffers of `chain` to subtract at the moments where several of them are alive.
    """

    stage: int
    depth: int
    chain: IntArray
    moments: IntArray
    counts: FloatArray


def shared_buffers(trace: Trace, stages: Sequence[Stage]) -> Iterator[_Shared]:
    """For every depth of every stage the buffers that are one, where those between its blocks are known."""
    calls, (_, alive) = {call.module: call.buffers for call in trace.calls}, trace.alive
    for s, stage in enumerate(stages):
        found = [calls[stage.blocks[0]][0], *(calls[block][1] for block in stage.blocks)]
        between = [index for index in found if index is not None]
        if len(between) == len(set(between)) == len(found):
            for depth in range(len(found) - 1):
                chain = np.array(between[depth:])
                moments = np.flatnonzero(alive[:, chain].sum(axis=1) > 1)
                counts = alive[np.ix_(moments, chain)].astype(np.float64)
                counts[:, 0] -= 1
                yield _Shared(s, depth, chain, moments, counts)


def _rows(keys: Iterable[Iterable[Key]]) -> dict[Key, IntArray]:
    """For every key the places of the rows that have it.

    >>> {key: places.tolist() for key, places in _rows([["macs"], ["macs", "bytes"]]).items()}
    {'macs': [0, 1], 'bytes': [1]}
    """
    found: dict[Key, list[int]] = {}
    for row, own in enumerate(keys):
        for key in own:
            found.setdefault(key, []).append(row)
    return {key: np.array(places) for key, places in found.items()}
