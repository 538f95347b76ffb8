"""What a stage of a run is, ours or a user's."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from ofa.conf.program.run import Run
from ofa.conf.program.settings import Settings


class Stage(ABC):
    """One part of a run: a frozen dataclass, named in `conf/stage/NAME.yaml`, that goes on from what it finds.

    It runs where `stages` has it, such as `stages=[teacher,supernet,search,quantise,export]`, but never before the
    stage that it says to come `after`; what those before it were made with, it was made with, too. The same command
    in the same folder leaves out what is finished; with `reuse` what a folder beside it has finished with the same
    settings is taken from there. Its fields are its settings.

    `name`: what it is called, also its YAML file.
    `depends`: the settings of the run (keys of the configuration) that it uses, beside its own.
    `needs`: files of the run folder without which it does not begin.
    `leaves`: files of the run folder; without the first of them, nothing was made yet.
    `repeatable`: with `force=true` it is done again where its settings are others, which are refused otherwise.
    `together`: all processes that torchrun starts run it; of any other stage, the first process alone.
    """

    name: ClassVar[str]
    after: ClassVar[str | None] = None
    depends: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    leaves: ClassVar[tuple[str, ...]] = ()
    repeatable: ClassVar[bool] = False
    together: ClassVar[bool] = False

    @property
    def own(self) -> dict[str, Any]:
        """Its own settings, as plain values."""
        fields: Iterable[dataclasses.Field[Any]] = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        text = json.dumps({field.name: getattr(self, field.name) for field in fields}, default=str)
        plain: dict[str, Any] = json.loads(text)  # as it is read again from settings.json
        return plain

    def brings(self, settings: Settings) -> tuple[str, ...]:
        """Stages without which it has no sense, that run before it though nobody asked for them."""
        return ()

    def check(self, settings: Settings) -> None:  # noqa: B027 - most stages run with any settings
        """Refuse, before anything is done, settings with which it cannot run.

        Raises:
            ValueError: what does not fit, and what would.
        """

    def rehearse(self, run: Run) -> None:  # noqa: B027
        """Refuse, before the first stage does anything, what cannot work with these data or this network.

        Raises:
            ValueError: what does not fit, and what would.
        """

    def forecast(self, run: Run) -> float | None:
        """Seconds that it will take at most, from a few measured steps; None where it does not say.

        `run` has a supernet with weights of the right shapes, and a folder for what is left behind meanwhile.
        """
        return None

    @abstractmethod
    def run(self, run: Run) -> None:
        """Do it: read from `run.folder` what it needs, and leave there what it leaves."""
