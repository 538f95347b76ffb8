"""A study of hyper-parameters of the supernet's training, by Optuna's ask and tell."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from hydra import compose
from omegaconf import DictConfig
from optuna.trial import TrialState
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ofa.conf.program.building import build, hint
from ofa.conf.program.course import Course
from ofa.conf.program.folder import RunFolder
from ofa.conf.program.journal import opened
from ofa.conf.program.records import flat
from ofa.conf.program.run import Run
from ofa.conf.program.tuning import Dimension, Tuning, tunable
from ofa.files import writing
from ofa.train import fit
from ofa.train.guards import Collapse

NAME = "ofa-tune"
JOURNAL = "tuning.journal"
EPOCHS = "supernet.recipe.epochs"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def tune(overrides: Sequence[str]) -> None:
    """Train the teacher, if the run folder has none; go on to the wanted number of trials; show them.

    Raises:
        ValueError: anything the user can mend; no finished trial is lost.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("a study runs in one process: start it without torchrun")
    folder = RunFolder.at(Path(composed(overrides).run))
    with folder.held(), writing(folder.path):
        go_on(Study(overrides))


def go_on(study: Study) -> None:
    """Do what is not finished of a study."""
    try:
        study.course.complete(study.run, study.course.stages[0])
    finally:
        study.run.tracker.close()
    while len(study.finished) < study.tuning.trials:
        study.trial()
    study.run.say(study.table())
    study.run.say(study.verdict())


