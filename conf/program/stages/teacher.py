"""The stage `teacher`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ofa.conf.program.run import Run
from ofa.conf.program.stage import Stage
from ofa.conf.program.stages.training import check_batches, trained
from ofa.train import Supervised


@dataclass(frozen=True)
class TrainTeacher(Stage):
    """The backbone learns from labels."""

    name: ClassVar[str] = "teacher"
    depends: ClassVar[tuple[str, ...]] = ("backbone", "data", "task", "teacher", "seed")
    leaves: ClassVar[tuple[str, ...]] = ("teacher.pt",)
    together: ClassVar[bool] = True

    def rehearse(self, run: Run) -> None:
        check_batches(run, "teacher.recipe", run.settings.teacher.recipe)

    def run(self, run: Run) -> None:
        given, backbone = run.settings.teacher, run.backbone()
        run.say(f"{run.settings.values['backbone']}: {sum(p.numel() for p in backbone.parameters()):,} parameters")
        learner = Supervised(backbone, run.splits, given.label_smoothing, task=run.settings.task)
        trained(run, self.name, learner, given.recipe)
