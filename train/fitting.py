"""A training under way: one learner, repeated by a recipe, with a state from which it goes on bit for bit."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ofa.signals import STOPS, Bell
from ofa.train.distribution import averaged, part, rank, world
from ofa.train.guards import Collapse
from ofa.train.progress import Progress
from ofa.train.randomness import seeded
from ofa.train.recipe import PRECISIONS, Recipe
from ofa.train.tasks import Constrained, Learner, Step, device_of

COLLAPSED = 0.5  # of the best accuracy


class Fitting:
    """A training under way: `step` and `epoch` move it, `state_dict` holds all of it.

    No generator is part of the state: what an epoch draws is a function of the recipe's seed and of the step.

    >>> from ofa.train.data import Digits
    >>> from ofa.train.tasks import Supervised
    >>> network, splits = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Digits(size=8).load()
    >>> fitting = Fitting(Supervised(network, splits), Recipe(epochs=1, batch_size=256))
    >>> images, labels = next(splits.train.shuffled(batch_size=256, seed=0, epoch=0))
    >>> figures = fitting.step(images, labels)
    >>> fitting.steps_done, fitting.steps, sorted(figures)
    (1, 4, ['gradient', 'loss'])

    Raises:
        ValueError: a batch that is larger than the training split, or that cannot be cut evenly.
    """

    def __init__(self, learner: Learner, recipe: Recipe) -> None:
        parts, pictures = world() * recipe.accumulate, len(learner.splits.train)
        if parts > pictures:
            raise ValueError(
                f"{pictures} training pictures are too few for {world()} processes in {recipe.accumulate} parts each"
            )
        if recipe.batch_size % parts:
            raise ValueError(
                f"batch_size {recipe.batch_size} cannot be cut evenly for {world()} processes"
                f" in {recipe.accumulate} parts each; multiples of {parts} are allowed"
            )
        self.learner, self.recipe, self.model = learner, recipe, learner.model
        self.device = device_of(self.model)
        if recipe.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.steps_per_epoch = learner.splits.train.steps(recipe.batch_size)
        self.optimizer = recipe.optimizer_of(self.model)
        self.schedule = recipe.schedule_of(self.optimizer, self.steps_per_epoch)
        self.average = recipe.average_of(self.model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "float16")
        self.scaler.scale(torch.zeros((), device=self.device))  # otherwise it has no scale to give
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if isinstance(learner, Constrained):
            learner.attach(self.optimizer)
        self.bell = Bell(patient=True)
        self.steps_done = self.skipped = self.rollbacks = 0
        self.best: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.sums: dict[str, float] = {}  # of the epoch under way, over its finite steps

    @property
    def epochs_done(self) -> int:
        """Epochs whose validation is done, too."""
        epochs, steps = divmod(self.steps_done, self.steps_per_epoch)
        return epochs - bool(self.sums and not steps)

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    def step(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """One update; where loss or gradient is not finite, the step is counted and changes nothing.

        Several processes share one update: each gives its part of the batch.
        """
        self.schedule.step_update(self.steps_done)
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.5**self.rollbacks
        statistics = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        self.optimizer.zero_grad()
        with seeded(self.recipe.seed, self.steps_done, rank()):
            figures = self._backward(images.to(self.device), labels.to(self.device))
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        figures["loss"], ringing = averaged(gradients, [figures["loss"], float(self.bell.rung)])
        if ringing and not self.bell.rung:  # another process was asked
            self.bell.number = signal.SIGTERM
        self.scaler.unscale_(self.optimizer)
        figures["gradient"] = float(torch.nn.utils.get_total_norm(gradients))
        self.steps_done += 1
        if math.isfinite(figures["loss"]) and math.isfinite(figures["gradient"]):
            self._update()
        else:
            self.skipped += 1
            restore(statistics)
        self.scaler.update()
        return figures

    def _backward(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """The batch's gradients, part by part; the same subnets learn from every part."""
        given, parts = self.recipe, self.recipe.accumulate
        if given.mixing is not None:
            images, labels = given.mixing(images, labels, self.learner.splits.num_classes)
        if given.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        step = Step(self.steps_done, self.steps, self.scaler.get_scale() / parts)
        rows = []
        for batch in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            with torch.autocast(self.device.type, PRECISIONS[given.precision], given.precision != "float32"):
                rows.append(self.learner.backward(*batch, step))
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    def _update(self) -> None:
        if self.recipe.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self.parameters, self.recipe.clip_value)
        self.scaler.step(self.optimizer)
        if self.average is not None:
            self.average.update(self.model, self.steps_done)

    def epoch(self, progress: Progress) -> dict[str, float]:
        """The (remaining) steps of an epoch, then the validation; gives the epoch's figures.

        Where the bell rings, it stops with the state after the last step.


        Raises:
            Collapse: no step had a finite loss, or the accuracy fell far below its best.
            KeyboardInterrupt, Terminated: the bell rang.
        """
        started, number = time.perf_counter(), self.epochs_done
        self.model.train()
        done, split = self.steps_done - number * self.steps_per_epoch, self.learner.splits.train
        for images, labels in split.shuffled(self.recipe.batch_size, self.recipe.seed, number, done, part()):
            skipped, figures = self.skipped, self.step(images, labels)
            if self.skipped == skipped:
                self._count(figures)
            progress.advance(loss=figures["loss"], **_accuracy(self.best))
            self.bell.answer()
        skipped = self.steps_per_epoch - int(self.sums.get("loss steps", 0))
        row = {"epoch": number + 1, **self._means(number), **self._validated(number)}
        self.sums = {}
        rate = self.optimizer.param_groups[0]["lr"]
        seconds = time.perf_counter() - started
        return {**row, "lr": rate, "skipped": skipped, "rollbacks": self.rollbacks, "seconds": seconds}

    def _count(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.sums[f"{name} steps"] = self.sums.get(f"{name} steps", 0) + 1

    def _means(self, epoch: int) -> dict[str, float]:
        """The finite steps' mean figures; a figure that some steps lack is the mean over the others."""
        sums = self.sums
        if not sums:
            raise Collapse(f"epoch {epoch + 1}: no step had a finite loss and gradient; lower lr, now {self.recipe.lr}")
        return {f"train_{n}": sums[n] / sums[f"{n} steps"] for n in sums if not n.endswith(" steps")}

    def _validated(self, epoch: int) -> dict[str, float]:
        averaged_buffers = [b for b in self.model.buffers() if b.is_floating_point()]
        averaged(averaged_buffers, [])
        figures = self._figures()
        stage = self.learner.stage if isinstance(self.learner, Constrained) else 0
        best = self.best.get("accuracy", -1.0) if stage == self.best.get("stage", 0) else -1.0
        if not figures["accuracy"] >= COLLAPSED * best:
            raise Collapse(f"epoch {epoch + 1}: accuracy {figures['accuracy']:.2f} %, was {best:.2f} % at its best")
        self.last = figures
        if figures["accuracy"] > best:
            self.best = {"epoch": epoch + 1, "accuracy": figures["accuracy"], "stage": stage}
        return figures

    def _figures(self) -> dict[str, float]:
        """What the learner finds on the validation split; stopped in the middle, the state is that of before."""
        if world() > 1:  # those that were not asked yet would wait for ever for this one
            with self.averages():
                return self.learner.validate()
        statistics = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with self.bell.impatient(), self.averages():
                return self.learner.validate()
        except STOPS:
            restore(statistics)
            raise

    @contextmanager
    def averages(self) -> Iterator[None]:
        """Inside, the model has its averaged weights, if the recipe keeps an average."""
        if self.average is None:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        try:
            self.load_average()
            yield
        finally:
            self.model.load_state_dict(own)

    def load_average(self) -> None:
        """Give the model its averaged weights, if the recipe keeps an average."""
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
            if isinstance(self.learner, Constrained):
                self.learner.project()

    def state_dict(self) -> dict[str, Any]:
        return {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "learner": self.learner.state_dict(),
            **{name: getattr(self, name) for name in ("steps_done", "skipped", "rollbacks", "best", "last", "sums")},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it belongs to another recipe or another network.
        """
        mine, theirs = asdict(self.recipe), state["recipe"]
        differ = [f"{key} {theirs.get(key)} there, {mine[key]} now" for key in mine if mine[key] != theirs.get(key)]
        if differ:
            raise ValueError(f"it was made with another recipe: {'; '.join(differ)}")
        try:
            self.model.load_state_dict(state["model"])
            if self.average is not None:
                self.average.module.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        except RuntimeError as error:
            raise ValueError(f"it is of another network: {str(error)[:300]}") from None
        self.scaler.load_state_dict(state["scaler"])
        self.learner.load_state_dict(state["learner"])
        for name in ("steps_done", "skipped", "rollbacks"):
            setattr(self, name, state[name])
        self.best, self.last, self.sums = dict(state["best"]), dict(state["last"]), dict(state["sums"])


def restore(statistics: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Give buffers the values of before."""
    for buffer, before in statistics:
        buffer.copy_(before)


def _accuracy(best: dict[str, float]) -> dict[str, float]:
    return {"best_accuracy": best["accuracy"]} if best else {}