class Study:
    """A study in a run folder: its journal, and trials that share the run's teacher and data."""

    def __init__(self, overrides: Sequence[str]) -> None:
        config = composed(overrides)
        config.stages = ["teacher", "supernet"]
        self.given, self.course = list(overrides), Course.parse(config)
        self.settings, self.run = self.course.settings, Run.of(self.course.settings)
        if not self.settings.supernet.trained:
            raise ValueError("supernet.trained is false: there is no training to tune")
        self.tuning: Tuning = build(config.tuning, "tuning")
        self.overrides = [*overrides, assigned(EPOCHS, self.tuning.epochs, "++")]
        known = tunable(self.settings.supernet, config.supernet, "supernet")
        known.pop(EPOCHS, None)
        dimensions = {key: self._dimension(key, node, known) for key, node in self.tuning.nodes(known).items()}
        if not dimensions:
            raise ValueError("tuning.space names no setting to tune")
        self.space = {key: d.distribution(whole=known[key][1] is int) for key, d in dimensions.items()}
        self.start = {key: known[key][0] for key, d in dimensions.items() if known[key][0] in d}
        self.study = opened(self.run.folder / JOURNAL, NAME, self._settings(dimensions))
        self.study.pruner = self.tuning.pruning()

    def _dimension(self, key: str, node: Any, known: Mapping[str, Any]) -> Dimension:
        """The dimension of one setting; its ends or choices are tried out on the configuration."""
        path = f"tuning.space.{key}"
        if key not in known:
            raise ValueError(f"{path}: the supernet's training has no such setting to tune; {hint(key, known)}")
        if not isinstance(node, Mapping):
            raise ValueError(f"{path} is {{low, high, log}} or {{choices}}, got {node!r}")
        dimension: Dimension = build({"_target_": "ofa.conf.program.tuning.Dimension", **node}, path)
        for value in dimension.ends:
            try:
                build(composed([*self.overrides, assigned(key, value, "++")]).supernet, "supernet")
            except ValueError as error:
                raise ValueError(f"{path}: {value} does not fit: {error}") from None
        return dimension

    def _settings(self, dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
        """What every trial of the study shares, as plain values; more trials may be wanted later."""
        plan = {**asdict(self.tuning), "space": {key: asdict(d) for key, d in dimensions.items()}}
        del plan["trials"]
        made_with = self.course.made_with(self.course.stages[-1])
        settings: dict[str, Any] = json.loads(json.dumps(made_with | flat(plan, "tuning")))
        return settings

    @property
    def finished(self) -> list[Any]:
        """Trials that came to an end, pruned or not, in their order."""
        return list(self.study.get_trials(deepcopy=False, states=FINISHED))

    def trial(self) -> None:
        """Ask for the next trial, train it, and tell how it went.

        The sampler is seeded by the number of finished trials, so that a study goes on as if nothing had stopped it;
        the first trial has the run's own settings, where the space holds them.
        """
        number = len(self.finished)
        self.study.sampler = self.tuning.sampling(self.settings.seed, number)
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not number and not waiting:
            self.study.enqueue_trial(self.start)
        trial = self.study.ask(self.space)
        try:
            figures = self._train(trial)
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except Collapse as collapse:
            trial.set_user_attr("collapse", str(collapse))
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, score(figures))
        self.run.say(line(self.study.trials[trial.number]))

    def _train(self, trial: Any) -> dict[str, float]:
        """Train the supernet with a trial's settings, in a folder of its own; gives the last epoch's figures."""
        config = composed([*self.overrides, *(assigned(k, v, "++") for k, v in trial.params.items())])
        config.run = str(self.run.folder / f"trials/{trial.number}")
        run = Run.parse(config)
        run.teacher, run.splits = self.run.teacher, self.run.splits
        recipe = run.settings.supernet.recipe

        def on_epoch(row: dict[str, float]) -> None:
            epoch = int(row["epoch"])
            trial.report(score(row), epoch)
            for name in ("accuracy", "accuracy_smallest"):
                trial.set_user_attr(name, row[name])
            if epoch < recipe.epochs and trial.should_prune():
                raise optuna.TrialPruned

        try:
            with run.progress(f"trial {trial.number}") as bar:
                learner = run.learner(run.convert())
                return fit(learner, recipe, stage="supernet", tracker=run.tracker, progress=bar, on_epoch=on_epoch)
        finally:
            run.tracker.close()

    def table(self) -> Table:
        """The finished trials, the best first and pruned ones last."""
        table = Table(title="Trials, accuracies in %", box=SIMPLE_HEAD)
        keys = list(self.space)
        names = [key.rpartition(".")[2] for key in keys]
        for name in ("trial", "score", "largest", "smallest", "epochs"):
            table.add_column(name, justify="right")
        for key, name in zip(keys, names, strict=True):
            table.add_column((name if names.count(name) == 1 else key).replace("_", " "), justify="right")
        for trial in sorted(self.finished, key=rank):
            figures = [trial.value, trial.user_attrs.get("accuracy"), trial.user_attrs.get("accuracy_smallest")]
            epochs = f"{len(trial.intermediate_values)}{'' if trial.state == TrialState.COMPLETE else ' pruned'}"
            shown = ["-" if value is None else f"{value:.2f}" for value in figures]
            table.add_row(str(trial.number), *shown, epochs, *(short(trial.params[key]) for key in keys))
        return table

    def verdict(self) -> str:
        """The best trial, and the command that trains with its settings."""
        complete = [trial for trial in self.finished if trial.state == TrialState.COMPLETE]
        if not complete:
            return "every trial was pruned or collapsed: widen tuning.space to lower rates, or raise tuning.warmup"
        best = min(complete, key=rank)
        given = [o.lstrip("+") for o in self.given if not o.lstrip("+~").startswith("tuning.")]
        command = [*given, *(assigned(key, value) for key, value in best.params.items())]
        return (
            f"best: trial {best.number}, score {best.value:.2f} % (mean of largest and smallest subnet, validation)\n"
            f"ofa {' '.join(map(shlex.quote, command))}\n"
            f"optuna-dashboard {shlex.quote(str(self.run.folder / JOURNAL))}"
        )


def composed(overrides: Sequence[str]) -> DictConfig:
    return compose("tune", overrides=list(overrides))


def assigned(key: str, value: Any, plus: str = "") -> str:
    """A setting as an override."""
    return f"{plus}{key}={json.dumps(value)}"


def score(figures: Mapping[str, float]) -> float:
    """What is maximised, and what says early whether a trial is worth going on: both ends of the space."""
    return (figures["accuracy"] + figures["accuracy_smallest"]) / 2


def rank(trial: Any) -> tuple[bool, float, int]:
    """The best first."""
    return trial.state != TrialState.COMPLETE, -(trial.value or 0.0), trial.number


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def line(trial: Any) -> str:
    """How a trial went."""
    settings = ", ".join(f"{key.rpartition('.')[2]} {short(value)}" for key, value in trial.params.items())
    collapse = trial.user_attrs.get("collapse")
    end = "pruned" if trial.state == TrialState.PRUNED else "done"
    reached = "" if trial.value is None else f" at {trial.value:.2f} %"
    return f"trial {trial.number}: {end}{reached} ({settings})" + (f"; {collapse}" if collapse else "")
