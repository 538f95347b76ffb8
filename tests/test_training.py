"""Nothing loses a run: a signal, a collapse, a bad epoch; and what a step may be asked to do besides."""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ofa import SpaceConfig, Subnet, Supernet
from ofa.signals import STOPS, Terminated
from ofa.train import Sandwich, SandwichRule
from ofa.train.data import Digits, Mixing, Splits
from ofa.train.fitting import Fitting
from ofa.train.progress import Progress
from ofa.train.recipe import Recipe
from ofa.train.tasks import Step, Supervised
from ofa.train.training import fit

RECIPE = Recipe(epochs=3, batch_size=128, lr=0.02)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Digits(size=12).load()


def network(normalised: bool = True) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(12) if normalised else nn.GroupNorm(3, 12)
    return nn.Sequential(nn.Conv2d(1, 12, 3, 2), norm, nn.ReLU(), nn.Flatten(), nn.Linear(300, 10))


def same(left: nn.Module, right: nn.Module) -> bool:
    others = right.state_dict()
    return all(torch.equal(value, others[key]) for key, value in left.state_dict().items())


class Asked(Progress):
    """Sends a signal to its own process after some steps."""

    def __init__(self, steps: int, number: signal.Signals) -> None:
        super().__init__("train", quiet=True)
        self.left, self.number = steps, number

    def advance(self, **figures: float) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("steps", [3, 8, 13], ids=["first epoch", "its end", "second epoch"])
@pytest.mark.parametrize("average", [None, 0.9])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(
    splits: Splits, tmp_path: Path, steps: int, average: float | None, number: signal.Signals
) -> None:
    recipe, path = replace(RECIPE, average=average, mixing=Mixing()), tmp_path / "net.pt"
    straight, model = network(), network()
    expected = fit(Supervised(straight, splits), recipe)
    with pytest.raises(STOPS) as stopped:
        fit(Supervised(model, splits), recipe, path=path, progress=Asked(steps, number))
    assert isinstance(stopped.value, KeyboardInterrupt) == (number == signal.SIGINT)
    assert number == signal.SIGINT or stopped.value.code == 143  # type: ignore[union-attr]
    assert (tmp_path / "net-partial.pt").exists()
    resumed = network()
    assert fit(Supervised(resumed, splits), recipe, path=path) == expected
    assert same(resumed, straight)
    assert not (tmp_path / "net-partial.pt").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@dataclass(frozen=True, eq=False)
class Validated(Sandwich):
    """Asked to stop in the middle of a validation, once."""

    asked: list[int] = field(default_factory=lambda: [5])  # the second subnet of the second epoch's

    def evaluate_subnet(self, subnet: Subnet) -> dict[str, float]:
        figures = super().evaluate_subnet(subnet)
        self.asked[0] -= 1
        if self.asked[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return figures


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_signal_during_the_validation_costs_the_validation_alone(
    splits: Splits, tmp_path: Path, average: float | None
) -> None:
    recipe, path = replace(RECIPE, average=average), tmp_path / "net.pt"

    def learner(kind: type[Sandwich]) -> Sandwich:
        supernet = Supernet(network(), splits.example, SpaceConfig(width=(0.5, 1.0)))
        return kind(supernet, splits, SandwichRule(), calibration_batches=1)

    expected = fit(straight := learner(Sandwich), recipe)
    with pytest.raises(Terminated):
        fit(learner(Validated), recipe, path=path)
    stopped = torch.load(tmp_path / "net-partial.pt")
    assert stopped["steps_done"] == 16 and stopped["sums"]
    with pytest.raises(Terminated):
        fit(learner(Sandwich), recipe, path=tmp_path / "before.pt", progress=Asked(16, signal.SIGTERM))
    before = torch.load(tmp_path / "before-partial.pt")["model"]
    assert all(torch.equal(value, before[name]) for name, value in stopped["model"].items())
    rows: list[dict[str, float]] = []
    assert fit(resumed := learner(Sandwich), recipe, path=path, on_epoch=rows.append) == expected
    assert [row["epoch"] for row in rows] == [2, 3]
    assert same(resumed.model, straight.model)


@dataclass(frozen=True, eq=False)
class Fragile(Supervised):
    """Its weights are ruined at a step, as often as told."""

    step: int = 12
    times: list[int] = field(default_factory=lambda: [1])

    def backward(self, images: Tensor, labels: Tensor, step: Step) -> dict[str, float]:
        if step.number == self.step and self.times[0]:
            self.times[0] -= 1
            with torch.no_grad():
                self.model[4].weight.mul_(-1)  # type: ignore[index, operator, union-attr]
        return super().backward(images, labels, step)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "on disk"])
