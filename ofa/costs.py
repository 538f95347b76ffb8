"""Exact costs as formulas: MACs, parameters and activation traffic of a whole population without a forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ofa.depth import Stage, skipped_by
from ofa.groups import FIXED, Groups
from ofa.labels import IntArray
from ofa.tracing import Product, Trace

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Term = tuple[str, float, tuple[int, ...], tuple[tuple[int, int], ...]]
"""Name, constant, indices of the sizes that multiply it, (stage, position) of the blocks around it."""


@dataclass(frozen=True)
class Cost:
    """What one subnet costs: multiply–accumulates per sample (1 MAC = 2 FLOPs), parameters, and the activation bytes
    that are alive at once at most, per sample."""

    macs: int
    params: int
    peak_bytes: int


@dataclass(frozen=True)
class _Size:
    """The number of kept labels of one vector: `fixed` plus, for each group, a table over its number of units."""

    fixed: int
    tables: tuple[tuple[int, IntArray], ...]

    def evaluate(self, sizes: IntArray) -> FloatArray:
        total = np.full(len(sizes), self.fixed, dtype=np.float64)
        for group, table in self.tables:
            total += table[sizes[:, group]]
        return total


class CostModel:
    """Cost formulas of a network, evaluated for arrays of group sizes (population, groups) and depths."""

    def __init__(self, trace: Trace, groups: Groups, stages: Sequence[Stage], trainable: Mapping[str, int]) -> None:
        self.groups, self.stages = groups, tuple(stages)
        self._sizes: dict[bytes, int] = {}
        self._forms: list[_Size] = []
        self._terms: list[Term] = []
        for product in trace.macs:
            self._add(f"macs_{product.kind}", product, 1 / trace.batch)
            self._add("kernels", Product(1, (), "", product.module), 1)
        start = len(self._terms)
        for product in trace.bytes:
            self._add("bytes", product, 1 / trace.batch)
        self._buffers = self._terms[start:]
        modules, self._alive = trace.alive
        self._moments = [tuple(skipped_by(module, self.stages)) for module in modules]
        self._chains = list(chains(trace, self.stages))
        for name, size in trainable.items():
            vectors = tuple(v for v in trace.parameters[name] if v is not None)
            constant = size // math.prod(len(v) for v in vectors)
            self._add("params", Product(constant, vectors, "", name), 1)

    def _add(self, name: str, product: Product, scale: float) -> None:
        indices, constant = [], product.constant * scale
        for vector in product.vectors:
            form = self._form(vector)
            if form is None:
                constant *= len(vector)
            else:
                indices.append(form)
        self._terms.append((name, constant, tuple(indices), tuple(skipped_by(product.module, self.stages))))

    def _form(self, vector: IntArray) -> int | None:
        """Index of the vector's size formula, None where its size never changes."""
        group = self.groups.group_of[vector]
        touched = [g for g in np.unique(group).tolist() if g != FIXED]
        if not touched:
            return None
        key = vector.tobytes()
        if key not in self._sizes:
            tables = []
            for g in touched:
                per_rank = np.bincount(self.groups.rank_of[vector[group == g]], minlength=self.groups.groups[g].units)
                tables.append((g, np.concatenate([[0], np.cumsum(per_rank)])))
            self._sizes[key] = len(self._forms)
            self._forms.append(_Size(int((group == FIXED).sum()), tuple(tables)))
        return self._sizes[key]

    def evaluate(self, sizes: IntArray, depths: IntArray) -> dict[str, FloatArray]:
        """Costs of subnets: `sizes` (population, groups) units kept, `depths` (population, stages) blocks that run.

        Keys: macs, params, peak_bytes and bytes (of activations: alive at once, and written; per sample), kernels
        (contractions), and MACs by kind.
        """
        forms = [form.evaluate(sizes) for form in self._forms]
        totals: dict[str, FloatArray] = {}
        for name, *_ in self._terms:
            totals.setdefault(name, np.zeros(len(sizes)))
        for term in self._terms:
            value = size_of(term, forms, len(sizes))
            for stage, position in term[3]:
                value = value * (depths[:, stage] > position)
            totals[term[0]] += value
        zero = np.zeros(len(sizes))
        totals["macs"] = sum((v for name, v in totals.items() if name.startswith("macs_")), zero)
        totals.setdefault("params", zero)
        totals["peak_bytes"] = self._peak_bytes(forms, depths, len(sizes))
        return totals

    def _peak_bytes(self, forms: Sequence[FloatArray], depths: IntArray, population: int) -> FloatArray:
        """The most activation bytes alive at once in an inference pass, per sample: inputs and every allocated output.

        While a block is skipped its moments do not count, and its output is its input.
        """
        peak = np.zeros(population)
        if not self._buffers:
            return peak
        buffers = np.stack([size_of(term, forms, population) for term in self._buffers])  # (buffers, population)
        for row, blocks in zip(self._alive, self._moments, strict=True):
            total = buffers[row].sum(axis=0)
            for stage, position in blocks:
                total = total * (depths[:, stage] > position)
            for stage, chain in self._chains:
                total = total - self._counted_twice(buffers, row, chain, depths[:, stage])
            np.maximum(peak, total, out=peak)
        return peak

    @staticmethod
    def _counted_twice(buffers: FloatArray, row: BoolArray, chain: IntArray, depths: IntArray) -> FloatArray | float:
        """Bytes of a stage's buffers alive at a moment that are one: all after the last block that runs."""
        alive = row[chain]
        if alive.sum() < 2:
            return 0.0
        result = np.zeros(len(depths))
        for depth in range(len(chain) - 1):
            shared = chain[depth:][alive[depth:]]
            if len(shared) > 1:
                mine = depths == depth
                result[mine] = buffers[shared][:, mine].sum(axis=0) - buffers[chain[depth], mine]
        return result


def chains(trace: Trace, stages: Sequence[Stage]) -> Iterator[tuple[int, IntArray]]:
    """Of every stage, the buffers of its input and of each block's output, where they are known and not shared."""
    calls = {call.module: call.buffers for call in trace.calls}
    for s, stage in enumerate(stages):
        found = [calls[stage.blocks[0]][0], *(calls[block][1] for block in stage.blocks)]
        chain = [index for index in found if index is not None]
        if len(chain) == len(set(chain)) == len(found):
            yield s, np.array(chain)


def size_of(term: Term, forms: Sequence[FloatArray], population: int) -> FloatArray:
    """A term's value for each member of a population, as if no block were skipped."""
    value = np.full(population, term[1], dtype=np.float64)
    for index in term[2]:
        value *= forms[index]
    return value
