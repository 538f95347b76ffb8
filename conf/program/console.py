"""The console of a run, whose lines stand in the log, too."""

from __future__ import annotations

import io
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import rich.console
from rich.control import Control

WIDTH = 120
LOG = logging.getLogger("ofa")


class Console(rich.console.Console):
    """Lines for people, and the same with the time for the logger `ofa`: Hydra writes it to ofa.log.

    Without a terminal a line is as wide as it is, and a table as wide as it needs to be, up to a limit.
    """

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet=quiet, highlight=False, soft_wrap=True)
        if not self.is_terminal:
            self.width = WIDTH

    def busy(self, name: str) -> AbstractContextManager[object]:
        """A terminal shows inside that something is under way, also between the bars."""
        return self.status(name) if self.is_terminal and not self.quiet else nullcontext()

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if not self.quiet and not any(isinstance(o, Control) for o in objects):  # a live bar moves by these
            LOG.info(plain(*objects, **options))


def plain(*objects: Any, **options: Any) -> str:
    """What is printed as text: without colours, and without blanks at the ends of lines."""
    text = io.StringIO()
    rich.console.Console(file=text, width=WIDTH, no_color=True, soft_wrap=True).print(*objects, **options)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
