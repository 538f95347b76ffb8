"""The training loop: one lesson, repeated by a recipe, with checkpoints from which it goes on bit for bit."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train import checkpoint
from train.evaluation import device_of
from train.lesson import Lesson
from train.progress import Progress
from train.randomness import seeded
from train.recipe import Recipe
from train.tracking import Tracker


class Fitting:
    """A training under way: `step` and `epoch` move it, `state_dict` holds all of it.

    No generator is part of the state: what an epoch draws is a function of the recipe's seed and of the step.
    """

    def __init__(self, lesson: Lesson, recipe: Recipe) -> None:
        self.lesson = lesson
        self.recipe = recipe
        self.model = lesson.model
        self.steps_per_epoch = lesson.splits.train.steps(recipe.batch_size)
        self.optimizer = recipe.optimizer_of(self.model)
        self.schedule = recipe.schedule_of(self.optimizer, self.steps_per_epoch)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.device = device_of(self.model)
        self.steps_done = 0
        self.skipped = 0
        self.best: dict[str, float] = {}
        self.last: dict[str, float] = {}

    @property
    def epochs_done(self) -> int:
        return self.steps_done // self.steps_per_epoch

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    def step(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """One update; where loss or gradient is not finite, the step is counted and changes nothing."""
        self.schedule.step_update(self.steps_done)
        statistics = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        self.optimizer.zero_grad()
        with seeded(self.recipe.seed, self.steps_done):
            figures = self.lesson.backward(images.to(self.device), labels.to(self.device), self.steps_done)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        figures["gradient"] = float(torch.nn.utils.get_total_norm(gradients))
        self.steps_done += 1
        if math.isfinite(figures["loss"]) and math.isfinite(figures["gradient"]):
            if self.recipe.clip_value is not None:
                torch.nn.utils.clip_grad_value_(self.parameters, self.recipe.clip_value)
            self.optimizer.step()
            return figures
        self.skipped += 1
        for buffer, before in statistics:
            buffer.copy_(before)
        return figures

    def epoch(self, progress: Progress) -> dict[str, float]:
        """The steps of an epoch, then an examination; gives the epoch's figures.

        Raises:
            ValueError: no step had a finite loss.
        """
        started, number, before = time.perf_counter(), self.epochs_done, self.skipped
        self.model.train()
        finite = []
        for images, labels in self.lesson.splits.train.shuffled(self.recipe.batch_size, self.recipe.seed, number):
            skipped = self.skipped
            figures = self.step(images, labels)
            finite += [figures] if self.skipped == skipped else []
            progress.advance(loss=figures["loss"], **_accuracy(self.best))
        if not finite:
            raise ValueError(
                f"epoch {number + 1}: no step had a finite loss and gradient; lower lr, now {self.recipe.lr}"
            )
        means = {f"train_{name}": math.fsum(f[name] for f in finite) / len(finite) for name in finite[0]}
        rate = self.optimizer.param_groups[0]["lr"]
        self.last = self.lesson.validate()
        if self.last["accuracy"] > self.best.get("accuracy", -1):
            self.best = {"epoch": number + 1, "accuracy": self.last["accuracy"]}
        seconds = time.perf_counter() - started
        skipped = self.skipped - before
        return {"epoch": number + 1, **means, **self.last, "lr": rate, "skipped": skipped, "seconds": seconds}

    def state_dict(self) -> dict[str, Any]:
        return {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps_done": self.steps_done,
            "skipped": self.skipped,
            "best": self.best,
            "last": self.last,
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
            self.optimizer.load_state_dict(state["optimizer"])
        except RuntimeError as error:
            raise ValueError(f"it is of another network: {str(error)[:300]}") from None
        self.steps_done, self.skipped = state["steps_done"], state["skipped"]
        self.best, self.last = state["best"], state["last"]


def fit(
    lesson: Lesson,
    recipe: Recipe,
    *,
    path: Path | None = None,
    stage: str = "train",
    tracker: Tracker | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train the lesson's model in place; gives the last epoch's figures, and leaves the model in eval mode.

    With `path`, a checkpoint is written there after every epoch, and a call with the same arguments goes on
    from it: the result is that of an uninterrupted run, bit for bit.

    Raises:
        ValueError: the checkpoint is damaged, of another recipe or of another network (the message names the
            file); a batch is larger than the training split; a whole epoch had no finite loss.
    """
    fitting = Fitting(lesson, recipe)
    if path is not None and path.exists():
        resume(fitting, path)
    if tracker is not None:
        tracker.rewind(stage, fitting.epochs_done)
    with progress or Progress(stage, quiet=True) as bar:
        bar.expect(fitting.steps, fitting.steps_done)
        while fitting.epochs_done < recipe.epochs:
            row = fitting.epoch(bar)
            if tracker is not None:
                tracker.log(stage, row)
            if path is not None:
                checkpoint.save(path, fitting.state_dict())
    lesson.model.eval()
    return fitting.last


def resume(fitting: Fitting, path: Path) -> None:
    """Load a checkpoint into `fitting`, with the file's name in every complaint."""
    state = checkpoint.load(path)
    try:
        fitting.load_state_dict(state)
    except ValueError as error:
        raise ValueError(f"{path} does not fit: {error}; delete it to start over") from None
    except KeyError as error:
        raise ValueError(f"{path} is no training checkpoint: it lacks {error}") from None


def _accuracy(best: dict[str, float]) -> dict[str, float]:
    return {"best_accuracy": best["accuracy"]} if best else {}
