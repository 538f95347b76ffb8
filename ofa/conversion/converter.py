"""From a network to its groups, stages and search space: trace, constrain, group, prove, and tie what fails alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from ofa.arrays import IntArray
from ofa.conversion.attributes import Binding, Bindings, find_bindings
from ofa.conversion.bench import Bench
from ofa.conversion.benches import Benches
from ofa.conversion.choices import ElasticChoice, SpaceConfig, elastic_choices, space_of, sparsity_choices
from ofa.conversion.covering import covering_array
from ofa.conversion.holders import read_past, with_containers
from ofa.conversion.proof import Part, Point, Progress, Proof, Proved
from ofa.conversion.randomised import Examples
from ofa.groups import (
    FIXED,
    Constraints,
    Groups,
    Pair,
    Stage,
    constrain,
    find_groups,
    find_stages,
    ranked_apart,
)
from ofa.slicing import Plan, Slicer, find_owners, make_plan
from ofa.space import Genome, SearchSpace, Subnet
from ofa.sparsity import SparseLayer, sparse_layers, zeros_of
from ofa.tracing import Trace, trace

FEW = 20  # choices of which four options are paired; of more, the ends and what lies between in turn
ROUNDS = 3  # of tying groups that fail alone
SPARSE = 6  # a row of so many shows what holds only where all sizes change alike


@dataclass(frozen=True)
class Conversion:
    """What converting a network found: everything that a supernet knows of its network besides the weights.

    `choices` say which groups and stages they decide, `bindings` which attributes follow the groups, `sparse` which
    layers take N:M patterns and `dense` why others do not, `proved` what the comparisons of subnets showed.

    >>> from ofa import Supernet
    >>> found = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4)).conversion
    >>> [group.name for group in found.groups.groups], found.proved.failures
    (['0.width'], {})
    >>> sizes, depths = found.sizes(np.array([[0], [1]]))
    >>> sizes.tolist()  # units of the only group in two subnets
    [[8], [16]]
    """

    config: SpaceConfig
    trace: Trace
    constraints: Constraints
    groups: Groups
    stages: tuple[Stage, ...]
    choices: tuple[ElasticChoice, ...]
    bindings: tuple[Binding, ...]
    proved: Proved
    sparse: Mapping[str, SparseLayer] = field(default_factory=dict)
    dense: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def space(self) -> SearchSpace:
        return space_of(self.choices)

    @cached_property
    def slicer(self) -> Slicer:
        return Slicer(self.groups, self.trace.parameters)

    def sizes(self, genomes: Genome) -> tuple[IntArray, IntArray]:
        """Units kept of every group and blocks that run of every stage, shapes (..., groups) and (..., stages)."""
        return decode(self.choices, self.groups, self.stages, genomes)

    def plan(self, subnet: Subnet) -> Plan:
        """What a subnet changes: kept indices, attributes, skipped blocks, zeros.

        Raises:
            ValueError: it is not in the space; the message names the choice and its options.
        """
        plan = make_plan(self.slicer, self.bindings, self.stages, *self.sizes(self.space.encode(subnet)))
        return replace(plan, zeros=zeros_of(subnet, self.sparse))

    def ranked(self, groups: Groups) -> Conversion:
        """The same with units in another order."""
        return replace(self, groups=groups)

    @property
    def elastic(self) -> tuple[int, int]:
        """Parameters that a choice slices, and the same counted once for every dimension along which it does."""
        open_groups = [g for choice in self.choices for g in choice.sizes]
        once = each = 0
        for vectors in self.trace.parameters.values():
            rows = [v for v in vectors if v is not None]
            sliced = sum(bool(np.isin(self.groups.group_of[v], open_groups).any()) for v in rows)
            size = int(np.prod([len(v) for v in rows]))
            once, each = once + size * bool(sliced), each + size * sliced
        return once, each


@dataclass(frozen=True)
class Attempt:
    """A conversion with some ties, and what its attributes follow, for the next attempt to begin with."""

    conversion: Conversion
    ties: tuple[Pair, ...] = ()
    memory: Mapping[tuple[str, str], Any] = field(default_factory=dict)


class Converter:
    """Traces a network once, and groups and proves it until nothing more can be gained by tying groups.

    >>> import copy
    >>> from ofa.conversion import silent
    >>> network = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2))
    >>> examples = Examples((torch.zeros(1, 4),), {})
    >>> converter = Converter(copy.deepcopy(network), network, examples, SpaceConfig(), {}, silent)
    >>> converter.run().space["0.width"].options
    (8, 16)
    """

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        examples: Examples,
        config: SpaceConfig,
        excluded: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self.model, self.config, self.excluded, self.progress = model, config, excluded, progress
        self.trace = trace(model, examples.args, examples.kwargs)
        self.stages = [s for s in find_stages(self.trace) if not any(b in excluded for b in s.blocks)]
        self.benches = Benches(model, examples)
        self.first = next(self.benches.sizes()) if config.proof != "off" else self.benches.plain
        self.past = read_past(model, original, with_containers(model, find_owners(model)), self.first.examples)

    def run(self) -> Conversion:
        """Ties that help in a few subnets first, then those that help where all rows are compared."""
        tried: set[frozenset[str]] = set()
        best = latest = self.attempt((), {}, few=True)
        for whole in (False, True):
            if whole:
                known = best.conversion.proved.failures
                best = latest = self.attempt(best.ties, latest.memory, whole=True, failures=known)
            for _ in range(ROUNDS):
                names = frozenset(best.conversion.proved.failures)
                ties = () if names in tried else candidates(best.conversion)
                tried.add(names)
                if not ties:
                    break
                latest = self.attempt((*best.ties, *ties), latest.memory, whole)
                if latest.conversion.elastic <= best.conversion.elastic:
                    break
                best = latest
        return self._with_sparsity(best.conversion)

    def _with_sparsity(self, found: Conversion) -> Conversion:
        """Patterns for the layers that take them; they need no proof, since zeros in a weight change no shape."""
        given = self.config
        sparse, dense = sparse_layers(self.model, self.trace, given.sparsity, self.excluded, given.sparsity_padding)
        named = {one.choice.name for one in found.choices}
        stages = [stage for stage in self.stages if stage.name in named]
        choices = (*found.choices, *sparsity_choices(sparse, stages))
        return replace(found, choices=choices, sparse=sparse, dense=dense)

    def attempt(
        self,
        ties: Sequence[Pair],
        memory: Mapping[tuple[str, str], Any],
        whole: bool = False,
        few: bool = False,
        failures: Mapping[str, str] | None = None,
    ) -> Attempt:
        """Group with these ties, and prove; only that subnets run (a `few` of them) where it is not the whole proof.

        `failures` are known from an earlier attempt with the same ties.
        """
        constraints = constrain(self.trace, self._stays, ties)
        groups = ranked_apart(self.model, self.trace, constraints, find_groups(self.trace, constraints))
        bindings = Bindings(self.model, find_bindings(self.model, self.trace, groups), groups)
        bindings.recall(memory)
        choices = elastic_choices(self.trace, groups, self.stages, self.config)
        proof = Proof(groups, self.stages, self.trace.parameters, bindings, self.progress)
        proof.failures |= failures or {}
        points = self._points(choices, groups, few)
        if whole and self.config.proof != "off":
            groups = self._prove(proof, points)
        else:
            proof.run(points, self.first, proof.parts(points[0]), zeroed=False)
        choices = elastic_choices(self.trace, groups, self.stages, self.config, proof.failures)
        found = Conversion(
            self.config,
            self.trace,
            constraints,
            groups,
            tuple(self.stages),
            tuple(choices),
            tuple(bindings.final()),
            proof.found,
        )
        return Attempt(found, tuple(ties), bindings.remember())

    def _stays(self, parameter: str) -> str | None:
        """Why a parameter must stay, None if nothing is known."""
        return self.excluded.get(parameter.rpartition(".")[0]) or self.past.get(parameter)

    def _prove(self, proof: Proof, points: Sequence[Point]) -> Groups:
        """Compare each part where it moves the output: as many as possible on one bench, the others on the next.

        Gives the groups with those ranked as wholes that do not hold otherwise.
        """
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
        return proof.groups.as_wholes(proof.not_apart(points[0]))

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

    def _points(self, choices: Sequence[ElasticChoice], groups: Groups, few: bool) -> list[Point]:
        """Where to compare: the smallest subnet, the same with all blocks (one that is skipped hides its own widths),
        and rows in which all pairs of options occur, or a few of those."""
        counts = [1 if c.choice.kind == "resolution" else len(c.choice.options) for c in choices]
        rows = covering_array(counts, levels=4 if len(counts) <= FEW else 3)
        deep = np.where([c.choice.kind == "depth" for c in choices], np.array(counts, dtype=np.int64) - 1, 0)
        rows = rows[1 :: SPARSE if few else 1] if self.config.proof == "full" else rows[:0]
        return [decode(choices, groups, self.stages, row) for row in (0 * deep, deep, *rows)]


def decode(
    choices: Sequence[ElasticChoice], groups: Groups, stages: Sequence[Stage], genomes: Genome
) -> tuple[IntArray, IntArray]:
    """Units kept of every group and blocks that run of every stage, shapes (..., groups) and (..., stages)."""
    full = groups.full
    sizes = np.broadcast_to(full, (*genomes.shape[:-1], len(full))).copy()
    deep = np.array([len(s.blocks) for s in stages], dtype=np.int64)
    depths = np.broadcast_to(deep, (*genomes.shape[:-1], len(deep))).copy()
    rows = {stage.name: s for s, stage in enumerate(stages)}
    for i, one in enumerate(choices):
        for g, units in one.sizes.items():
            sizes[..., g] = np.array(units)[genomes[..., i]]
        if one.choice.kind == "depth":
            depths[..., rows[one.choice.name]] = np.array(one.choice.options)[genomes[..., i]]
    return sizes, depths


def candidates(found: Conversion) -> list[Pair]:
    """Pairs of equally long vectors that one module's code saw, of a group that fails alone and another one.

    Code that takes a size of one tensor for another's (`reshape(batch, positions, channels)` after attention) holds
    only while both are equal: then the groups must change together. Partners that fail, too, come first.
    """
    groups, failures = found.groups, found.proved.failures
    failing = {g for g, group in enumerate(groups.groups) if group.name in failures and group.kind == "width"}
    seen: dict[tuple[str, int], dict[tuple[int, ...], IntArray]] = {}
    for use in found.trace.size_uses:
        for vector in use.vectors if use.role != "kernel" else ():
            owners = tuple(np.unique(groups.group_of[vector]).tolist())
            if FIXED not in owners:
                for module in (use.module, use.module.rpartition(".")[0]):
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
