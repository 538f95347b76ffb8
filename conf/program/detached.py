"""A run as those see it who train a network beside others: what they tell goes to one board, also from processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import rich.console

from ofa.conf.program.console import plain
from ofa.conf.program.run import Run
from ofa.signals import Terminated
from ofa.train.progress import Progress
from ofa.train.tracking import Row, Tracker

MOST = 1000  # letters of a message: short ones need no lock on their way


@dataclass(frozen=True)
class Message:
    """What is told of a training: words, figures for the tracker, or how far it is."""

    name: str
    about: str
    content: tuple[Any, ...] = ()


Tell = Callable[[Message], bool]
"""Takes a message; gives whether its sender is asked to stop."""


class Detached(Run):
    """A run whose words go to a board, under the name of a network."""

    def __init__(self, run: Run, tell: Tell, name: str = "") -> None:
        self.settings, self.folder, self.tell, self.name = run.settings, run.folder, tell, name
        self.splits, self.teacher, self.supernet = run.splits, run.teacher, run.supernet
        self.console = Voice(self._say)  # type: ignore[assignment]  # prints, as the other does
        self.tracker = Reports(self._tell)

    def named(self, name: str) -> Self:
        return type(self)(self, self.tell, name)

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process; the rest is made there."""
        return {name: value for name, value in vars(self).items() if name not in ("console", "tracker")}

    def say(self, text: object) -> None:
        self._say(plain(text, markup=False))

    def progress(self, stage: str, total: int | None = None) -> Progress:
        return Steps(stage, self._tell, self.console)

    def finish(self) -> None:
        """The network is done."""
        self._tell("finished")

    def _say(self, text: str) -> None:
        self._tell("say", text[:MOST])

    def _tell(self, about: str, *content: Any) -> bool:
        return self.tell(Message(self.name, about, content))


class Voice(rich.console.Console):
    """A console of which words are told."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(quiet=True)
        self.say = say

    def print(self, *objects: Any, **options: Any) -> None:
        self.say(plain(*objects, **options))


class Reports(Tracker):
    """A tracker of which rows are told."""

    def __init__(self, tell: Callable[..., bool]) -> None:
        self.tell = tell

    def log(self, stage: str, row: Row) -> None:
        self.tell("log", stage, dict(row))

    def rewind(self, stage: str, epoch: int) -> None:
        self.tell("rewind", stage, epoch)


class Steps(Progress):
    """Progress that is told, step by step; the answer may be to stop."""

    def __init__(self, stage: str, tell: Callable[..., bool], console: rich.console.Console) -> None:
        super().__init__(stage, console=console, quiet=True)
        self.tell = tell

    def expect(self, total: int, done: int = 0) -> None:
        super().expect(total, done)
        self.tell("expect", self.stage, done)

    def advance(self, **figures: float) -> None:
        """Raises Terminated if that is asked for."""
        super().advance(**figures)
        if self.tell("advance", self.stage, figures):
            raise Terminated(143)


@dataclass
class Board:
    """Shows one bar over the trainings of several networks, of `steps` steps each, and whatever else they tell."""

    run: Run
    bar: Progress
    steps: int
    networks: int
    done: dict[str, dict[str, int]] = field(default_factory=dict)
    finished: int = 0

    def hear(self, message: Message) -> bool:
        done = self.done.setdefault(message.name, {})
        match message.about, message.content:
            case "say", (text,):
                self.run.say(text)
            case "log", (stage, row):
                self.run.tracker.log(stage, row)
            case "rewind", (stage, epoch):
                self.run.tracker.rewind(stage, epoch)
            case "expect", (stage, steps):
                done[stage] = steps
            case "advance", (stage, figures):
                done[stage] += 1
                self._show(figures)
            case "finished", ():
                self.done[message.name] = {"": self.steps}
                self.finished += 1
                self._show({})
        return False

    def _show(self, figures: dict[str, float]) -> None:
        total, done = self.steps * self.networks, sum(sum(steps.values()) for steps in self.done.values())
        if done == self.bar.done + 1:
            self.bar.advance(networks=self.finished, **figures)
        elif done != self.bar.done:
            self.bar.expect(total, done)
