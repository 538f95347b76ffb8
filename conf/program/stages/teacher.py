"""The stage `teacher`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ofa.conf.program.run import Run
from ofa.conf.program.stage import Stage
from ofa.conf.program.stages.training import accuracies, check_batches, trained
from ofa.train import Supervised
from ofa.train import checkpoint as checkpoints
from ofa.train.plan import duration

DOUBTFUL = 0.25  # of the way from guessing to no mistake: a trained network that is below it was not trained for this


@dataclass(frozen=True)
class TrainTeacher(Stage):
    """The backbone learns from labels, or is taken as it is."""

    name: ClassVar[str] = "teacher"
    depends: ClassVar[tuple[str, ...]] = ("backbone", "data", "task", "teacher", "seed")
    leaves: ClassVar[tuple[str, ...]] = ("teacher.pt",)
    together: ClassVar[bool] = True

    def rehearse(self, run: Run) -> None:
        if run.settings.teacher.trained:
            check_batches(run, "teacher.recipe", run.settings.teacher.recipe)

    def forecast(self, run: Run) -> float | None:
        given = run.settings.teacher
        return duration(self._learner(run), given.recipe) if given.trained else 0.0

    def run(self, run: Run) -> None:
        given, learner = run.settings.teacher, self._learner(run)
        parameters = sum(p.numel() for p in learner.model.parameters())
        run.say(f"{run.settings.backbone[0]}: {parameters:,} parameters")
        if given.trained:
            trained(run, self.name, learner, given.recipe)
        else:
            self._taken(run, learner)

    def _learner(self, run: Run) -> Supervised:
        smoothing = run.settings.teacher.label_smoothing
        return Supervised(run.backbone(), run.splits, smoothing, task=run.settings.task)

    def _taken(self, run: Run, learner: Supervised) -> None:
        """Weights that stay as they are: how good they are is said, and doubted where guessing is as good."""
        figures, splits = learner.validate(), run.splits
        pictures = f"{len(splits.validation)} validation pictures"
        run.say(f"{self.name}: not trained; {accuracies(run, figures)} on {pictures}")
        accuracy, chance = figures["accuracy"], 100 / splits.num_classes
        if run.uneven:
            accuracy = figures.get("balanced_accuracy", accuracy)
        if accuracy < chance + DOUBTFUL * (100 - chance):
            wanted = splits.preprocessing
            shape = " x ".join(map(str, run.example.shape[1:]))
            run.say(
                f"warning: guessing gives {chance:.3g} %. Likely causes: the classes are others, or in another order"
                f" ({splits.num_classes} here: {', '.join(splits.classes[:4])}, …), or the pictures are prepared in"
                f" another way ({shape} here, less {list(wanted.mean)}, divided by {list(wanted.std)})"
            )
        if run.folder.writes:
            checkpoints.save(run.folder / self.leaves[0], {"model": learner.model.state_dict()})
