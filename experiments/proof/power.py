"""How many faults the proof of a conversion notices, of those that change the network's function."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

import ofa
from experiments.proof.faults import Fault, faults, sample
from ofa.conversion import Examples
from ofa.conversion.bench import Bench, DoesNotRun, Outputs, distance
from ofa.conversion.benches import several
from ofa.conversion.proof import Part, Point, Proof
from ofa.conversion.randomised import randomised
from ofa.costs import complexity
from ofa.costs.counting import size
from ofa.tracing import trace

CHANGED = 1e-9  # relative difference, in double precision, of what is another function
COSTS = ("macs", "params", "peak_bytes", "bytes")
SUBNETS, OTHERS = 4, 50  # random subnets whose costs are counted anew, and more whose costs may change
POINTS = 4  # at which functions are compared


@dataclass
class Power:
    """`tried` faults change the function of `name`, `noticed` of them fail the proof; `equal` change nothing."""

    name: str
    tried: int = 0
    noticed: int = 0
    equal: int = 0
    sensitivity: float = 0.0
    missed: list[str] = field(default_factory=list)


class Recorder(Proof):
    """A proof that remembers what it was run on."""

    last: Recorder
    rounds: list[tuple[Sequence[Point], Bench, list[Part]]]

    def run(self, points: Sequence[Point], bench: Bench, sensitive: Sequence[Part], zeroed: bool = True) -> None:
        super().run(points, bench, sensitive, zeroed)
        Recorder.last = self
        self.rounds = [*getattr(self, "rounds", []), (points, bench, self.good(sensitive))]

    @property
    def compared(self) -> list[Part]:
        """The parts that any round compared."""
        return list(dict.fromkeys(part for *_, parts in self.rounds for part in self.good(parts)))


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Conversions use proofs that remember."""
    with mock.patch("ofa.conversion.converter.Proof", Recorder):
        yield


