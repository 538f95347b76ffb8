"""The stage `search`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from ofa.conf.program.proposals import Proposals
from ofa.conf.program.run import Run
from ofa.conf.program.scoring import check_budget, context_of, costs_of, evaluations_seconds, evaluators, importance_of
from ofa.conf.program.settings import Settings
from ofa.conf.program.stage import Stage
from ofa.search import Archive, Crew
from ofa.search import run as search_to_end
from ofa.search.evaluation import Result
from ofa.search.objectives import Objective
from ofa.search.problem import Problem
from ofa.train.progress import Progress


@dataclass(frozen=True)
class SearchFront(Stage):
    """Evaluate what the engine proposes on the validation split, each subnet recalibrated and archived."""

    name: ClassVar[str] = "search"
    after: ClassVar[str | None] = "latency"
    depends: ClassVar[tuple[str, ...]] = ("objectives", "budget", "search")
    needs: ClassVar[tuple[str, ...]] = ("supernet.pt", "teacher.pt")
    leaves: ClassVar[tuple[str, ...]] = ("archive.sqlite", "search.json")
    repeatable: ClassVar[bool] = True

    def brings(self, settings: Settings) -> tuple[str, ...]:
        return ("latency",) if settings.latency_matters else ()

    def check(self, settings: Settings) -> None:
        if settings.search.needs_budget and all(c.upper is None for c in settings.constraints):
            name = f"search={type(settings.search).__name__}"
            raise ValueError(f"{name} goes to a budget, and there is none: budget.macs=0.5, or of another cost")

    def rehearse(self, run: Run) -> None:
        check_budget(run, run.settings.constraints)

    def forecast(self, run: Run) -> float | None:
        return evaluations_seconds(run)

    def run(self, run: Run) -> None:
        supernet, settings = run.supernet, run.settings
        learner = run.learner(supernet)
        costs = costs_of(run, supernet)
        problem = Problem.parse(
            supernet.space,
            settings.objectives,
            costs,
            settings.constraints,
            importance_of(run, supernet),
            len(learner.splits.validation),
        )
        search = settings.search.start(problem, settings.seed)
        run.say(f"search: {search.size}")
        with (
            Archive(run.folder / "archive.sqlite", context_of(run, supernet)) as archive,
            run.progress(self.name) as bar,
            evaluators(run, learner.evaluate_subnet) as (evaluate_subnet, map),
        ):
            bar.expect(search.evaluations, 0)
            pace = Pace(bar)
            front = search_to_end(
                search,
                evaluate_subnet,
                archive,
                pace.hear,
                map,
                lambda note: run.say(f"search: {note}"),
                map if isinstance(map, Crew) and settings.on_ray else None,
            )
        search.leave(run.folder.path)
        run.tracker.rewind(self.name, -1)
        run.tracker.log(self.name, {"epoch": 0, "evaluated": len(search.results), "front": len(front.rows)})
        Proposals.of(run, front).save(run)
        run.say(f"search: {len(search.results)} subnets evaluated, {len(front.rows)} on the front. {search.stopped}")
        if pace.heard:
            run.say(f"search: {pace.said(settings.objectives[0], len(learner.splits.validation))}")
        tenth, growth = max(len(front.evaluated) // 10, 1), front.growth()
        if len(growth) > tenth and growth[-1]:
            run.say(f"search: the last {tenth} added {100 * (1 - growth[-1 - tenth]):.1f} % of the front's hypervolume")


class Pace:
    """Moves a bar, and notes how fast subnets are evaluated and how sure one evaluation is."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.started = bar, time.perf_counter()
        self.fresh, self.heard = 0, list[Mapping[str, float]]()

    def hear(self, result: Result) -> None:
        self.bar.advance(accuracy=result.metrics["accuracy"])
        self.heard.append(result.metrics)
        self.fresh += not result.known

    def said(self, objective: Objective, samples: int) -> str:
        """The speed, the engine's own time in it, and the 95 % interval of the evaluation in the middle."""
        speed = f"{self.fresh / (time.perf_counter() - self.started):.2g} subnets a second"
        middle = median(objective.value(metrics) for metrics in self.heard)
        ends = objective.interval(middle, samples)
        if ends is None:
            return speed
        return f"{speed}; one evaluation says {objective.written(middle, ends)} (95 %, {samples} pictures)"
