"""A search with a thousand workers of random speeds, failures and stragglers, by a clock that they alone move.

python experiments/search/crowd.py [--seeds 2] [--table]
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import moocore
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments import results
from experiments.search.spaces import FOLDER, Table, read
from ofa.arrays import FloatArray
from ofa.search import Archive, Crew, Engine, Evolution, Guided, Problem, run
from ofa.search.crew import Futures
from ofa.space import Genome, Subnet

RESULTS = FOLDER / "crowd.csv"
FAILS, STALLS = 0.03, 0.02  # shares of evaluations at which a worker dies, or takes twenty times as long
STALLED, RESTART = 20.0, 2.0  # that long, and until a dead worker is back, in evaluations


class Crowd(Executor):
    """Workers whose evaluations take one unit of time on average; `end` is what the clock shows."""

    def __init__(self, number: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.pace = self.rng.lognormal(-0.125, 0.5, number)
        self.free = list(range(number))
        self.end, self.asked_until, self.deaths, self.begun = 0.0, 0.0, 0, 0
        self.work: list[tuple[float, float]] = []  # from when to when somebody evaluated
        self.queue: list[tuple[float, int, int, Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        worker, future = self.free.pop(int(self.rng.integers(len(self.free)))), Future[Any]()
        future.set_running_or_notify_cancel()
        ready = self.end
        while self.rng.random() < FAILS:  # it dies on the way, is started again, and has the same subnet
            self.work.append((ready, died := ready + self.rng.random() * self.pace[worker]))
            ready, self.deaths = died + RESTART, self.deaths + 1
        takes = self.pace[worker] * self.rng.lognormal(-0.02, 0.2) * (STALLED if self.rng.random() < STALLS else 1.0)
        self.work.append((ready, ready + takes))
        self.asked_until, self.begun = self.end, self.begun + 1
        heapq.heappush(self.queue, (ready + takes, self.begun, worker, future, lambda: fn(*args, **kwargs)))
        return future

    def advance(self) -> None:
        """Until the next evaluation is ready."""
        self.end, _, worker, future, task = heapq.heappop(self.queue)
        self.free.append(worker)
        future.set_result(task())

    @property
    def idle(self) -> float:
        """The share in per cent of the time in which nobody evaluated, until the last subnet was handed out."""
        begin, end = np.minimum(np.array(self.work), self.asked_until).T
        return float(100 * (1 - (end - begin).sum() / (len(self.pace) * self.asked_until)))


@dataclass(frozen=True)
class SimulatedCrew(Crew):
    """A crew that waits by the crowd's clock."""

    def finished(self, given: Futures) -> Futures:
        assert isinstance(self.executor, Crowd)
        self.executor.advance()
        return wait(given, 0.0).done


@dataclass(frozen=True)
class Tabulated:
    """The table as a problem: a subnet is what the row is that differs from it in the fewest choices."""

    table: Table

    @cached_property
    def problem(self) -> Problem:
        """MACs by a sum over options, so that engines know about what a subnet costs before it is evaluated."""
        rows = self._options(self.table.genomes)
        weights = np.linalg.lstsq(rows, self.table.figures["macs"], rcond=None)[0]
        least = float(self.table.figures["macs"].min())
        costs = lambda genomes: {"macs": np.maximum(self._options(genomes) @ weights, least)}  # noqa: E731
        return Problem.parse(self.table.space, ["accuracy", "macs"], costs)

    def _options(self, genomes: Genome) -> FloatArray:
        there = ~self.table.space.skipped(genomes)
        steps = [(genomes[:, i] >= k) & there[:, i] for i, c in enumerate(self.table.space.counts) for k in range(c)]
        return np.stack([*steps, np.ones(len(genomes), dtype=bool)], axis=1).astype(np.float64)

    def evaluate(self, subnet: Subnet) -> dict[str, float]:
        genome = self.table.space.encode(subnet)
        row = int((self.table.genomes != genome).sum(axis=1).argmin())
        return {name: float(self.table.figures[name][row]) for name in ("accuracy", "macs")}

    def share(self, told: FloatArray) -> float:
        """The hypervolume of accuracies and MACs, (rows, 2), in per cent of all the table's."""
        whole = np.stack([self.table.figures["accuracy"], self.table.figures["macs"]], axis=1)
        corner = [float(whole[:, 0].min()), float(whole[:, 1].max())]
        volumes = [moocore.hypervolume(rows, ref=corner, maximise=[True, False]) for rows in (told, whole)]
        return float(100 * volumes[0] / volumes[1])


@dataclass(frozen=True)
class Outcome:
    """The front's share of the table's hypervolume, the crowd after its work, and what was evaluated."""

    share: float
    crowd: Crowd
    subnets: tuple[Subnet, ...]


def searched(tabulated: Tabulated, engine: Engine, workers: int, seed: int, freely: bool = True) -> Outcome:
    """One search by a crowd, asynchronous or batch by batch."""
    crowd = Crowd(workers, seed)
    crew = SimulatedCrew(crowd, workers)
    search = engine.start(tabulated.problem, seed)
    with Archive(":memory:") as archive:
        run(search, tabulated.evaluate, archive, **({"crew": crew} if freely else {"map": crew}))  # type: ignore[arg-type]
        subnets = tuple(archive)
    told = np.array([[m["accuracy"], m["macs"]] for m in search.results.values()])
    return Outcome(tabulated.share(told), crowd, subnets)


SEARCHES: dict[str, tuple[Callable[[int], Engine], int]] = {
    "evolution": (lambda batch: Evolution(population=batch, evaluations=10_000), 50),
    "guided": (lambda batch: Guided(population=batch, evaluations=300), 10),
}
CROWDS = {"evolution": (1, 1000), "guided": (1, 10, 40)}


def measured(tabulated: Tabulated, name: str, workers: int, seed: int, freely: bool) -> dict[str, Any]:
    make, usual = SEARCHES[name]
    found = searched(tabulated, make(usual if freely else max(workers, usual)), workers, seed, freely)
    return {
        "engine": name,
        "workers": workers,
        "how": "freely" if freely else "in batches",
        "seed": seed,
        "evaluated": len(found.subnets),
        "deaths": found.crowd.deaths,
        "time": round(float(found.crowd.end), 1),
        "idle": round(found.crowd.idle, 2),
        "share": round(found.share, 2),
    }


def table() -> str:
    """Means over the seeds, as Markdown."""
    lines = []
    for (engine, workers, how), rows in results.by(results.read(RESULTS), "engine", "workers", "how").items():
        figures = [mean(float(row[name]) for row in rows) for name in ("evaluated", "deaths", "time", "idle", "share")]
        lines.append([engine, workers, how, len(rows), *(f"{figure:.1f}" for figure in figures)])
    header = ["engine", "workers", "how", "seeds", "evaluated", "deaths", "time", "idle (%)", "front (%)"]
    return results.markdown(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="show what there is, and search nothing")
    given = parser.parse_args()
    done = {(row["engine"], row["workers"], row["how"], row["seed"]) for row in results.read(RESULTS)}
    tabulated = Tabulated(read(FOLDER / "table.csv.gz"))
    for seed in range(0 if given.table else given.seeds):
        for name, crowds in CROWDS.items():
            for workers in crowds:
                for freely in (True, False) if workers > 1 else (False,):
                    how = "freely" if freely else "in batches"
                    if (name, str(workers), how, str(seed)) not in done:
                        results.append(RESULTS, measured(tabulated, name, workers, seed, freely))
    print(table())


if __name__ == "__main__":
    main()
