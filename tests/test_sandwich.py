"""The sandwich rule on a real supernet: what each subnet learns from, and that training resumes exactly."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofa import SpaceConfig, Supernet
from ofa.train.data import Digits, Mixing, Splits
from ofa.train.fitting import Fitting
from ofa.train.progress import Progress
from ofa.train.recipe import Recipe
from ofa.train.sampling import SandwichRule
from ofa.train.sandwich import Sandwich, unregularised
from ofa.train.tasks import AdaptiveSoft, DistillationLoss, Step, cross_entropy
from ofa.train.tasks.distillation import Soft
from ofa.train.training import fit

STEP = Step(3, 10)


class Small(nn.Module):
    """A residual network with batch norm and dropout of both kinds."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 5, 1, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.narrow = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        features = features + self.narrow(self.wide(features))
        pooled = self.dropout(features.mean((2, 3)))
        return self.head(F.dropout(pooled, self.dropout.p, self.training))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Digits(size=12).load()


def supernet(seed: int = 0, dropout: float = 0.0) -> Supernet:
    torch.manual_seed(seed)
    space = SpaceConfig(width=(0.5, 0.75, 1.0), kernel=True, divisor=2)
    return Supernet(Small(dropout), torch.zeros(1, 1, 12, 12), space)


def teacher(classes: int = 10) -> nn.Module:
    torch.manual_seed(1)
    model = Small(dropout=0.5)
    model.head = nn.Linear(8, classes)
    return model.train()


def learner(splits: Splits, soft: DistillationLoss | None = None, **kwargs: object) -> Sandwich:
    rule = SandwichRule(randoms=2, label_smoothing=0.1, **kwargs)  # type: ignore[arg-type]
    return Sandwich(supernet(), splits, rule, soft or AdaptiveSoft(), calibration_batches=2)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(left: nn.Module, right: nn.Module) -> bool:
    others = right.state_dict()
    return all(torch.equal(value, others[key]) for key, value in left.state_dict().items())


@pytest.mark.parametrize("external", [False, True], ids=["largest", "teacher"])
def test_the_gradient_is_the_average_over_the_subnets(splits: Splits, external: bool) -> None:
    images, labels = next(splits.train.ordered(32))
    task = learner(splits, Soft(2.0), teacher_share=0.25)
    task = replace(task, teacher=teacher() if external else None)
    task.supernet.train()
    expected: dict[str, Tensor] = {}
    drawn = task.rule.draw(task.supernet, STEP)
    target = None if task.teacher is None else copy.deepcopy(task.teacher).eval()(images).detach()
    for i, subnet in enumerate(drawn):
        task.supernet.activate(subnet)
        task.supernet.zero_grad()
        logits = task.supernet(images)
        if i == 0:
            loss = cross_entropy(logits, labels, 0.1)
            loss = 0.75 * loss + 0.25 * task.soft(logits, target) if target is not None else loss
            target = logits.detach() if target is None else target
        else:
            assert target is not None
            loss = task.soft(logits, target)
        loss.backward()
        for name, gradient in gradients(task.supernet).items():
            expected[name] = expected.get(name, torch.zeros_like(gradient)) + gradient / len(drawn)
    task.supernet.zero_grad()
    figures = task.backward(images, labels, STEP)
    found = gradients(task.supernet)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], atol=1e-6), name
    names = {f"{figure}_{net}" for figure in ("loss", "gradient") for net in ("largest", "smallest", "random")}
    assert figures.keys() == {"loss", *names}
    assert task.supernet.active == task.supernet.space.largest


def test_a_step_is_repeatable(splits: Splits) -> None:
    images, labels = next(splits.train.ordered(32))
    results = []
    for _ in range(2):
        task = learner(splits)
        task.supernet.train()
        results.append((task.backward(images, labels, STEP), gradients(task.supernet)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(gradient, results[1][1][name]) for name, gradient in results[0][1].items())


def test_norms_and_cosine_are_those_of_the_nets_alone(splits: Splits) -> None:
    images, labels = next(splits.train.ordered(32))
    task = replace(learner(splits), interference=True)
    task.supernet.train()
    figures = task.backward(images, labels, Step(3, 10, scale=8.0))
    alone = []
    for subnet, kind in ((task.supernet.space.largest, "largest"), (task.supernet.space.smallest, "smallest")):
        task.supernet.zero_grad()
        task.supernet.activate(subnet)
        logits = task.supernet(images)
        target = logits.detach() if kind == "largest" else target  # noqa: F821
        loss = cross_entropy(logits, labels, 0.1) if kind == "largest" else task.soft(logits, target)
        (loss / 4).backward()
        parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in task.supernet.parameters()]
        alone.append(torch.cat([g.flatten().clone() for g in parts]))
        assert figures[f"gradient_{kind}"] == pytest.approx(float(alone[-1].norm()), rel=1e-4)
    assert figures["cosine"] == pytest.approx(float(F.cosine_similarity(*alone, dim=0)), abs=1e-4)


