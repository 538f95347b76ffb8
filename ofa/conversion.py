"""From a network to its groups, stages and search space: trace, group, prove, and tie what holds only together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from ofa.arrays import IntArray
from ofa.attributes import Binding, Bindings, find_bindings
from ofa.choices import Offer, SpaceConfig, make_offers, space_of, sparsity_offers
from ofa.depth import Stage, find_stages
from ofa.elastic_sparsity import SparseLayer, sparse_layers
from ofa.flow import trace
from ofa.groups import FIXED, Groups, find_groups
from ofa.proof import Progress, Proof, perturbed
from ofa.space import Genome, SearchSpace
from ofa.strands import find_strands
from ofa.tracing import Trace

ROUNDS = 3  # of tying groups that fail alone
POINTS = 6  # random subnets that are proved, besides the smallest
Pair = tuple[IntArray, IntArray]


@dataclass
class Conversion:
    """What converting a network found; `error` is the proof's largest relative difference."""

    flow: Trace
    groups: Groups
    stages: list[Stage]
    offers: list[Offer]
    bindings: list[Binding]
    failures: dict[str, str]
    error: float
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
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        config: SpaceConfig,
        excluded: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self.model, self.args, self.kwargs, self.config, self.progress = model, args, kwargs, config, progress
        self.excluded = excluded
        self.flow = trace(model, args, kwargs)
        self.stages = [s for s in find_stages(self.flow) if not any(b in self.excluded for b in s.blocks)]
        self.twin = perturbed(model)
        self.memory: dict[tuple[str, str], Any] = {}
        self.held: set[Any] = set()

    def run(self) -> Conversion:
        best, tied = self.attempt(()), list[Pair]()
        for _ in range(ROUNDS):
            ties = candidates(best.flow, best.groups, best.failures)
            if not ties:
                break
            found = self.attempt((*tied, *ties))
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

    def attempt(self, ties: Sequence[Pair]) -> Conversion:
        """Group with these ties, and prove."""
        before = len(self.flow.labels.pairs)
        self.flow.labels.pairs.extend(ties)
        groups = find_groups(self.flow, lambda name: self.excluded.get(name.rpartition(".")[0]))
        find_strands(self.model, self.flow, groups)
        del self.flow.labels.pairs[before:]
        bindings = Bindings(self.model, find_bindings(self.model, self.flow, groups), groups)
        bindings.recall(self.memory)
        offers = make_offers(self.flow, groups, self.stages, self.config)
        failures: dict[str, str] = {}
        given = (self.twin, self.args, self.kwargs, groups, self.stages, self.flow.parameters, bindings, self.held)
        proof = Proof(*given, self.progress)
        if self.config.proof != "off":
            points = [decode(offers, groups, self.stages, genome) for genome in genomes(offers)]
            options = {g: units for offer in offers for g, units in offer.sizes.items()}
            failures = proof.run(points, options, self.config.proof == "full")
            groups.reasons.update(failures)
            for index in proof.strands():
                groups.unbraid(index)
            offers = make_offers(self.flow, groups, self.stages, self.config, failures)
        self.memory = bindings.remember()
        return Conversion(self.flow, groups, self.stages, offers, bindings.final(), failures, proof.worst)


def genomes(offers: Sequence[Offer]) -> list[Genome]:
    """Where to prove: the smallest subnet, and random ones, since a condition in the code may hold only in between."""
    options, rng = np.array([len(offer.choice.options) for offer in offers], dtype=np.int64), np.random.default_rng(0)
    return [np.zeros(len(offers), dtype=np.int64), *(rng.integers(0, options) for _ in range(POINTS))]


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
