"""Finetuning a network that was cut out of a supernet, with settings that trials choose, and never for the worse."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import optuna
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from torch import Tensor, nn

import ofa
from ofa.conf.program.journal import opened
from ofa.conf.program.pruning import Finetuning
from ofa.conf.program.records import digest
from ofa.conf.program.run import Run
from ofa.search.objectives import Accuracy
from ofa.space import Subnet
from ofa.sparsity import DENSE, Pattern, wanda_scores
from ofa.train import Recipe, Supervised, fit
from ofa.train.guards import Collapse
from ofa.train.masks import Masked
from ofa.train.tasks import Learner, device_of


@dataclass(frozen=True, eq=False)
class Pupil:
    """A subnet that was cut out of its supernet as `net`, and what it takes to train it by itself.

    `patterns` are the N:M patterns of its layers, and `dense` their weights without zeros, where the supernet has them.
    """

    net: nn.Module
    supernet: ofa.Supernet
    subnet: Subnet
    patterns: Mapping[str, Pattern]
    dense: Mapping[str, Tensor]

    @classmethod
    def of(cls, net: nn.Module, supernet: ofa.Supernet, subnet: Subnet, own: bool = False) -> Self:
        """Those of a network that has the supernet's weights, or its `own`."""
        plan = supernet.plan(subnet)
        kinds = {choice.name: choice.kind for choice in supernet.space.choices}
        dense = {name: DENSE if kinds[name] == "sparsity" else value for name, value in subnet.items()}
        weights = {} if own or not plan.zeros else supernet.extract(Subnet(dense)).state_dict()
        return cls(net, supernet, subnet, plan.patterns, {n: w for n, w in weights.items() if n in plan.zeros})

    def resize(self, images: Tensor) -> Tensor:
        """Pictures as the subnet wants them."""
        return self.supernet.resize(images, self.subnet)

    @torch.no_grad()
    def fill(self) -> None:
        """Give layers with a pattern their dense weights back, from which masks are made anew."""
        for name, weight in self.dense.items():
            self.net.get_parameter(name).copy_(weight)


def improve(
    run: Run, pupil: Pupil, given: Finetuning, folder: Path, stage: str, was: Mapping[str, float]
) -> dict[str, float]:
    """Train the network in place; gives its figures on the validation split.

    Where those that it has before (`was`) are better, or it did not converge, it stays as it was, and that is said.
    """
    before = {name: tensor.clone() for name, tensor in pupil.net.state_dict().items()}
    try:
        figures = finetune(run, pupil, given, folder, stage)
    except Collapse as collapse:
        run.say(f"{stage}: finetuning did not converge ({collapse}); it stays as it was, with {was['accuracy']:.2f} %")
        figures = {}
    told = {f"finetuned_{name}": value for name, value in figures.items()}
    if figures and worthwhile(run, stage, was, figures):
        return figures | told
    pupil.net.load_state_dict(before)
    return told


def worthwhile(run: Run, stage: str, before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Whether a network is better after its finetuning; where it is not, or by its loss alone, that is said.

    Accuracies a standard error apart are as good as each other, the more so as that of before was the best of many:
    there the loss decides, which sees more of every picture.
    """
    error = 2 * Accuracy().step(before["accuracy"], len(run.splits.validation))
    gain = after["accuracy"] - before["accuracy"]
    better = after["loss"] <= before["loss"] if abs(gain) <= error else gain > 0
    then, now = (f"{row['accuracy']:.2f} % (loss {row['loss']:.3g})" for row in (before, after))
    if not better:
        run.say(f"{stage}: {now} after finetuning; it stays as it was, with {then}")
    elif gain < 0:
        run.say(f"{stage}: {now} after finetuning, {then} before: within a standard error the loss decides")
    return better


def finetune(run: Run, pupil: Pupil, given: Finetuning, folder: Path, stage: str) -> dict[str, float]:
    """Train the network in place; gives accuracy and loss on the validation split. The same call goes on."""
    pupil.fill()
    recipe = chosen(run, pupil, given, folder, stage) if given.trials else given.recipe
    with run.progress(stage) as bar:
        path = folder / "finetuned.pt"
        figures = fit(learner(run, pupil, given), recipe, path=path, stage=stage, tracker=run.tracker, progress=bar)
    return {"accuracy": figures["accuracy"], "loss": figures["loss"]}


def learner(run: Run, pupil: Pupil, given: Finetuning) -> Learner:
    """What the network learns: from labels and the teacher, under masks where layers have a pattern."""
    own = Supervised(
        pupil.net,
        run.splits,
        given.label_smoothing,
        teacher=run.teacher if given.teacher_share else None,
        soft=given.soft,
        teacher_share=given.teacher_share,
        task=run.settings.task,
        resize=pupil.resize,
    )
    if not pupil.patterns:
        return own
    device, pictures = device_of(pupil.net), run.splits.train.calibration(64, 4, run.settings.seed)
    batches = [pupil.resize(images.to(device)) for images in pictures]
    scores = wanda_scores(pupil.net, pupil.patterns, batches) if given.scores == "wanda" else None
    return Masked(own, given.masking.start(pupil.net, pupil.patterns, scores))


def chosen(run: Run, pupil: Pupil, given: Finetuning, folder: Path, stage: str) -> Recipe:
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
        accuracy = tried(run, pupil, replace(given, recipe=recipe), name)
        study.tell(trial, accuracy)
        run.say(f"{stage} trial {number + 1}: {described(trial.params)} → {accuracy:.2f} %")
    return adapted(given.recipe, study.best_params)


def tried(run: Run, pupil: Pupil, given: Finetuning, name: str) -> float:
    """Accuracy after a short training of a copy; 0 where it collapsed."""
    short = replace(given.recipe, epochs=given.trial_epochs)
    try:
        with run.progress(name) as bar:
            own = learner(run, replace(pupil, net=deepcopy(pupil.net)), given)
            return fit(own, short, stage=name, progress=bar)["accuracy"]
    except Collapse:
        return 0.0


def adapted(recipe: Recipe, params: dict[str, Any]) -> Recipe:
    return replace(recipe, lr=recipe.lr * params["rate"], schedule=params["schedule"])


def described(params: dict[str, Any]) -> str:
    return f"rate times {params['rate']:.3g}, {params['schedule']}"
