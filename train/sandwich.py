"""How a supernet learns: the subnets of a step one after the other, from labels and from a teacher (BigNAS, 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ofa import SearchSpace, Subnet, Supernet
from ofa.train.data import Splits
from ofa.train.distribution import part
from ofa.train.gradients import Gradients, cosine
from ofa.train.sampling import Rule, SandwichRule
from ofa.train.tasks import (
    AdaptiveSoft,
    Classification,
    DistillationLoss,
    Step,
    Task,
    device_of,
    evaluate,
    outputs,
)


@dataclass(frozen=True, eq=False)
class Sandwich:
    """A supernet learns by the sandwich rule; the distance `soft` leads its subnets to the teacher.

    The teacher is another network, frozen and in evaluation mode, or without one the largest subnet itself.
    A step holds the activations of one subnet at a time; its gradient is the average over its subnets. Dropout and
    drop path act on the largest alone. `interference` asks for the cosine between the gradients of a step's first
    two nets (the largest and the smallest), at the price of a copy of each. Without `recalibrate` evaluate_subnet takes
    the shared statistics; `validation_stride` n looks at every n-th batch alone.

    >>> from ofa.train.data import Digits
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    >>> supernet, splits = Supernet(network, torch.zeros(1, 1, 8, 8)), Digits(size=8).load()
    >>> learner = Sandwich(supernet, splits)
    >>> images, labels = next(splits.train.shuffled(batch_size=64, seed=0, epoch=0))
    >>> losses = learner.backward(images, labels, Step(number=0, total=10))
    >>> "loss_largest" in losses, "loss_smallest" in losses
    (True, True)

    Raises:
        ValueError: the teacher shares its weights with the supernet.
    """

    supernet: Supernet
    splits: Splits
    rule: Rule = field(default_factory=SandwichRule)
    soft: DistillationLoss = field(default_factory=AdaptiveSoft)
    teacher: nn.Module | None = None
    calibration_batch: int = 64
    calibration_batches: int = 8
    validation_batch: int = 256
    interference: bool = False
    recalibrate: bool = True
    validation_stride: int = 1
    task: Task = field(default_factory=Classification)

    def __post_init__(self) -> None:
        if self.teacher is not None and not set(self.supernet.parameters()).isdisjoint(self.teacher.parameters()):
            raise ValueError("the teacher shares its weights with the supernet; give it a copy made before converting")

    @property
    def model(self) -> Supernet:
        return self.supernet

    @cached_property
    def calibration(self) -> list[Tensor]:
        """The training pictures that batch statistics are recalibrated from, always the same."""
        device = device_of(self.supernet)
        batches = self.splits.train.calibration(self.calibration_batch, self.calibration_batches, self.rule.seed)
        return [images.to(device) for images in batches]

    def backward(self, images: Tensor, labels: Tensor, step: Step) -> dict[str, float]:
        subnets = self.rule.draw(self.supernet, step)
        target = None if self.teacher is None else outputs(self.teacher, images)
        gradients, losses = Gradients(self.supernet.parameters(), step.scale), list[Tensor]()
        for i, subnet in enumerate(subnets):
            regularised = subnet == self.supernet.space.largest
            self.supernet.activate(subnet)
            with nullcontext() if regularised else unregularised(self.supernet):
                logits = self.supernet(self.supernet.resize(images))
                loss = self._loss(logits, labels, target, first=i == 0)
                losses.append(step.descend(loss, 1 / len(subnets)))
            gradients.note(keep=self.interference and i < 2)
            target = logits.detach() if target is None else target
        self.supernet.activate(self.supernet.space.largest)
        values = torch.stack(losses).tolist()
        return {"loss": sum(values) / len(values)} | self._figures(subnets, values, gradients)

    def _loss(self, logits: Tensor, labels: Tensor, target: Tensor | None, first: bool) -> Tensor:
        """From labels, from the teacher, or from both: the first of a step and the others have shares of their own."""
        share = 1 - self.rule.teacher_share if first else self.rule.label_share
        if target is None or share == 1:
            return self.task.loss(logits, labels, self.rule.label_smoothing)
        soft = self.soft(logits, target)
        return torch.lerp(soft, self.task.loss(logits, labels, self.rule.label_smoothing), share) if share else soft

    def _figures(self, subnets: Sequence[Subnet], losses: Sequence[float], gradients: Gradients) -> dict[str, float]:
        """Losses and gradient norms of the step's nets: of the largest and smallest, and the mean of the others."""
        space = self.supernet.space
        known = {space.largest: "largest", space.smallest: "smallest"}
        figures: dict[str, list[float]] = {}
        for subnet, loss, norm in zip(subnets, losses, gradients.norms, strict=True):
            name = known.get(subnet, "random")
            figures.setdefault(f"loss_{name}", []).append(loss)
            figures.setdefault(f"gradient_{name}", []).append(norm)
        result = {name: sum(values) / len(values) for name, values in figures.items()}
        return result | ({"cosine": cosine(*gradients.kept)} if len(gradients.kept) == 2 else {})

    def validate(self) -> dict[str, float]:
        """Accuracies of the largest (`accuracy`), a middle and the smallest subnet, each recalibrated."""
        space = self.supernet.space
        figures: dict[str, float] = {}
        for suffix, subnet in ("", space.largest), ("_middle", middle(space)), ("_smallest", space.smallest):
            scores = self.evaluate_subnet(subnet)
            figures |= {f"{name}{suffix}": value for name, value in scores.items()}
        probes = self.rule.probes(space)
        self.rule.learn(space, probes, [self.evaluate_subnet(subnet)["loss"] for subnet in probes])
        self.supernet.activate(space.largest)
        return figures

    def evaluate_subnet(self, subnet: Subnet) -> dict[str, float]:
        """Activate and recalibrate `subnet`, and evaluate it on the validation split."""
        self.supernet.activate(subnet)
        if self.recalibrate:
            self.supernet.calibrate(map(self.supernet.resize, self.calibration))
        (rank, processes), stride = part(), self.validation_stride
        batches = self.splits.validation.ordered(self.validation_batch, (rank * stride, processes * stride))
        resized = ((self.supernet.resize(images), labels) for images, labels in batches)
        return evaluate(self.supernet, resized, self.task)

    def state_dict(self) -> dict[str, Any]:
        return self.rule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            self.rule.load_state_dict(state)


def middle(space: SearchSpace) -> Subnet:
    """The subnet with the middle option everywhere."""
    return space.canonical(Subnet({c.name: c.options[len(c.options) // 2] for c in space.choices}))


@contextmanager
def unregularised(supernet: nn.Module) -> Iterator[None]:
    """Dropout, drop path and the like are off inside; normalisations keep training.

    Works on the flags of all modules but the supernet, since many call `F.dropout` with their own.
    """
    modules = [m for m in supernet.modules() if m is not supernet and not isinstance(m, _NormBase)]
    flags = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in zip(modules, flags, strict=True):
            module.training = training
