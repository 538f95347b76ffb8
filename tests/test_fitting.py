"""The training loop: resumed equals uninterrupted, and nothing bad gets in."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ofa.train.data import Digits, Splits
from ofa.train.fitting import Fitting
from ofa.train.progress import Progress
from ofa.train.recipe import SCHEDULES, Recipe
from ofa.train.tasks import Step, Supervised
from ofa.train.tracking import Tracker
from ofa.train.training import fit

RECIPE = Recipe(epochs=3, batch_size=128, lr=0.02)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Digits(size=12).load()


def network(seed: int = 0) -> nn.Module:
    """Small, but with everything that has a state: batch norm, dropout, decayed and undecayed weights."""
    torch.manual_seed(seed)
    features = nn.Conv2d(1, 12, 3, 2), nn.BatchNorm2d(12), nn.ReLU()
    return nn.Sequential(*features, nn.Dropout(0.1), nn.Flatten(), nn.Linear(300, 10))


def same(left: nn.Module, right: nn.Module) -> bool:
    others = right.state_dict()
    return all(torch.equal(value, others[key]) for key, value in left.state_dict().items())


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


class Killed(Exception):
    """Stands for the end of the process."""


class Mortal(Progress):
    """Dies after some steps."""

    def __init__(self, steps: int) -> None:
        super().__init__("train", quiet=True)
        self.left = steps

    def advance(self, **figures: float) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resumed_equals_uninterrupted_bit_for_bit(splits: Splits, tmp_path: Path, optimizer: str) -> None:
    recipe = replace(RECIPE, optimizer=optimizer)
    one, other = tmp_path / "one", tmp_path / "other"
    straight = network()
    expected = fit(Supervised(straight, splits), recipe, path=one / "teacher.pt", stage="teacher", tracker=Tracker(one))
    for steps in (3, 12, 10):  # dies in the first, the second and the third epoch of 8 steps
        learner, keep = Supervised(network(), splits), Tracker(other)
        with pytest.raises(Killed):
            fit(
                learner,
                recipe,
                path=other / "teacher.pt",
                stage="teacher",
                tracker=keep,
                progress=Mortal(steps),
            )
    torch.manual_seed(123)  # a new process has other generators
    resumed = network()
    figures = fit(
        Supervised(resumed, splits),
        recipe,
        path=other / "teacher.pt",
        stage="teacher",
        tracker=Tracker(other),
    )
    assert same(resumed, straight)
    assert figures == expected
    assert rows(other) == rows(one)
    assert [row["epoch"] for row in rows(one)] == [1, 2, 3]


def test_a_finished_training_is_only_loaded(splits: Splits, tmp_path: Path) -> None:
    first, second = network(), network(seed=1)
    figures = fit(Supervised(first, splits), RECIPE, path=tmp_path / "t.pt")
    again = fit(Supervised(second, splits), RECIPE, path=tmp_path / "t.pt", progress=Mortal(0))
    assert again == figures
    assert same(first, second)
    assert not second.training


def test_training_learns_and_leaves_the_global_generators_alone(splits: Splits) -> None:
    model = network()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    figures = fit(Supervised(model, splits), replace(RECIPE, epochs=5))
    assert torch.equal(torch.rand(3), expected)
    assert figures["accuracy"] > 80


@pytest.mark.parametrize("damage", ["recipe", "network", "shape", "foreign", "truncated"])
def test_a_checkpoint_that_does_not_fit_is_named(splits: Splits, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "teacher.pt"
    fit(Supervised(network(), splits), replace(RECIPE, epochs=1), path=path)
    model, recipe = network(), replace(RECIPE, epochs=1)
    if damage == "recipe":
        recipe = replace(recipe, lr=0.5)
    if damage == "network":
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    if damage == "shape":
        model[5] = nn.Linear(300, 10, bias=False)  # type: ignore[operator]
    if damage == "foreign":
        torch.save({"model": {}}, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"teacher\.pt"):
        fit(Supervised(model, splits), recipe, path=path)


@dataclass(frozen=True, eq=False)
class Poisoned(Supervised):
    """Sees pictures that are not numbers at some steps."""

    steps: tuple[int, ...] = ()

    def backward(self, images: Tensor, labels: Tensor, step: Step) -> dict[str, float]:
        return super().backward(images * float("nan") if step.number in self.steps else images, labels, step)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(splits: Splits) -> None:
    fitting = Fitting(Poisoned(network(), splits, steps=(1,)), RECIPE)
    fitting.model.train()
    images, labels = next(splits.train.ordered(64))
    fitting.step(images, labels)
    before = {key: value.clone() for key, value in fitting.model.state_dict().items()}
    fitting.step(images, labels)
    assert fitting.skipped == 1
    assert all(torch.equal(value, before[key]) for key, value in fitting.model.state_dict().items())
    fitting.step(images, labels)
    assert fitting.skipped == 1 and fitting.steps_done == 3
    assert not torch.equal(before["0.weight"], fitting.model.state_dict()["0.weight"])


def test_skipped_steps_are_in_the_row_and_an_epoch_of_them_is_an_error(splits: Splits, tmp_path: Path) -> None:
    fit(Poisoned(network(), splits, steps=(2, 3, 9)), replace(RECIPE, epochs=2), tracker=Tracker(tmp_path))
    assert [row["skipped"] for row in rows(tmp_path)] == [2, 1]
    with pytest.raises(ValueError, match="epoch 1: no step had a finite loss"):
        fit(Poisoned(network(), splits, steps=tuple(range(8))), replace(RECIPE, rollbacks=0))


def test_gradient_values_are_clipped(splits: Splits) -> None:
    fitting = Fitting(Supervised(network(), splits), replace(RECIPE, clip_value=1e-3))
    figures = fitting.step(*next(splits.train.ordered(64)))
    assert figures["gradient"] > 0.1  # measured before clipping
    assert max(float(p.grad.abs().max()) for p in fitting.parameters if p.grad is not None) <= 1e-3 + 1e-9


def test_a_batch_larger_than_the_training_split_is_refused(splits: Splits) -> None:
    with pytest.raises(ValueError, match="batch_size 5000 asked of 1077 pictures"):
        fit(Supervised(network(), splits), replace(RECIPE, batch_size=5000))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_warm_up_and_depend_on_the_step_alone(schedule: str) -> None:
    recipe = replace(RECIPE, epochs=10, schedule=schedule, warmup=0.2)
    optimizer = recipe.optimizer_of(network())
    plan = recipe.schedule_of(optimizer, steps_per_epoch=10)

    def rate(step: int) -> float:
        plan.step_update(step)
        return float(optimizer.param_groups[0]["lr"])

    rates = [rate(step) for step in range(100)]
    assert rates[0] < rates[10] < rates[19] <= max(rates) <= recipe.lr * (1 + 1e-6)
    assert max(rates) > 0.9 * recipe.lr
    assert [rate(step) for step in (70, 3, 50)] == [rates[70], rates[3], rates[50]]


def test_weight_decay_keeps_off_biases_and_normalisations() -> None:
    groups = RECIPE.optimizer_of(network()).param_groups
    decayed = [p.ndim for group in groups for p in group["params"] if group["weight_decay"] > 0]
    kept = [p.ndim for group in groups for p in group["params"] if group["weight_decay"] == 0]
    assert (sorted(decayed), kept) == ([2, 4], [1, 1, 1, 1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"weight_decay": -1.0},
        {"min_lr": -1.0},
        {"warmup": 2.0},
        {"clip_value": 0.0},
        {"schedule": "plateau"},
        {"precision": "float8"},
        {"accumulate": 3},
        {"average": 1.0},
        {"rollbacks": -1},
    ],
    ids=str,
)
def test_meaningless_recipes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"got|allowed"):
        Recipe(**wrong)


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown optimizer 'adamx'; allowed: .*adamw"):
        replace(RECIPE, optimizer="adamx").optimizer_of(network())
