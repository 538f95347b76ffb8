"""From a network to its groups, stages and search space: trace, group, prove, and tie what holds only together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from ofa.arrays import IntArray
from ofa.conversion.attributes import Binding, Bindings, find_bindings
from ofa.conversion.bench import Bench
from ofa.conversion.benches import Benches
from ofa.conversion.choices import Offer, SpaceConfig, make_offers, space_of, sparsity_offers
from ofa.conversion.covering import covering_array
from ofa.conversion.holders import read_past, with_containers
from ofa.conversion.proof import Part, Point, Progress, Proof
from ofa.conversion.randomised import Examples
from ofa.groups import FIXED, Groups, Stage, find_groups, find_stages, find_strands
from ofa.slicing import find_owners
from ofa.space import Genome, SearchSpace
from ofa.sparsity import SparseLayer, sparse_layers
from ofa.tracing import Trace, trace

FEW = 20  # choices of which four options are paired; of more, the ends and what lies between in turn
ROUNDS = 3  # of tying groups that fail alone
SPARSE = 6  # a row of so many shows what holds only where all sizes change alike
Pair = tuple[IntArray, IntArray]


@dataclass
class Conversion:
    """What converting a network found; `error` is the proof's largest relative difference.

    `moved` says for each group and stage by how much its removal moved the output, `ways` how it was compared.
    """

    flow: Trace
    groups: Groups
    stages: list[Stage]
    offers: list[Offer]
    bindings: list[Binding]
    failures: Mapping[str, str]
    error: float
    moved: Mapping[str, float]
    ways: Mapping[str, str]
    sparse: Mapping[str, SparseLayer] = field(default_factory=dict)
    dense: Mapping[str, str] = field(default_factory=dict)  # why layers take no pattern

    def sizes(self, genomes: Genome) -> tuple[IntArray, IntArray]:
        return decode(self.offers, self.groups, self.stages, genomes)

    @property
    def space(self) -> SearchSpace:
        return space_of(self.offers)

    @property
    def elastic(self) -> tuple[int, int]:
        """Parameters that a choice slices, and the same counted once for every dimension along which it does."""
        open_groups = [g for offer in self.offers for g in offer.sizes]
        once = each = 0
        for vectors in self.flow.parameters.values():
            rows = [v for v in vectors if v is not None]
            sliced = sum(bool(np.isin(self.groups.group_of[v], open_groups).any()) for v in rows)
            size = int(np.prod([len(v) for v in rows]))
            once, each = once + size * bool(sliced), each + size * sliced
        return once, each


class Converter:
    """Traces a network once, and groups and proves it until nothing more can be gained by tying groups."""

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        examples: Examples,
        config: SpaceConfig,
        excluded: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self.model, self.config, self.progress = model, config, progress
        self.excluded = excluded
        self.flow = trace(model, examples.args, examples.kwargs)
        self.stages = [s for s in find_stages(self.flow) if not any(b in self.excluded for b in s.blocks)]
        self.benches = Benches(model, examples)
        self.first = next(self.benches.sizes()) if config.proof != "off" else self.benches.plain
        self.past = read_past(model, original, with_containers(model, find_owners(model)), self.first.examples)
        self.memory: dict[tuple[str, str], Any] = {}

    def run(self) -> Conversion:
        """Ties that help in a few subnets first, then those that help where all rows are compared."""
        self.tying = False
        tried: set[frozenset[str]] = set()
        tied, best = list[Pair](), self.attempt((), whole=False)
        for whole in (False, True):
            best = self.attempt(tied, whole, best.failures) if whole else best
            for _ in range(ROUNDS):
                known = (names := frozenset(best.failures)) in tried
                ties = [] if known else candidates(best.flow, best.groups, best.failures)
                tried.add(names)
                self.tying |= bool(ties)
                found = self.attempt((*tied, *ties), whole) if ties else best
                if found.elastic <= best.elastic:
                    break
                best, tied = found, [*tied, *ties]
        return self._with_sparsity(best)

    def _with_sparsity(self, found: Conversion) -> Conversion:
        """Patterns for the layers that take them; they need no proof, since zeros in a weight change no shape."""
        given = self.config
        sparse, dense = sparse_layers(self.model, self.flow, given.sparsity, self.excluded, given.sparsity_padding)
        named = {offer.choice.name for offer in found.offers}
        stages = [stage for stage in self.stages if stage.name in named]
        return replace(found, offers=[*found.offers, *sparsity_offers(sparse, stages)], sparse=sparse, dense=dense)

    def attempt(self, ties: Sequence[Pair], whole: bool, failures: Mapping[str, str] | None = None) -> Conversion:
        """Group with these ties, and prove; only that a few subnets run where it is not the whole proof.

        `failures` are known from an earlier attempt with the same ties.
        """
        before = len(self.flow.labels.pairs)
        self.flow.labels.pairs.extend(ties)
        groups = find_groups(self.flow, self._stays)
        find_strands(self.model, self.flow, groups)
        del self.flow.labels.pairs[before:]
        bindings = Bindings(self.model, find_bindings(self.model, self.flow, groups), groups)
        bindings.recall(self.memory)
        offers = make_offers(self.flow, groups, self.stages, self.config)
        proof = Proof(groups, self.stages, self.flow.parameters, bindings, self.progress)
        proof.failures |= failures or {}
        points = self._points(offers, groups, whole)
        if whole and self.config.proof != "off":
            self._prove(proof, points)
        else:
            proof.run(points, self.first, proof.parts(points[0]), zeroed=False)
        offers = make_offers(self.flow, groups, self.stages, self.config, proof.failures)
        groups.reasons.update(proof.failures)
        self.memory = bindings.remember()
        return Conversion(self.flow, groups, self.stages, offers, bindings.final(), *proof.found)

    def _stays(self, parameter: str) -> str | None:
        """Why a parameter must stay, None if nothing is known."""
        return self.excluded.get(parameter.rpartition(".")[0]) or self.past.get(parameter)

    def _prove(self, proof: Proof, points: Sequence[Point]) -> None:
        """Compare each part where it moves the output: as many as possible on one bench, the others on the next."""
        pending = proof.good(proof.parts(points[0]))
        bench, moving = self._suited(proof, pending, points[0])
        proof.run(points, bench, moving)
        if bench.cheap:
            proof.run(points[:1], self.benches.at_full_size(bench), moving)
        pending = [part for part in pending if part not in moving]
        for other in self.benches.others() if pending else ():
            moving = proof.moving(other, pending, points[0])
            proof.run(points, other, moving)
            pending = [part for part in pending if part not in moving]
        if self.config.unproved == "keep":
            proof.run(points, bench, pending)
        proof.unshown(pending, keep=self.config.unproved == "keep")
        for index in proof.strands(points[0]):
            proof.groups.unbraid(index)

    def _suited(self, proof: Proof, parts: Sequence[Part], smallest: Point) -> tuple[Bench, Sequence[Part]]:
        """The smallest examples on which every part moves the output, or those on which most do, there or inside."""
        best: tuple[Bench, Sequence[Part]] | None = None
        for bench in self.benches.sizes():
            moving = proof.moving(bench, parts, smallest)
            if best is None or len(moving) > len(best[1]):
                best = bench, moving
            if len(moving) == len(parts):
                return best
        assert best is not None
        within = self.benches.within(best[0])
        moving = proof.moving(within, parts, smallest)
        return (within, moving) if len(moving) > len(best[1]) else best

    def _points(self, offers: Sequence[Offer], groups: Groups, whole: bool) -> list[Point]:
        """Where to compare: the smallest subnet, the same with all blocks (one that is skipped hides its own widths),
        and rows in which all pairs of options occur; a few of those where it is not the whole proof."""
        counts = [1 if offer.choice.kind == "resolution" else len(offer.choice.options) for offer in offers]
        rows = covering_array(counts, levels=4 if len(counts) <= FEW else 3)
        deep = np.where([offer.choice.kind == "depth" for offer in offers], np.array(counts, dtype=np.int64) - 1, 0)
        rows = rows[1 :: 1 if whole or self.tying else SPARSE] if self.config.proof == "full" else rows[:0]
        return [decode(offers, groups, self.stages, row) for row in (0 * deep, deep, *rows)]


def decode(
    offers: Sequence[Offer], groups: Groups, stages: Sequence[Stage], genomes: Genome
) -> tuple[IntArray, IntArray]:
    """Units kept of every group and blocks that run of every stage, shapes (..., groups) and (..., stages)."""
    full = groups.full
    sizes = np.broadcast_to(full, (*genomes.shape[:-1], len(full))).copy()
    deep = np.array([len(s.blocks) for s in stages], dtype=np.int64)
    depths = np.broadcast_to(deep, (*genomes.shape[:-1], len(deep))).copy()
    rows = {stage.name: s for s, stage in enumerate(stages)}
    for i, offer in enumerate(offers):
        for g, units in offer.sizes.items():
            sizes[..., g] = np.array(units)[genomes[..., i]]
        if offer.choice.kind == "depth":
            depths[..., rows[offer.choice.name]] = np.array(offer.choice.options)[genomes[..., i]]
    return sizes, depths


def candidates(flow: Trace, groups: Groups, failures: Mapping[str, str]) -> list[Pair]:
    """Pairs of equally long vectors that one module's code saw, of a group that fails alone and another one.

    Code that takes a size of one tensor for another's (`reshape(batch, positions, channels)` after attention) holds
    only while both are equal: then the groups must change together. Partners that fail, too, come first.
    """
    failing = {g for g, group in enumerate(groups.groups) if group.name in failures and group.kind == "width"}
    seen: dict[tuple[str, int], dict[tuple[int, ...], IntArray]] = {}
    for literal in flow.literals:
        for vector in literal.vectors if literal.role != "kernel" else ():
            owners = tuple(np.unique(groups.group_of[vector]).tolist())
            if FIXED not in owners:
                for module in (literal.module, literal.module.rpartition(".")[0]):
                    seen.setdefault((module, len(vector)), {}).setdefault(owners, vector)
    pairs: dict[tuple[tuple[int, ...], tuple[int, ...]], Pair] = {}
    for needed in (2, 1):
        done = {g for owners in pairs for side in owners for g in side}
        for rows in seen.values():
            for (a, left), (b, right) in ((x, y) for x in rows.items() for y in rows.items() if x[0] < y[0]):
                fails = [bool(set(side) & failing - (done if needed == 1 else set())) for side in (a, b)]
                if sum(fails) >= needed and not set(a) & set(b):
                    pairs[a, b] = (left, right)
    return list(pairs.values())
