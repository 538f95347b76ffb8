"""The stage `latency`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ofa.conf.program.latencies import MODEL, artefact_of, artefacts_of, keep_models, metering
from ofa.conf.program.run import Run
from ofa.conf.program.stage import Stage
from ofa.search import LatencyModel
from ofa.search.latency import NOISY_PERCENT, Artefact, Meter
from ofa.search.prediction import Table, d_optimal, draw_predictions, maximin
from ofa.search.sampling import skewed
from ofa.train.progress import Progress

FIRST, MORE = 6, 5  # networks before there is a model, and in each round after it
POOL = 2000


@dataclass(frozen=True)
class MeasureLatency(Stage):
    """Measure subnets that tell most of the others on the latency device; fit the model that a search goes by."""

    name: ClassVar[str] = "latency"
    after: ClassVar[str | None] = "supernet"
    depends: ClassVar[tuple[str, ...]] = ("latency",)
    needs: ClassVar[tuple[str, ...]] = ("teacher.pt", "supernet.pt")
    leaves: ClassVar[tuple[str, ...]] = (MODEL, "latency.png")

    def forecast(self, run: Run) -> float | None:
        """Every sample, and those measured again, as long as the smallest network takes to load and may take to time.

        The first takes longer.
        """
        device, space, times = run.settings.latency, run.supernet.space, []
        for subnet in (space.largest, space.smallest):
            started = time.perf_counter()
            device.load(artefact_of(run, run.supernet, subnet))
            times.append(time.perf_counter() - started)
        return times[0] + (times[1] + device.seconds) * device.samples * 1.1

    def run(self, run: Run) -> None:
        keep_models(run, {name: surveyed(run, name) for name in run.settings.timers})


def surveyed(run: Run, name: str) -> LatencyModel:
    """The model of latencies of a name, from measurements; a picture of both stays."""
    with run.progress(name, run.settings.latency.samples) as bar, metering(run, name) as meter:
        networks = Survey(run, meter, bar)
        networks.go_on()
        model = networks.fitted(meter.noise_percent(networks.artefacts))
    held_out, labels = model.held_out, [f"n{i}" for i in range(len(networks.taken))]
    predicted = model.predict(networks.table.rows(networks.taken).features)
    path = run.folder / f"{name.replace('_ms', '')}.png"
    draw_predictions(path, model.latency_ms, predicted, model.band, labels, f"{name}, {held_out}")
    run.say(f"{name}, model ({model.predictor}): {held_out}")
    if held_out is not None and held_out.noise_percent > NOISY_PERCENT:
        run.say(f"{name}: this machine is too noisy now to say more; latency.seconds=4 measures longer")
    return model


class Survey:
    """Which subnets were measured, and what is left to choose from."""

    def __init__(self, run: Run, meter: Meter, bar: Progress) -> None:
        self.run, self.meter, self.bar = run, meter, bar
        space = run.supernet.space
        ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
        drawn = skewed(space, np.random.default_rng([run.settings.seed, 1]), POOL)
        self.pool = np.unique(np.concatenate([ends, drawn]), axis=0)
        self.table = Table.of(run.supernet.features(self.pool))
        self.taken: list[int] = []
        self.artefacts: list[Artefact] = []
        self.latency_ms: list[float] = []

    def go_on(self) -> None:
        """Measure until the model is good enough, or enough is measured."""
        device = self.run.settings.latency
        self.measure(maximin(self.table, min(FIRST, device.samples)))
        while (left := device.samples - len(self.taken)) > 0:
            model = self.fitted()
            enough = model.held_out is None or model.held_out.percent <= device.error_percent
            if enough and len(self.taken) >= 2 * FIRST:
                break
            if not (more := d_optimal(self.table, model.predict(self.table.features), self.taken, min(MORE, left))):
                break
            self.measure(more)

    def measure(self, places: list[int]) -> None:
        """Measure some of the pool."""
        artefacts = artefacts_of(self.run, self.pool[places])
        found = self.meter.measure(artefacts, [f"n{len(self.taken) + i}" for i in range(len(places))])
        self.taken += places
        self.artefacts += artefacts
        for one in found:
            self.latency_ms.append(one.latency.median_ms)
            self.bar.advance(latency_ms=one.latency.median_ms)

    def fitted(self, noise_percent: float = float("nan")) -> LatencyModel:
        """The model of what was measured."""
        return LatencyModel.fit(self.table.rows(self.taken).features, self.latency_ms, noise_percent)