def test_a_collapse_goes_back_with_a_lower_rate(splits: Splits, tmp_path: Path, kept: bool) -> None:
    recipe = replace(RECIPE, epochs=4, lr=1e-3, warmup=0.0, schedule="constant")
    rows: list[dict[str, float]] = []
    path = tmp_path / "net.pt" if kept else None
    learner = Fragile(network(), splits, step=23)  # the last of the third epoch: nothing mends it
    figures = fit(learner, recipe, path=path, on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["rollbacks"] for row in rows] == [0, 0, 1, 1]
    assert [row["lr"] for row in rows] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4])
    assert figures["accuracy"] >= rows[1]["accuracy"]


def test_a_collapse_that_returns_stops_the_run_and_says_so(splits: Splits, tmp_path: Path) -> None:
    learner, path = Fragile(network(), splits, step=23, times=[9]), tmp_path / "net.pt"
    recipe = replace(RECIPE, lr=1e-3)
    with pytest.raises(ValueError, match=r"epoch 3: accuracy .* went back 2 times already"):
        fit(learner, recipe, path=path)
    assert torch.load(path)["steps_done"] == 16  # the last good epoch is what is left
    assert torch.load(tmp_path / "net-1.pt")["steps_done"] == 8


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_equal_the_whole_batch(splits: Splits, parts: int) -> None:
    images, labels = next(splits.train.ordered(64))
    gradients = []
    for accumulate in (1, parts):
        fitting = Fitting(
            Supervised(network(normalised=False), splits), replace(RECIPE, accumulate=accumulate, clip_value=None)
        )
        fitting.step(images, labels)
        gradients.append([p.grad for p in fitting.parameters if p.grad is not None])
    for whole, summed in zip(*gradients, strict=True):
        assert torch.allclose(whole, summed, atol=1e-6)


def test_the_average_is_validated_and_kept(splits: Splits) -> None:
    model = network()
    fitting = Fitting(Supervised(model, splits), replace(RECIPE, average=0.99))
    model.train()
    for images, labels in splits.train.shuffled(128, 0, 0):
        fitting.step(images, labels)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    average = fitting.average.module
    assert not same(model, average)
    with fitting.averages():
        assert same(model, average)
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "wanted",
    [{"precision": "bfloat16"}, {"precision": "float16"}, {"channels_last": True}, {"mixing": Mixing(0.2, 1.0)}],
)
def test_a_recipe_may_ask_for_more_and_still_learns(splits: Splits, wanted: dict[str, Any]) -> None:
    model = network()
    figures = fit(Supervised(model, splits), replace(RECIPE, epochs=5, **wanted))
    assert figures["accuracy"] > 75
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_scaled_losses_give_unscaled_gradients(splits: Splits) -> None:
    images, labels = next(splits.train.ordered(64))
    norms = []
    for precision in ("float32", "float16"):
        fitting = Fitting(Supervised(network(), splits), replace(RECIPE, precision=precision))  # type: ignore[arg-type]
        norms.append(fitting.step(images, labels)["gradient"])
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_a_batch_that_cannot_be_cut_evenly_is_refused() -> None:
    with pytest.raises(ValueError, match="accumulate divides batch_size 128, got 3"):
        replace(RECIPE, accumulate=3)
