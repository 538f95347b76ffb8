"""Faults put on purpose into what a conversion decides: each must be noticed if it changes the network's function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ofa.arrays import IntArray
from ofa.conversion.proof import Point, Proof
from ofa.groups import FIXED
from ofa.slicing import Index, Plan

Vectors = Mapping[str, Sequence[IntArray | None]]
DIVISOR = 8  # by which sizes are off


@dataclass(frozen=True)
class Fault:
    """A mistake of a `kind` at a place: in a subnet's plan, or in the labels that plans and zeros are made from."""

    kind: str
    where: str
    in_plan: Callable[[Plan], Plan] | None = None
    in_labels: Callable[[Vectors], Vectors] | None = None

    def proof(self, right: Proof) -> Proof:
        """The proof that has this fault."""
        if self.in_labels is None:
            return right
        wrong = replace(right, vectors=self.in_labels(right.vectors))
        wrong.bench, wrong.mixed, wrong.permuted = right.bench, right.mixed, right.permuted
        return wrong

    def plan(self, proof: Proof, point: Point) -> Plan:
        """The wrong plan of a subnet; the right one where it has no such place."""
        plan = self.proof(proof).plan(*point)
        return plan if self.in_plan is None else self.in_plan(plan)


# ------------------------------------------------------------ slices

Positions = IntArray  # (kept,) or, in grouped convolutions, (blocks, kept)


def rolled(kept: Positions, size: int) -> Positions:
    return np.roll(kept, 1, axis=-1)


def shifted(kept: Positions, size: int) -> Positions:
    return kept + 1 if kept.max() + 1 < size else kept


def swapped(kept: Positions, size: int) -> Positions:
    return np.concatenate([kept[..., 1::-1], kept[..., 2:]], axis=-1)


def missing(kept: Positions, size: int) -> Positions:
    return kept[..., :-1] if kept.shape[-1] > 1 else kept


def larger(kept: Positions, size: int) -> Positions:
    if kept.ndim > 1:
        return kept
    return np.sort(np.concatenate([kept, np.setdiff1d(np.arange(size), kept)[:DIVISOR]]))


SLICES = (rolled, shifted, swapped, missing, larger)


def wrong_slice(name: str, dim: int, size: int, change: Callable[[Positions, int], Positions]) -> Fault:
    def in_plan(plan: Plan) -> Plan:
        index = plan.indices.get(name)
        if index is None or index[dim] is None:
            return plan
        wrong = torch.from_numpy(np.ascontiguousarray(change(positions(index[dim]), size)))
        return replace(plan, indices={**plan.indices, name: (*index[:dim], wrong, *index[dim + 1 :])})

    return Fault(f"slice {change.__name__}", f"{name}, dimension {dim}", in_plan)


def positions(index: Index) -> Positions:
    if isinstance(index, slice):
        return np.arange(index.start, index.stop)
    assert index is not None
    return np.asarray(index.numpy())


# ------------------------------------------------------------ attributes and blocks


def attribute_left(module: str, attribute: str) -> Fault:
    def in_plan(plan: Plan) -> Plan:
        return replace(plan, changes=tuple(c for c in plan.changes if (c.module, c.attribute) != (module, attribute)))

    return Fault("attribute left", f"{module}.{attribute}", in_plan)


def block_runs(block: str) -> Fault:
    return Fault("block runs", block, lambda plan: replace(plan, skipped=tuple(b for b in plan.skipped if b != block)))


def other_block(block: str, other: str) -> Fault:
    def in_plan(plan: Plan) -> Plan:
        return replace(plan, skipped=tuple(other if b == block else b for b in plan.skipped))

    return Fault("other block skipped", f"{other} for {block}", in_plan)


# ------------------------------------------------------------ labels


def wrong_labels(name: str, dim: int, change: Callable[[IntArray], IntArray | None]) -> Fault:
    def in_labels(vectors: Vectors) -> Vectors:
        rows = list(vectors[name])
        vector = rows[dim]
        assert vector is not None
        rows[dim] = change(vector)
        return {**vectors, name: rows}

    return Fault(f"labels {change.__name__}", f"{name}, dimension {dim}", in_labels=in_labels)


def moved(vector: IntArray) -> IntArray:
    return np.roll(vector, 1)


def exchanged(vector: IntArray) -> IntArray:
    """The first and the last change places."""
    wrong = vector.copy()
    wrong[[0, -1]] = wrong[[-1, 0]]
    return wrong


def untied(vector: IntArray) -> None:
    """The dimension follows nothing."""


# ------------------------------------------------------------ all of them


def faults(proof: Proof, point: Point) -> Iterator[Fault]:
    """Every fault that the plan of a subnet, usually the smallest, has a place for."""
    plan, groups = proof.plan(*point), proof.groups
    for name, index in plan.indices.items():
        for dim, i in enumerate(index):
            if i is not None:
                size = proof.bench.tensors[name].shape[dim]
                yield from (wrong_slice(name, dim, size, change) for change in SLICES)
    yield from (attribute_left(change.module, change.attribute) for change in plan.changes)
    for stage, depth in zip(proof.stages, point[1].tolist(), strict=True):
        yield from (block_runs(block) for block in stage.blocks[depth:])
        yield from (other_block(block, stage.blocks[0]) for block in stage.blocks[max(depth, 1) :])
    for name, vectors in proof.vectors.items():
        for dim, vector in enumerate(vectors):
            if vector is not None and (groups.group_of[vector] != FIXED).any() and name not in groups.folds:
                yield from (wrong_labels(name, dim, change) for change in (moved, exchanged, untied))


def sample(every: Sequence[Fault], number: int, seed: int = 0) -> list[Fault]:
    """So many faults, of each kind as many as possible."""
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[Fault]] = {}
    for i in rng.permutation(len(every)).tolist():
        kinds.setdefault(every[i].kind, []).append(every[i])
    rows = sorted(((turn, n, fault) for n, k in enumerate(kinds.values()) for turn, fault in enumerate(k)), key=first)
    return [fault for *_, fault in rows[:number]]


def first(row: tuple[int, int, Fault]) -> tuple[int, int]:
    return row[:2]
