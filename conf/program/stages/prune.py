"""The stage `prune`."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

from ofa.conf.program.finetuning import Pupil, learner
from ofa.conf.program.proposals import Proposals
from ofa.conf.program.pruner import Pruner
from ofa.conf.program.pruning import limits_of
from ofa.conf.program.run import Run
from ofa.conf.program.scoring import check_budget, evaluations_seconds
from ofa.conf.program.settings import Settings
from ofa.conf.program.stage import Stage
from ofa.conf.program.stages.training import check_batches
from ofa.search import Front
from ofa.train.plan import duration


@dataclass(frozen=True)
class Prune(Stage):
    """Instead of the search: prune step by step, each finetuned."""

    name: ClassVar[str] = "prune"
    after: ClassVar[str | None] = "search"
    depends: ClassVar[tuple[str, ...]] = ("pruning",)
    needs: ClassVar[tuple[str, ...]] = ("supernet.pt", "teacher.pt")
    leaves: ClassVar[tuple[str, ...]] = ("pruning", "search.json")

    def brings(self, settings: Settings) -> tuple[str, ...]:
        return ("latency",) if settings.latency_matters else ()

    def check(self, settings: Settings) -> None:
        limits_of(settings.pruning, settings.constraints, settings.search.bounded)

    def rehearse(self, run: Run) -> None:
        settings = run.settings
        if settings.pruning.finetuning is not None:
            check_batches(run, "pruning.finetuning.recipe", settings.pruning.finetuning.recipe)
        check_budget(run, limits_of(settings.pruning, settings.constraints, settings.search.bounded))

    def forecast(self, run: Run) -> float | None:
        """Every step as if the network were still whole, and none taken back."""
        given, settings = run.settings.pruning, run.settings
        shares = [c.upper for c in settings.constraints if c.upper is not None and c.upper <= 1]
        steps = len(given.ladder(shares[0])) if shares and not settings.search.bounded else given.steps or 1
        seconds = evaluations_seconds(run)
        if (finetuning := given.finetuning) is not None:
            supernet, whole = run.supernet, deepcopy(run.teacher).requires_grad_(True)
            own = learner(run, Pupil(whole, supernet, supernet.space.largest, {}, {}), finetuning)
            an_epoch = duration(own, finetuning.recipe) / finetuning.recipe.epochs
            seconds += an_epoch * (finetuning.recipe.epochs + finetuning.trials * finetuning.trial_epochs)
        return steps * seconds

    def run(self, run: Run) -> None:
        pruner = Pruner(run)
        rows = [step.to_row() for step in pruner.prune() if step.accepted]
        cheapest_first = tuple(sorted(rows, key=lambda row: row.metrics["macs"]))
        front = Front(cheapest_first, run.settings.objectives, evaluated=(*pruner.seen, *rows))
        Proposals.of(run, front, pruner.missed).save(run)
