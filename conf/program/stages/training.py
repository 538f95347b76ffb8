"""What the trainings of two stages share: a bar, a checkpoint that goes on, and a line at the end."""

from __future__ import annotations

from collections.abc import Mapping

from ofa.conf.program.run import Run
from ofa.train import Recipe, fit
from ofa.train.tasks import Learner


def check_batches(run: Run, name: str, recipe: Recipe) -> None:
    """Refuse a recipe whose batch is larger than the training split.

    Raises:
        ValueError: names the recipe, and how many pictures there are.
    """
    try:
        run.splits.train.steps(recipe.batch_size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def trained(run: Run, stage: str, learner: Learner, recipe: Recipe) -> None:
    """Train to the end, or go on → `<stage>.pt`."""
    path = run.folder / f"{stage}.pt"
    with run.progress(stage) as bar:
        figures = fit(learner, recipe, path=path, stage=stage, tracker=run.tracker, progress=bar)
    run.say(f"{stage}: {accuracies(run, figures)}")


def accuracies(run: Run, figures: Mapping[str, float]) -> str:
    """The accuracies among some figures; where classes are uneven, also those for which each class counts the same."""
    wanted = ("accuracy", "balanced") if run.uneven else ("accuracy",)
    return ", ".join(f"{k.replace('_', ' ')} {v:.2f} %" for k, v in figures.items() if k.startswith(wanted))
