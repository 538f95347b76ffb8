"""Finetuning a pruned network, with settings that short trials have chosen."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from torch import nn

from ofa.conf.program.journal import opened
from ofa.conf.program.pruning import Finetuning
from ofa.conf.program.records import digest
from ofa.conf.program.run import Run
from ofa.sparsity import Pattern, wanda_scores
from ofa.train import Recipe, Supervised, fit
from ofa.train.guards import Collapse
from ofa.train.masks import Masked
from ofa.train.tasks import Learner

Patterns = Mapping[str, Pattern]
"""The N:M pattern of each layer that has one."""


def finetune(
    run: Run, net: nn.Module, patterns: Patterns, given: Finetuning, folder: Path, stage: str
) -> dict[str, float]:
    """Train `net` in place; gives accuracy and loss on the validation split. The same call goes on after a kill."""
    recipe = chosen(run, net, patterns, given, folder, stage) if given.trials else given.recipe
    with run.progress(stage) as bar:
        path = folder / "finetuned.pt"
        figures = fit(
            learner(run, net, patterns, given), recipe, path=path, stage=stage, tracker=run.tracker, progress=bar
        )
    return {"accuracy": figures["accuracy"], "loss": figures["loss"]}


def learner(run: Run, net: nn.Module, patterns: Patterns, given: Finetuning) -> Learner:
    """What the network learns: from labels and the original, under masks where layers have a pattern."""
    teacher = run.teacher if given.teacher_share else None
    own = Supervised(
        net,
        run.splits,
        given.label_smoothing,
        teacher=teacher,
        soft=given.soft,
        teacher_share=given.teacher_share,
        task=run.settings.task,
    )
    if not patterns:
        return own
    batches = [images.to(run.settings.device) for images in run.splits.train.calibration(64, 4, run.settings.seed)]
    scores = wanda_scores(net, patterns, batches) if given.scores == "wanda" else None
    return Masked(own, given.masking.start(net, patterns, scores))


def chosen(run: Run, net: nn.Module, patterns: Patterns, given: Finetuning, folder: Path, stage: str) -> Recipe:
    """The recipe with the rate and the schedule of the best trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = {"finetuning": digest(asdict(given)), "seed": run.settings.seed}
    study = opened(folder / "finetuning.journal", stage, settings)
    own = {"rate": 1.0, "schedule": given.recipe.schedule}
    schedules = tuple(dict.fromkeys((given.recipe.schedule, *given.schedules)))
    space: dict[str, Any] = {
        "rate": FloatDistribution(min(given.rates[0], 1.0), max(given.rates[1], 1.0), log=True),
        "schedule": CategoricalDistribution(schedules),
    }
    while (number := len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))) < given.trials:
        study.sampler = optuna.samplers.TPESampler(seed=run.settings.seed + number)
        if not number and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            study.enqueue_trial(own)  # also after a kill in the middle of it
        trial = study.ask(space)
        recipe, name = adapted(given.recipe, trial.params), f"{stage} trial {number + 1}"
        accuracy = tried(run, net, patterns, replace(given, recipe=recipe), name)
        study.tell(trial, accuracy)
        run.say(f"{stage} trial {number + 1}: {described(trial.params)} → {accuracy:.2f} %")
    return adapted(given.recipe, study.best_params)


def tried(run: Run, net: nn.Module, patterns: Patterns, given: Finetuning, name: str) -> float:
    """Accuracy after a short training of a copy; 0 where it collapsed."""
    short = replace(given.recipe, epochs=given.trial_epochs)
    try:
        with run.progress(name) as bar:
            return fit(learner(run, deepcopy(net), patterns, given), short, stage=name, progress=bar)["accuracy"]
    except Collapse:
        return 0.0


def adapted(recipe: Recipe, params: dict[str, Any]) -> Recipe:
    return replace(recipe, lr=recipe.lr * params["rate"], schedule=params["schedule"])


def described(params: dict[str, Any]) -> str:
    return f"rate times {params['rate']:.3g}, {params['schedule']}"
