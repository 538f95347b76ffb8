"""Exact costs as formulas: MACs, parameters and activation traffic of a whole population without a forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ofa.depth import Stage, skipped_by
from ofa.elastic_sparsity import SparseLayer, saved
from ofa.groups import FIXED, Groups
from ofa.labels import IntArray
from ofa.sparsity import Pattern
from ofa.tracing import Product, Trace

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Term = tuple[str, float, tuple[int, ...], tuple[tuple[int, int], ...], str]
"""Name, constant, indices of the sizes that multiply it, (stage, position) of the blocks around it, its owner."""
Patterns = Mapping[str, Sequence[tuple[BoolArray, Pattern]]]
"""For a layer the patterns that it takes, each with the members of the population that it does in, (population,)."""


@dataclass(frozen=True)
class Cost:
    """What one subnet costs: multiply–accumulates per sample (1 MAC = 2 FLOPs; those with zeros in an N:M pattern do
    not count), parameters (zeros count), the activation bytes that are alive at once at most, per sample, and the bytes
    of the parameters, packed where they have a pattern."""

    macs: int
    params: int
    peak_bytes: int
    weight_bytes: int


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

    def __init__(
        self,
        trace: Trace,
        groups: Groups,
        stages: Sequence[Stage],
        parameters: Mapping[str, Tensor],
        sparse: Mapping[str, SparseLayer],
    ) -> None:
        self.groups, self.stages, self.sparse = groups, tuple(stages), sparse
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
        for name, tensor in parameters.items():
            vectors = tuple(v for v in trace.parameters[name] if v is not None)
            constant = tensor.numel() // math.prod(len(v) for v in vectors)
            self._add("params", Product(constant, vectors, "", name), 1)
            self._add("weight_bytes", Product(constant, vectors, "", name), tensor.element_size())
        inputs = {name: trace.parameters[layer.weight][layer.dim] for name, layer in sparse.items()}
        self._channels = {name: None if v is None else self._form(v) for name, v in inputs.items()}
        self._elements = {name: parameters[layer.weight].element_size() for name, layer in sparse.items()}

    def _add(self, name: str, product: Product, scale: float) -> None:
        indices, constant = [], product.constant * scale
        for vector in product.vectors:
            form = self._form(vector)
            if form is None:
                constant *= len(vector)
            else:
                indices.append(form)
        self._terms.append(
            (name, constant, tuple(indices), tuple(skipped_by(product.module, self.stages)), product.module)
        )

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

    def evaluate(self, sizes: IntArray, depths: IntArray, patterns: Patterns) -> dict[str, FloatArray]:
        """Costs of subnets: `sizes` (population, groups) units kept, `depths` (population, stages) blocks that run.

        Keys: macs, params, weight_bytes, peak_bytes and bytes (of activations: alive at once, and written; per sample),
        kernels (contractions), and MACs by kind, whose zeros count: they are what a dense runtime does.
        """
        forms = [form.evaluate(sizes) for form in self._forms]
        stays = self._stays(forms, patterns, len(sizes))
        totals: dict[str, FloatArray] = {"macs": np.zeros(len(sizes))}
        for name, *_ in self._terms:
            totals.setdefault(name, np.zeros(len(sizes)))
        for term in self._terms:
            value = size_of(term, forms, len(sizes))
            for stage, position in term[3]:
                value = value * (depths[:, stage] > position)
            if term[0].startswith("macs_"):
                totals["macs"] += value * stays.get(("macs", term[4]), 1.0)
            totals[term[0]] += value * stays.get((term[0], term[4]), 1.0)
        for name in ("params", "weight_bytes"):
            totals.setdefault(name, np.zeros(len(sizes)))
        totals["peak_bytes"] = self._peak_bytes(forms, depths, len(sizes))
        return totals

    def _stays(
        self, forms: Sequence[FloatArray], patterns: Patterns, population: int
    ) -> dict[tuple[str, str], FloatArray]:
        """The share of each sparse layer's MACs, and of its weight's bytes, that the patterns leave, (population,)."""
        result: dict[tuple[str, str], FloatArray] = {}
        for name, rows in patterns.items():
            layer, form = self.sparse[name], self._channels[name]
            channels = np.full(population, float(layer.channels)) if form is None else forms[form]
            macs, stored = np.ones(population), np.ones(population)
            for mine, pattern in rows:
                macs[mine], stored[mine] = saved(pattern, channels[mine], self._elements[name])
            result["macs", name], result["weight_bytes", layer.weight] = macs, stored
        return result

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
