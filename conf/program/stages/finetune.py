"""The stage `finetune`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import mean
from typing import ClassVar

import numpy as np

from ofa.conf.program.finetuning import learner
from ofa.conf.program.proposals import FINETUNED, Proposals
from ofa.conf.program.run import Run
from ofa.conf.program.settings import Settings
from ofa.conf.program.stage import Stage
from ofa.conf.program.stages.training import check_batches
from ofa.conf.program.students import Rows, alone, circle, pupil_of, together
from ofa.search import ScoredNetwork
from ofa.train.plan import duration


@dataclass(frozen=True)
class FinetuneFront(Stage):
    """Let the networks that leave learn on, each by itself or all together; the better of before and after stays."""

    name: ClassVar[str] = "finetune"
    after: ClassVar[str | None] = "prune"
    depends: ClassVar[tuple[str, ...]] = ("finetune", "export.subnets")
    needs: ClassVar[tuple[str, ...]] = ("search.json", "supernet.pt", "teacher.pt")
    leaves: ClassVar[tuple[str, ...]] = (FINETUNED, "finetuned")
    repeatable: ClassVar[bool] = True

    def check(self, settings: Settings) -> None:
        if settings.finetune.trained and settings.finetune.shared and "prune" in settings.values["stages"]:
            raise ValueError("finetune=shared: pruned networks have weights of their own; finetune=short, full or off")

    def rehearse(self, run: Run) -> None:
        if run.settings.finetune.trained:
            check_batches(run, "finetune.recipe", run.settings.finetune.recipe)

    def forecast(self, run: Run) -> float | None:
        """Every network as if it were the largest."""
        given, number = run.settings.finetune.lengthened, run.settings.export.subnets
        space = run.supernet.space
        if not given.trained:
            return 0.0
        if given.shared:
            return duration(
                circle(run, tuple(space.sample(np.random.default_rng(k)) for k in range(number))), given.recipe
            )
        pupil = pupil_of(run, ScoredNetwork("largest", space.largest, {}))
        an_epoch = duration(learner(run, pupil, given), given.recipe) / given.recipe.epochs
        epochs = given.recipe.epochs + given.trials * given.trial_epochs
        return an_epoch * epochs * -(-number // run.settings.workers)

    def run(self, run: Run) -> None:
        given, proposals = run.settings.finetune, Proposals.load(run, finetuned=False)
        chosen = proposals.chosen(run)
        if not given.trained or not chosen:
            run.say(f"{self.name}: {'off' if not given.trained else 'there is no network'}")
            return
        rows = together(run, chosen) if given.shared else alone(run, chosen)
        replace(proposals, front=replace(proposals.front, rows=rows), file=FINETUNED).save(run)
        run.say(summary(run, rows))


def summary(run: Run, rows: Rows) -> str:
    """What it was good for."""
    before, after = (mean(row.metrics[name] for row in rows) for name in ("proposed_accuracy", "accuracy"))
    kept = sum(row.metrics["accuracy"] <= row.metrics["proposed_accuracy"] for row in rows)
    networks = "1 network" if len(rows) == 1 else f"{len(rows)} networks"
    return (
        f"finetune: {networks}, {before:.2f} → {after:.2f} % on average on {len(run.splits.validation)} validation"
        f" pictures{f', {kept} of them no better' if kept else ''}"
    )
