"""Latencies of a run's networks: what is timed, in which file it is kept, and what was predicted before."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np

import ofa
from ofa.conf.program.proposals import Proposals
from ofa.conf.program.records import digest
from ofa.conf.program.run import Run
from ofa.search import Constraint, LatencyModel, ScoredNetwork
from ofa.search.certainty import HIGH, LOW
from ofa.search.front import PREDICTED
from ofa.search.latency import Artefact, DeviceFile, Meter
from ofa.search.objectives import LatencyMs
from ofa.search.prediction import Table
from ofa.space import Genome, Subnet

MODEL, LEDGER, TIMED = "latency.json", "predictions.jsonl", "timed.json"


def artefact_of(run: Run, supernet: ofa.Supernet, subnet: Subnet) -> Artefact:
    """A subnet as devices time it: its network, its input, its features; its ONNX file is sliced when it is needed."""
    features = supernet.features(supernet.space.encode(subnet)[None])
    known = {name: float(values[0]) for name, values in features.items()}
    return Artefact(supernet.extract(subnet).eval(), supernet.resize(run.example, subnet), run.onnx.export, known)


def artefacts_of(run: Run, genomes: Genome) -> list[Artefact]:
    """Those of several genomes."""
    supernet = run.supernet
    return [artefact_of(run, supernet, supernet.space.decode(genome)) for genome in genomes]


@contextmanager
def metering(run: Run, name: str) -> Iterator[Meter]:
    """The device that gives latencies of a name, with its file, beside the largest subnet as the anchor."""
    device, supernet = run.settings.timers[name], run.supernet
    with DeviceFile.of(device, run.folder.path) as file:
        yield Meter(device, file, artefact_of(run, supernet, supernet.space.largest))


def keep_models(run: Run, models: Mapping[str, LatencyModel]) -> None:
    """Leave the models of latencies by their names in the run folder: those of other devices among `others`."""
    rows = {name: json.loads(model.to_json()) for name, model in models.items()}
    run.folder.write(MODEL, rows.pop(LatencyMs.name) | {"others": rows})


def model_of(run: Run, name: str) -> LatencyModel | None:
    """The model of latencies of a name in the run folder, if there is one.

    Raises:
        ValueError: the file is damaged.
    """
    row = run.folder.read(MODEL)
    if row is not None and name != LatencyMs.name:
        row = row["others"].get(name)
    return None if row is None else LatencyModel.from_json(json.dumps(row))


@dataclass(frozen=True)
class Verdict:
    """How far predictions of chosen networks were from what was measured afterwards.

    >>> print(Verdict.of([1.0, 2.0, 4.0], [1.1, 2.0, 4.0], [0.9, 1.9, 3.9], [1.05, 2.1, 4.1]))
    3 chosen networks, predicted before they were measured: error 3.3 %, bias +3.3 %, 2 of 3 in their bands
    """

    networks: int
    error_percent: float
    bias_percent: float
    covered: int

    @classmethod
    def of_rows(cls, rows: Sequence[ScoredNetwork], name: str) -> Verdict | None:
        """From networks with both figures of a latency; None where no one predicted any."""
        before = f"{PREDICTED}{name}"
        names = (before, name, f"{before}{LOW}", f"{before}{HIGH}")
        known = [[row.metrics[name] for name in names] for row in rows if before in row.metrics]
        return cls.of(*zip(*known, strict=True)) if known else None

    @classmethod
    def of(
        cls, predicted: Sequence[float], measured: Sequence[float], low: Sequence[float], high: Sequence[float]
    ) -> Verdict:
        """From milliseconds; the bias is positive where networks are slower than was predicted (the winner's curse)."""
        off = np.array(measured) / np.array(predicted) - 1
        inside = (np.array(low) <= np.array(measured)) & (np.array(measured) <= np.array(high))
        return cls(len(off), float(100 * np.abs(off).mean()), float(100 * off.mean()), int(inside.sum()))

    def __str__(self) -> str:
        return (
            f"{self.networks} chosen networks, predicted before they were measured: error {self.error_percent:.1f} %, "
            f"bias {self.bias_percent:+.1f} %, {self.covered} of {self.networks} in their bands"
        )


def timed(run: Run, proposals: Proposals) -> tuple[ScoredNetwork, ...]:
    """The teacher, and the networks that leave: predicted, measured, and within the limits on latency.

    What was measured of them stays in the run folder, so that they are the same before and after they are finetuned.
    """
    chosen = proposals.chosen(run)
    spare = [row for row in proposals.front.rows if row not in chosen]
    with Verification(run) as verification:
        whole, *rows = verification.verified((proposals.teacher, *chosen), spare)
    return (whole, *proposals.front.ordered(rows))


def leaving(run: Run, proposals: Proposals) -> tuple[ScoredNetwork, ...]:
    """The networks that leave, as proposed; where there is a limit on latency, those that keep it when measured."""
    chosen = proposals.chosen(run)
    if not limits(run):
        return chosen
    proposed = {row.name: row for row in (*proposals.front.rows, *chosen)}
    _, *rows = timed(run, proposals)
    return tuple(proposed[row.name] for row in rows)


def limits(run: Run) -> list[Constraint]:
    """The limits on latency."""
    return [limit for limit in run.settings.constraints if isinstance(limit.objective, LatencyMs)]


class Verification(ExitStack):
    """Measures networks that were chosen, on every device, after what is predicted of them is on the disk."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run, self.names = run, tuple(run.settings.timers)
        self.meters = {name: self.enter_context(metering(run, name)) for name in self.names}
        self.models = {name: model_of(run, name) for name in self.names}
        written = [None if model is None else model.to_json() for model in self.models.values()]
        self._basis = [run.settings.plain("latency"), *written, run.supernet.digest]
        self._known: dict[str, dict[str, float]] = run.folder.read(TIMED, {})

    def verified(self, chosen: Sequence[ScoredNetwork], spare: Sequence[ScoredNetwork]) -> list[ScoredNetwork]:
        """The chosen networks, the whole one first, with their latencies: those that break a limit make room.

        Each of these is replaced by the best of the `spare` ones that is expected to keep the limit and does; of the
        whole network nothing is asked.
        """
        (whole, *rows), spares = self._measured(chosen), list(spare)
        while (broken := next((row for row in rows if self._broken(row.metrics, whole)), None)) is not None:
            place, successor = rows.index(broken), self._successor(broken, spares, whole)
            limit = self._broken(broken.metrics, whole)[0]
            found = f"{broken.name} takes {limit.objective.written(broken.metrics[limit.name])} and breaks {limit}"
            self.run.say(f"{found}: {successor[0].name} in its place" if successor else f"{found}: left out")
            rows[place : place + 1] = self._measured(successor)
            spares = [row for row in spares if row not in successor]
        return [whole, *rows]

    def _broken(self, metrics: Mapping[str, float], whole: ScoredNetwork) -> list[Constraint]:
        """The limits that latencies break."""
        resolved = [limit.resolved(whole.metrics[limit.name]) for limit in limits(self.run)]
        return [limit for limit in resolved if limit.violation(np.array([metrics[limit.name]]))[0] > 0]

    def _successor(
        self, broken: ScoredNetwork, spares: Sequence[ScoredNetwork], whole: ScoredNetwork
    ) -> list[ScoredNetwork]:
        """The best one that keeps the limits if its prediction is as far off as that of the broken one; or none."""
        names, first = [limit.name for limit in limits(self.run)], self.run.settings.objectives[0]
        off = {name: broken.metrics[name] / broken.metrics[f"{PREDICTED}{name}"] for name in names}
        expected = [{name: off[name] * row.metrics[name] for name in names} for row in spares]
        fitting = [row for row, found in zip(spares, expected, strict=True) if not self._broken(found, whole)]
        return sorted(fitting, key=lambda row: -first.gain(first.value(row.metrics)))[:1]

    def _measured(self, rows: Sequence[ScoredNetwork]) -> list[ScoredNetwork]:
        """Networks with their latencies, those predicted where there is a model, and the ends of both."""
        missing = [row for row in rows if self._key(row) not in self._known]
        if missing:
            whole, supernet = self.run.supernet.space.largest, self.run.supernet
            artefacts = [artefact_of(self.run, supernet, row.subnet or whole) for row in missing]
            found: list[dict[str, float]] = [{} for _ in missing]
            for name in self.names:
                for row, before in zip(found, self._predicted(name, missing, artefacts), strict=True):
                    row |= before
            for name, meter in self.meters.items():
                measured = meter.measure(artefacts, [row.name for row in missing], afresh=True)
                for row, after in zip(found, measured, strict=True):
                    row |= named(name, after.latency.median_ms, after.latency.low_ms, after.latency.high_ms)
            self._known |= {self._key(row): figures for row, figures in zip(missing, found, strict=True)}
            self.run.folder.write(TIMED, self._known)
        return [replace(row, metrics={**row.metrics, **self._known[self._key(row)]}) for row in rows]

    def _key(self, row: ScoredNetwork) -> str:
        """Identifies a network, and what was predicted and measured of it."""
        return digest([row.name, None if row.subnet is None else dict(row.subnet), *self._basis])

    def _predicted(
        self, name: str, rows: Sequence[ScoredNetwork], artefacts: Sequence[Artefact]
    ) -> list[dict[str, float]]:
        """What the model says, in the ledger before anything is measured."""
        model = self.models[name]
        if model is None:
            return [{} for _ in rows]
        features = Table.of_rows([artefact.features for artefact in artefacts]).features
        figures = zip(model.predict(features), *model.interval(features), strict=True)
        found = [named(f"{PREDICTED}{name}", *map(float, values)) for values in figures]
        with (self.run.folder / LEDGER).open("a") as file:
            for row, artefact, before in zip(rows, artefacts, found, strict=True):
                line = {"name": row.name, "graph": artefact.digest, **before, "written": time.time()}
                file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return found


def named(name: str, middle: float, low: float, high: float) -> dict[str, float]:
    """A figure and the ends of its interval, as metrics call them."""
    return {name: middle, f"{name}{LOW}": low, f"{name}{HIGH}": high}
