"""`fit`: a training from its first or last checkpoint to its end, that no signal, crash or collapse can lose."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ofa.signals import STOPS, listening
from ofa.train import checkpoint
from ofa.train.distribution import barrier, rank
from ofa.train.fitting import Fitting
from ofa.train.guards import Collapse
from ofa.train.progress import Progress
from ofa.train.recipe import Recipe
from ofa.train.tasks import Learner
from ofa.train.tracking import Tracker

KEPT = 2  # checkpoints: the last epoch's and the one before


def fit(
    learner: Learner,
    recipe: Recipe,
    *,
    path: Path | None = None,
    stage: str = "train",
    tracker: Tracker | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Train the learner's model in place; gives the last epoch's figures, and leaves the model in eval mode.

    With `path`, a checkpoint is written there after every epoch, the one before is kept beside it, and a call with the
    same arguments goes on: the result is that of an uninterrupted run, bit for bit. On SIGINT and SIGTERM the state
    after the step is written, too, and `KeyboardInterrupt` or `Terminated` (a SystemExit) raised; a second SIGINT ends
    the process at once. `on_epoch` gets each epoch's figures and may raise.

    >>> from ofa.train import Digits, Supervised
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> figures = fit(Supervised(network, Digits(size=8).load()), Recipe(epochs=2, lr=0.05))
    >>> figures["accuracy"] > 60, network.training
    (True, False)

    Raises:
        ValueError: the checkpoint is damaged, of another recipe or of another network (the message names the
            file); a batch is larger than the training split; the model collapsed more often than the recipe allows.
    """
    fitting = Fitting(learner, recipe)
    store = Store(path)
    store.resume(fitting)
    writer = tracker if rank() == 0 else None
    if writer is not None:
        writer.rewind(stage, fitting.epochs_done)
    with listening(fitting.bell), progress or Progress(stage, quiet=True) as bar:
        bar.expect(fitting.steps, fitting.steps_done)
        while fitting.epochs_done < recipe.epochs:
            row = epoch(fitting, store, bar)
            if row is None:
                continue
            if writer is not None:
                writer.log(stage, row)
            store.save(fitting)
            if on_epoch is not None:
                on_epoch(row)
    fitting.load_average()
    learner.model.eval()
    return fitting.last


def epoch(fitting: Fitting, store: Store, bar: Progress) -> dict[str, float] | None:
    """One epoch's figures; None where it collapsed and the training went back."""
    try:
        return fitting.epoch(bar)
    except STOPS:
        store.save(fitting, partial=True)
        raise
    except Collapse as collapse:
        times = fitting.rollbacks + 1
        if times > fitting.recipe.rollbacks:
            raise Collapse(f"{collapse}; the training went back {fitting.rollbacks} times already") from None
        store.restore(fitting)
        fitting.rollbacks = times
        bar.console.print(
            f"{bar.stage}: {collapse}; back to epoch {fitting.epochs_done} with the rate times {0.5**times:g}",
            soft_wrap=True,
        )
        bar.expect(fitting.steps, fitting.steps_done)
        return None


class Store:
    """Where a training keeps its state: `path` after every epoch, `<stem>-partial` in the middle of one, or memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.partial = path and path.with_name(f"{path.stem}-partial{path.suffix}")
        self.memory: dict[str, Any] = {}

    def resume(self, fitting: Fitting) -> None:
        """Go on from the newest state, if there is one.

        Raises:
            ValueError: it is damaged or does not fit; the message names the file.
        """
        fresh = self.path is None or not self.path.exists()
        barrier()  # everybody has looked before anybody writes
        if self.path is None or fresh:
            self.save(fitting)
            return
        load(fitting, self.path)
        if self.partial is not None and self.partial.exists():
            load(fitting, self.partial)

    def save(self, fitting: Fitting, partial: bool = False) -> None:
        if self.path is None:
            self.memory = copy.deepcopy(fitting.state_dict())
        elif rank() == 0:
            assert self.partial is not None
            if partial:
                checkpoint.save(self.partial, fitting.state_dict())
            else:
                checkpoint.save(self.path, fitting.state_dict(), KEPT)
                self.partial.unlink(missing_ok=True)
        barrier()

    def restore(self, fitting: Fitting) -> None:
        """Back to the last whole epoch."""
        if self.path is None:
            fitting.load_state_dict(copy.deepcopy(self.memory))
        else:
            load(fitting, self.path)


def load(fitting: Fitting, path: Path) -> None:
    """Load a checkpoint into `fitting`, with the file's name in every complaint."""
    state = checkpoint.load(path)
    try:
        fitting.load_state_dict(state)
    except ValueError as error:
        raise ValueError(f"{path} does not fit: {error}; delete it to start over") from None
    except KeyError as error:
        raise ValueError(f"{path} is no training checkpoint: it lacks {error}") from None
