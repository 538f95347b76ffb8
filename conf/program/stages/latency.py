"""The stage `latency`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ofa.conf.program.records import read_lines
from ofa.conf.program.run import Run
from ofa.conf.program.stage import Stage
from ofa.files import write_text, writing
from ofa.search import LatencyPredictor
from ofa.search.sampling import skewed, spread
from ofa.space import Genome, Subnet


@dataclass(frozen=True)
class MeasureLatency(Stage):
    """Measure random subnets on the latency device, and fit the predictor that a search goes by."""

    name: ClassVar[str] = "latency"
    after: ClassVar[str | None] = "supernet"
    depends: ClassVar[tuple[str, ...]] = ("latency",)
    needs: ClassVar[tuple[str, ...]] = ("teacher.pt", "supernet.pt")
    leaves: ClassVar[tuple[str, ...]] = ("latency.jsonl", "latency.json")

    def forecast(self, run: Run) -> float | None:
        supernet, device = run.supernet, run.settings.latency.sliced(run.onnx)
        subnet = supernet.space.largest
        network, example = supernet.extract(subnet).eval(), supernet.resize(run.example, subnet)
        device.measure(network, example)  # the first takes longer
        started = time.perf_counter()
        device.measure(network, example)
        return (time.perf_counter() - started) * device.samples

    def run(self, run: Run) -> None:
        supernet = run.supernet
        pool = skewed(supernet.space, np.random.default_rng([run.settings.seed, 1]), 2000)
        chosen = pool[spread(supernet.costs(pool)["macs"], run.settings.latency.samples)]
        predictor = LatencyPredictor.fit(features_of(supernet.costs(chosen)), measured(run, chosen))
        write_text(run.folder / "latency.json", predictor.to_json())
        run.say(f"latency predictor: {predictor.held_out}")


def measured(run: Run, genomes: Genome) -> list[float]:
    """Milliseconds of each genome's network, (population,), each on the disk as soon as it is known."""
    supernet, device, path = run.supernet, run.settings.latency.sliced(run.onnx), run.folder / "latency.jsonl"
    known = {Subnet(row["subnet"]): float(row["latency_ms"]) for row in read_lines(path)}
    subnets = [supernet.space.decode(genome) for genome in genomes]
    with run.progress("latency", len(subnets)) as bar, writing(path), path.open("a") as file:
        bar.expect(len(subnets), 0)
        for subnet in subnets:
            if subnet not in known:
                example = supernet.resize(run.example, subnet)
                known[subnet] = device.measure(supernet.extract(subnet), example).median_ms
                file.write(json.dumps({"subnet": dict(subnet), "latency_ms": known[subnet]}) + "\n")
                file.flush()
            bar.advance(latency_ms=known[subnet])
    return [known[subnet] for subnet in subnets]


def features_of(costs: Mapping[str, Any]) -> dict[str, Any]:
    """The costs that a latency can follow from."""
    return {name: values for name, values in costs.items() if name not in ("params", "weight_bytes")}