def power(name: str, model: nn.Module, example: Any, most: int, space: ofa.SpaceConfig | None = None) -> Power:
    """Convert a network, and try up to `most` faults of its plans, and an eighth as many of its costs' terms."""
    with recording():
        supernet = ofa.Supernet(model, example, space)
    proof = Recorder.last
    shown = [proof.moved[n] for n, way in proof.ways.items() if way != "not shown" and n in proof.moved]
    result = Power(name, sensitivity=min(shown, default=0.0))
    judge = Judge(proof, Truth(proof, model, example))
    for fault in sample(judge.faults(), most):
        judge.add(fault, result)
    for where, noticed in cost_faults(supernet, example, most // 8):
        result.tried, result.noticed = result.tried + 1, result.noticed + noticed
        result.missed += [] if noticed else [where]
    return result


class Judge:
    """Puts faults into a proof, row by row, until it fails."""

    def __init__(self, proof: Recorder, truth: Truth) -> None:
        self.proof, self.truth = proof, truth
        self.known: dict[tuple[int, int], Outputs] = {}

    def faults(self) -> list[Fault]:
        points, self.proof.bench, _ = self.proof.rounds[0]
        parts = self.proof.compared
        every = [f for point in points[:2] for f in faults(self.proof, self.proof.sized(point, parts))]
        return list({(f.kind, f.where): f for f in every}.values())

    def add(self, fault: Fault, result: Power) -> None:
        if any(self.notices(fault, n, row) for n, row in self.rows()) or self.moves_wrong_units(fault):
            result.tried, result.noticed = result.tried + 1, result.noticed + 1
        elif self.truth.changes(fault):
            result.tried += 1
            result.missed.append(f"{fault.kind}: {fault.where}")
        else:
            result.equal += 1

    def rows(self) -> Iterator[tuple[int, int]]:
        """(round, row), round by round."""
        return ((n, row) for n, (points, _, _) in enumerate(self.proof.rounds) for row in range(len(points)))

    def notices(self, fault: Fault, n: int, row: int) -> bool:
        points, self.proof.bench, parts = self.proof.rounds[n]
        point = self.proof.sized(points[row], parts)
        try:
            with torch.no_grad():
                wrong = fault.plan(self.proof, point)
                outputs, expected = self.proof.bench.sliced(wrong), self.expected(fault, point, (n, row))
        except (DoesNotRun, ValueError):
            return True
        return self.proof.judged(outputs, expected, "zeroed") is not None

    def moves_wrong_units(self, fault: Fault) -> bool:
        """Whether groups that are shown by permutation, and sliced on both sides, fail it with wrong labels."""
        self.proof.bench = self.proof.rounds[0][1]
        wrong = fault.proof(self.proof)
        return wrong is not self.proof and any(wrong.permutation_error(g) for g in sorted(wrong.permuted))

    def expected(self, fault: Fault, point: Point, key: tuple[int, int]) -> Outputs:
        both = self.proof.on_both_sides(key[1])
        if fault.in_labels:
            return fault.proof(self.proof).reference(*point, both)
        if key not in self.known:
            self.known[key] = self.proof.reference(*point, both)
        return self.known[key]


class Truth:
    """Whether a fault changes a function: in double precision, with other weights and examples than the proof's."""

    def __init__(self, proof: Recorder, model: nn.Module, example: Any) -> None:
        self.proof = proof
        examples = several(proof.rounds[0][1].examples, 2).mapped(lambda t: t.double() if t.is_floating_point() else t)
        double = randomised(model, Examples(*ofa.backbone.as_call(example)), seed=7).double()
        self.bench = Bench(double, examples, before_selection=proof.rounds[0][1].before_selection)
        self.right: dict[int, Outputs] = {}

    def changes(self, fault: Fault) -> bool:
        points = self.proof.rounds[0][0][:POINTS]
        sized = (self.proof.sized(point, self.proof.compared) for point in points)
        return any(self.differs(fault, row, point) for row, point in enumerate(sized))

    def differs(self, fault: Fault, row: int, point: Point) -> bool:
        with torch.no_grad():
            if row not in self.right:
                self.right[row] = self.bench.sliced(self.proof.plan(*point))
            try:
                difference = distance(self.bench.sliced(fault.plan(self.proof, point)), self.right[row])
            except DoesNotRun:
                return True
        return difference is None or not difference <= CHANGED


# ------------------------------------------------------------ costs


def cost_faults(supernet: ofa.Supernet, example: Any, most: int) -> Iterator[tuple[str, bool]]:
    """(place, whether it was noticed) of terms left out that change a subnet's costs.

    Noticed is what makes costs differ from those of the extracted network, which is traced and counted anew. Subnets in
    which a layout needs no copy that the formulas count (attention with one head) take no part.
    """
    space, rng = supernet.space, np.random.default_rng(0)
    seen = [space.smallest, space.largest, *(space.sample(rng) for _ in range(SUBNETS))]
    rows = [(subnet, counted(supernet, subnet, example), formula(supernet, subnet)) for subnet in seen]
    for _, real, ours in rows:
        if real[:2] != ours[:2]:
            yield f"without a fault: MACs and parameters {ours[:2]} for {real[:2]}", False
    alike = [(subnet, real) for subnet, real, ours in rows if real == ours]
    genomes = np.array([space.encode(subnet) for subnet in (*seen, *(space.sample(rng) for _ in range(OTHERS)))])
    before = supernet.costs(genomes)
    (model, *_) = supernet._costs.models.values()
    for i in rng.permutation(len(model._terms)).tolist()[:most]:
        constant, model._constants[i] = model._constants[i], 0.0
        after = supernet.costs(genomes)
        if any((before[name] != after[name]).any() for name in COSTS):
            noticed = any(formula(supernet, subnet) != real for subnet, real in alike)
            yield f"cost term {model._terms[i].name} of {model._terms[i].owner}", noticed
        model._constants[i] = constant


def counted(supernet: ofa.Supernet, subnet: ofa.Subnet, example: Any) -> tuple[int, ...]:
    """MACs, parameters, the peak of activations and all that is written, of the network that is extracted."""
    net = supernet.extract(subnet)
    cost, flow = complexity(net, example), trace(net, *ofa.backbone.as_call(example))
    return cost.macs, cost.params, cost.peak_bytes, round(sum(size(term) for term in flow.bytes) / flow.batch)


def formula(supernet: ofa.Supernet, subnet: ofa.Subnet) -> tuple[int, ...]:
    """The same by the supernet's formulas."""
    rows = supernet.costs(supernet.space.encode(subnet)[None])
    return tuple(round(float(rows[name][0])) for name in COSTS)


def line(power: Power, seconds: float) -> str:
    """One line of a table."""
    return (
        f"{power.name} tried {power.tried} noticed {power.noticed} "
        f"sensitivity {power.sensitivity:.1e} seconds {seconds:.0f}"
    )
