"""The plan of a training: what an epoch will take by each rule, from a few measured steps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from rich.table import Table

from ofa.train.distribution import part
from ofa.train.fitting import Fitting
from ofa.train.recipe import Recipe
from ofa.train.sampling import ProgressiveShrinking, Rule, SandwichRule, UniformRule
from ofa.train.sandwich import Sandwich
from ofa.train.tasks import Learner, Step


@dataclass(frozen=True)
class Estimate:
    """One rule: subnets a step, seconds a step, and steps an epoch; validation comes on top."""

    name: str
    nets: float
    step_seconds: float
    steps_per_epoch: int

    @property
    def epoch_seconds(self) -> float:
        return self.step_seconds * self.steps_per_epoch


def known_rules(own: Rule) -> dict[str, Rule]:
    """The rules that a plan compares, with the recipe's own first."""
    shrinking = UniformRule(schedule=ProgressiveShrinking(), seed=own.seed)
    others = {
        "sandwich": SandwichRule(seed=own.seed),
        "uniform": UniformRule(seed=own.seed),
        "progressive shrinking": shrinking,
    }
    names = [name for name, rule in others.items() if (type(rule), rule.schedule) == (type(own), own.schedule)]
    name = names[0] if names else type(own).__name__
    return {name: own} | {other: rule for other, rule in others.items() if other != name}


def estimates(
    learner: Sandwich,
    recipe: Recipe,
    rules: Mapping[str, Rule],
    measured: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Estimate]:
    """Time a few steps of every rule, spread over the training; the model is afterwards what it was."""
    images, labels = next(iter(learner.splits.train.shuffled(recipe.batch_size, recipe.seed, 0, part=part())))
    weights = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    rows = []
    for name, rule in rules.items():
        fitting = Fitting(replace(learner, rule=rule), recipe)
        learner.model.train()
        fitting.step(images, labels)  # warms up
        seconds, nets = 0.0, 0
        for i in range(measured):
            fitting.steps_done = int(fitting.steps * (i + 0.5) / measured)
            nets += len(rule.draw(learner.supernet, Step(fitting.steps_done, fitting.steps)))
            started = clock()
            fitting.step(images, labels)
            seconds += clock() - started
        rows.append(Estimate(name, nets / measured, seconds / measured, fitting.steps_per_epoch))
        learner.model.load_state_dict(weights)
    learner.model.zero_grad()
    return rows


def duration(
    learner: Learner, recipe: Recipe, measured: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of a training with its validations, from a few measured steps; the model is afterwards what it was."""
    weights = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    fitting = Fitting(learner, recipe)
    learner.model.train()
    batches = learner.splits.train.shuffled(recipe.batch_size, recipe.seed, 0, part=part())
    fitting.step(*next(batches))  # warms up
    started, steps = clock(), 0
    for images, labels in itertools.islice(batches, measured):
        fitting.step(images, labels)
        steps += 1
    a_step, started = (clock() - started) / max(steps, 1), clock()
    learner.validate()
    validation = clock() - started
    learner.model.load_state_dict(weights)
    learner.model.zero_grad()
    return recipe.epochs * (fitting.steps_per_epoch * a_step + validation)


def table(rows: Sequence[Estimate], epochs: int) -> Table:
    """The estimates, the chosen rule's first."""
    result = Table(title=f"plan: {epochs} epochs of {rows[0].steps_per_epoch} steps, without validation")
    for column in ("rule", "subnets a step", "a step", "an epoch", "the training"):
        result.add_column(column, justify="left" if column == "rule" else "right")
    for i, row in enumerate(rows):
        whole = timedelta(seconds=round(row.epoch_seconds * epochs))
        cells = (f"{row.nets:g}", f"{row.step_seconds:.3g} s", f"{row.epoch_seconds:.3g} s", str(whole))
        result.add_row(f"{row.name} (chosen)" if i == 0 else row.name, *cells, style="bold" if i == 0 else None)
    return result
