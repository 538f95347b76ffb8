"""The stage `search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ofa.conf.program.proposals import Proposals
from ofa.conf.program.run import Run
from ofa.conf.program.scoring import check_budget, context_of, costs_of, evaluations_seconds, evaluators, importance_of
from ofa.conf.program.settings import Settings
from ofa.conf.program.stage import Stage
from ofa.search import Archive, Crew
from ofa.search import run as search_to_end
from ofa.search.problem import Problem


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
            front = search_to_end(
                search,
                evaluate_subnet,
                archive,
                lambda r: bar.advance(accuracy=r.metrics["accuracy"]),
                map,
                lambda note: run.say(f"search: {note}"),
                map if isinstance(map, Crew) and settings.on_ray else None,
            )
        search.leave(run.folder.path)
        run.tracker.rewind(self.name, -1)
        run.tracker.log(self.name, {"epoch": 0, "evaluated": len(search.results), "front": len(front.rows)})
        Proposals.of(run, front).save(run)
        run.say(f"search: {len(search.results)} subnets evaluated, {len(front.rows)} on the front. {search.stopped}")
        tenth, growth = max(len(front.evaluated) // 10, 1), front.growth()
        if len(growth) > tenth and growth[-1]:
            run.say(f"search: the last {tenth} added {100 * (1 - growth[-1 - tenth]):.1f} % of the front's hypervolume")
