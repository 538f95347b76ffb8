"""The stage `supernet`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import ofa
from ofa.conf.program.run import Run
from ofa.conf.program.stage import Stage
from ofa.conf.program.stages.training import check_batches, trained
from ofa.files import write_text
from ofa.train import checkpoint as checkpoints
from ofa.train.plan import duration, estimates, known_rules, table
from ofa.train.published import load_supernet


@dataclass(frozen=True)
class TrainSupernet(Stage):
    """Convert the teacher, write what is elastic and why the rest is not, train by the sampling rule."""

    name: ClassVar[str] = "supernet"
    after: ClassVar[str | None] = "teacher"
    depends: ClassVar[tuple[str, ...]] = ("space", "supernet")
    needs: ClassVar[tuple[str, ...]] = ("teacher.pt",)
    leaves: ClassVar[tuple[str, ...]] = ("supernet.pt", "space.json", "report.json", "report.html", "report.txt")
    together: ClassVar[bool] = True

    def rehearse(self, run: Run) -> None:
        given = run.settings.supernet
        if given.checkpoint and not Path(given.checkpoint).is_file():
            raise ValueError(f"supernet.checkpoint: there is no file {given.checkpoint}")
        if given.trained:
            check_batches(run, "supernet.recipe", given.recipe)
        if not run.folder.has("supernet.pt"):
            _ = run.outline  # refuses a network of which nothing is elastic

    def forecast(self, run: Run) -> float | None:
        given = run.settings.supernet
        return duration(run.learner(run.supernet), given.recipe) if given.trained else 0.0

    def run(self, run: Run) -> None:
        supernet = run.convert()
        if run.folder.writes:
            write_text(run.folder / "space.json", supernet.space.to_json())
            for name in ("report.json", "report.html", "report.txt"):
                supernet.report.save(run.folder / name)
        run.say(summary(supernet))
        given, path = run.settings.supernet, run.folder / "supernet.pt"
        if given.checkpoint and not run.folder.has("supernet.pt"):
            load_supernet(supernet, Path(given.checkpoint))
        if given.trained:
            self._train(run, supernet)
        elif run.folder.writes:
            checkpoints.save(path, {"model": supernet.state_dict()})

    def _train(self, run: Run, supernet: ofa.Supernet) -> None:
        learner, recipe = run.learner(supernet), run.settings.supernet.recipe
        if not run.folder.has("supernet.pt"):
            rows = estimates(learner, recipe, known_rules(learner.rule))
            run.say(table(rows, recipe.epochs))
        trained(run, self.name, learner, recipe)


def summary(supernet: ofa.Supernet) -> str:
    """How much is elastic, and the range of costs."""
    largest, smallest = supernet.cost(supernet.space.largest), supernet.cost(supernet.space.smallest)
    return (
        f"{supernet.report.summary}; {smallest.macs / 1e6:.2f} to {largest.macs / 1e6:.2f} M MACs, "
        f"{smallest.params:,} to {largest.params:,} parameters"
    )
