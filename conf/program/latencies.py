"""Latencies of a run's networks: what is timed, in which file it is kept, and what was predicted before."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

import ofa
from ofa.conf.program.run import Run
from ofa.search import LatencyModel, ScoredNetwork
from ofa.search.latency import Artefact, DeviceFile, Meter
from ofa.search.prediction import Table
from ofa.space import Genome, Subnet

MODEL, LEDGER = "latency.json", "predictions.jsonl"


def artefact_of(run: Run, supernet: ofa.Supernet, subnet: Subnet) -> Artefact:
    """A subnet as devices time it: its network, its input, its features; its ONNX file, where one is asked for."""
    features = supernet.features(supernet.space.encode(subnet)[None])
    known = {name: float(values[0]) for name, values in features.items()}
    return Artefact(supernet.extract(subnet).eval(), supernet.resize(run.example, subnet), features=known)


def artefacts_of(run: Run, genomes: Genome) -> list[Artefact]:
    """Those of several genomes."""
    supernet = run.supernet
    return [artefact_of(run, supernet, supernet.space.decode(genome)) for genome in genomes]


@contextmanager
def metering(run: Run) -> Iterator[Meter]:
    """The run's device with its file, beside the largest subnet as the anchor."""
    device, supernet = run.settings.latency, run.supernet
    with DeviceFile.of(device, run.folder.path) as file:
        yield Meter(device, file, artefact_of(run, supernet, supernet.space.largest))


def model_of(run: Run) -> LatencyModel | None:
    """The latency model in the run folder, if there is one.

    Raises:
        ValueError: the file is damaged.
    """
    path = run.folder / MODEL
    return LatencyModel.from_json(path.read_text()) if path.exists() else None


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
    def of_rows(cls, rows: Sequence[ScoredNetwork]) -> Verdict | None:
        """From networks with both figures; None where no one predicted any."""
        names = ("predicted_latency_ms", "latency_ms", "predicted_latency_low_ms", "predicted_latency_high_ms")
        known = [[row.metrics[name] for name in names] for row in rows if names[0] in row.metrics]
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


class Verification:
    """Measures networks that were chosen, after what is predicted of them is on the disk."""

    def __init__(self, run: Run) -> None:
        self.run, self.model = run, model_of(run)

    def verified(self, chosen: Sequence[ScoredNetwork], spare: Sequence[ScoredNetwork]) -> list[ScoredNetwork]:
        """The chosen networks with their latencies, but for those that break a limit of latency when measured.

        Each of these makes room for the first of the `spare` ones that keeps it; of the teacher nothing is asked.
        """
        with metering(self.run) as meter:
            rows, spares = self._measured(meter, chosen), list(spare)
            while broken := [row for row in rows if not self._keeps(row, rows[0])]:
                row = broken[0]
                self.run.say(f"{row.name} takes {row.metrics['latency_ms']:.4g} ms and breaks the limit: left out")
                nearest = sorted(spares, key=lambda other: abs(math.log(other.metrics["macs"] / row.metrics["macs"])))
                more = self._measured(meter, nearest[:1])
                spares = [other for other in spares if other is not nearest[0]] if nearest else []
                place = rows.index(row)
                rows[place : place + 1] = more
        return rows

    def _keeps(self, row: ScoredNetwork, teacher: ScoredNetwork) -> bool:
        limits = [c for c in self.run.settings.constraints if c.name == "latency_ms"]
        whole, own = teacher.metrics["latency_ms"], np.array([row.metrics["latency_ms"]])
        return row is teacher or all(c.resolved(whole).violation(own)[0] == 0 for c in limits)

    def _measured(self, meter: Meter, rows: Sequence[ScoredNetwork]) -> list[ScoredNetwork]:
        """Networks with `latency_ms`, and `predicted_latency_ms` where there is a model, and their intervals."""
        if not rows:
            return []
        largest = self.run.supernet.space.largest
        artefacts = [artefact_of(self.run, self.run.supernet, row.subnet or largest) for row in rows]
        predicted = self._predicted(rows, artefacts)
        found = meter.measure(artefacts, [row.name for row in rows], afresh=True)
        latencies = [one.latency for one in found]
        measured = [
            {"latency_ms": one.median_ms, "latency_low_ms": one.low_ms, "latency_high_ms": one.high_ms}
            for one in latencies
        ]
        known = zip(rows, predicted, measured, strict=True)
        return [replace(row, metrics={**row.metrics, **before, **after}) for row, before, after in known]

    def _predicted(self, rows: Sequence[ScoredNetwork], artefacts: Sequence[Artefact]) -> list[dict[str, float]]:
        """What the model says, in the ledger before anything is measured."""
        if self.model is None:
            return [{} for _ in rows]
        features = Table.of_rows([artefact.features for artefact in artefacts]).features
        middle, (low, high) = self.model.predict(features), self.model.interval(features)
        names = ("predicted_latency_ms", "predicted_latency_low_ms", "predicted_latency_high_ms")
        found = [dict(zip(names, map(float, values), strict=True)) for values in zip(middle, low, high, strict=True)]
        with (self.run.folder / LEDGER).open("a") as file:
            for row, artefact, before in zip(rows, artefacts, found, strict=True):
                line = {"name": row.name, "graph": artefact.digest, **before, "written": time.time()}
                file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return found