@pytest.mark.parametrize("label_share", [0.3, 1.0])
def test_the_others_may_learn_from_labels_too(splits: Splits, label_share: float) -> None:
    images, labels = next(splits.train.ordered(32))
    task = learner(splits, Soft(), label_share=label_share)
    task.supernet.train()
    figures = task.backward(images, labels, STEP)
    _, smallest, *_ = task.rule.draw(task.supernet, STEP)
    target = task.supernet(images).detach()
    task.supernet.activate(smallest)
    logits = task.supernet(images)
    expected = label_share * cross_entropy(logits, labels, 0.1) + (1 - label_share) * task.soft(logits, target)
    assert figures["loss_smallest"] == pytest.approx(expected.item(), rel=1e-5)


def test_only_the_largest_is_regularised(splits: Splits) -> None:
    net = supernet(dropout=0.5).train()
    images, _ = next(splits.train.ordered(8))
    with torch.no_grad():
        assert not torch.equal(net(images), net(images))
        with unregularised(net):
            assert torch.equal(net(images), net(images))
            assert net.training
            norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
            assert len(norms) == 3 and all(norm.training for norm in norms)
    assert all(module.training for module in net.modules())


def test_the_teacher_stays_as_it_is(splits: Splits) -> None:
    images, labels = next(splits.train.ordered(32))
    frozen = teacher()
    before = copy.deepcopy(frozen)
    task = replace(learner(splits), teacher=frozen)
    task.supernet.train()
    task.backward(images, labels, STEP)
    assert same(frozen, before)
    assert all(module.training for module in frozen.modules())
    assert not gradients(frozen)


def test_wrong_teachers_are_refused(splits: Splits) -> None:
    task = learner(splits)
    with pytest.raises(ValueError, match="shares its weights"):
        replace(task, teacher=task.supernet.model)
    images, labels = next(splits.train.ordered(8))
    with pytest.raises(ValueError, match=r"student's outputs \(8, 10\), teacher's outputs \(8, 7\)"):
        replace(task, teacher=teacher(classes=7)).backward(images, labels, STEP)


def test_validation_is_repeatable_and_changes_nothing(splits: Splits) -> None:
    task = learner(splits)
    task.supernet.train()
    before = copy.deepcopy(task.supernet)
    first, second = task.validate(), task.validate()
    assert first == second
    assert same(task.supernet, before)
    assert task.supernet.training and task.supernet.active == task.supernet.space.largest
    names = ("accuracy", "balanced_accuracy", "loss")
    assert set(first) == {f"{name}{of}" for name in names for of in ("", "_middle", "_smallest")}


class Killed(Exception):
    """Stands for the end of the process."""


class Mortal(Progress):
    """Dies in the second epoch."""

    def advance(self, **figures: float) -> None:
        super().advance(**figures)
        if self.done == 12:
            raise Killed


def test_resumed_equals_uninterrupted_bit_for_bit(splits: Splits, tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch_size=128, optimizer="sgd", lr=0.2, weight_decay=1e-4)

    def task(net: Supernet) -> Sandwich:
        return Sandwich(net, splits, SandwichRule(randoms=1), teacher=teacher(), calibration_batches=2)

    straight = supernet(dropout=0.1)
    expected = fit(task(straight), recipe, path=tmp_path / "straight.pt")
    path = tmp_path / "supernet.pt"
    with pytest.raises(Killed):
        fit(task(supernet(dropout=0.1)), recipe, path=path, progress=Mortal("supernet", quiet=True))
    resumed = supernet(seed=0, dropout=0.1)
    torch.manual_seed(99)
    assert fit(task(resumed), recipe, path=path) == expected
    assert same(resumed, straight)


def test_a_supernet_learns(splits: Splits) -> None:
    task = learner(splits)
    before = task.validate()
    recipe = Recipe(epochs=6, batch_size=64, optimizer="sgd", lr=0.2, weight_decay=1e-4)
    after = fit(task, recipe)
    assert after["accuracy"] > before["accuracy"] + 30
    assert after["accuracy_smallest"] > before["accuracy_smallest"] + 20


@pytest.mark.parametrize("soft", [Soft(), AdaptiveSoft()], ids=["soft", "adaptive"])
@pytest.mark.parametrize("external", [False, True], ids=["largest", "teacher"])
@pytest.mark.parametrize("label_share", [0.0, 0.5])
def test_mixed_labels_work_with_every_loss(
    splits: Splits, soft: DistillationLoss, external: bool, label_share: float
) -> None:
    task = replace(learner(splits, soft, label_share=label_share), teacher=teacher() if external else None)
    fitting = Fitting(task, Recipe(batch_size=32, mixing=Mixing(0.4, 1.0)))
    task.supernet.train()
    figures = fitting.step(*next(splits.train.ordered(32)))
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
    assert fitting.skipped == 0
