"""The course of a run: its stages in order, those of users in their places, and how each is done once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from ofa.conf.program.building import converted
from ofa.conf.program.lock import in_turn
from ofa.conf.program.records import digest, flat
from ofa.conf.program.run import Run
from ofa.conf.program.settings import Settings
from ofa.conf.program.stage import Stage
from ofa.files import writing
from ofa.train.distribution import barrier, joined


@dataclass(frozen=True)
class Course:
    """Stages in order: those that are `wanted`, and others that come before one of them."""

    settings: Settings
    stages: tuple[Stage, ...]
    wanted: frozenset[str]

    @classmethod
    def parse(cls, config: DictConfig) -> Course:
        """The stages that a composed configuration names, checked against its settings.

        Raises:
            ValueError: an unknown stage, two of one name, or settings with which one cannot run.
        """
        settings = Settings.parse(config)
        asked = converted(settings.values["stages"], tuple[Stage, ...], "stages")
        stages = ordered(asked)
        brought = {name for stage in asked for name in stage.brings(settings)}
        course = cls(settings, stages, frozenset({stage.name for stage in asked} | brought))
        for stage in course:
            stage.check(settings)
        return course

    def __iter__(self) -> Iterator[Stage]:
        return (stage for stage in self.stages if stage.name in self.wanted)

    def until(self, stage: Stage) -> Sequence[Stage]:
        """The stages before one, and it."""
        return self.stages[: self.stages.index(stage) + 1]

    def made_with(self, stage: Stage) -> dict[str, Any]:
        """What a stage and those before it depend on, by dotted name."""
        names = [name for s in self.until(stage) for name in s.depends]
        own = {f"stage.{s.name}.{key}": value for s in self.until(stage) for key, value in flat(s.own).items()}
        return self.settings.plain(*names) | own

    def execute(self, run: Run) -> dict[str, float]:
        """Do what is wanted and not finished; what is finished is lost by no error. Gives the seconds of each stage.

        Raises:
            ValueError: anything that the user can mend.
        """
        with run.folder.held():
            self.rehearse(run)
            return self._execute(run)

    def rehearse(self, run: Run) -> None:
        """Refuse, before anything is done, what cannot work.

        Raises:
            ValueError: what does not fit, and what would.
        """
        self.check_files(run)
        with run.console.busy("looking ahead"):
            for stage in self:
                self.refuse_others(run, stage)
                if not run.folder.finished(stage.name, self.made_with(stage)):
                    stage.rehearse(run)
        vars(run).pop("outline", None)  # as large as the supernet that is trained

    def _execute(self, run: Run) -> dict[str, float]:
        stages, took = list(self), dict[str, float]()
        shared = max((i + 1 for i, stage in enumerate(stages) if stage.together), default=0)
        try:
            with joined(run.settings.device):
                for stage in stages[:shared]:
                    with self.alone(run, stage):
                        taken = self.take(run, stage)
                        barrier()
                        if not taken:
                            took |= self.complete(run, stage)
                        barrier()
            for stage in stages[shared:]:
                with self.alone(run, stage):
                    if not self.take(run, stage):
                        took |= self.complete(run, stage)
        finally:
            run.tracker.close()
        return took

    def check_files(self, run: Run) -> None:
        """Refuse a stage whose files are neither there nor made before it.

        Raises:
            ValueError: names the file, and the stage that leaves it.
        """
        made: set[str] = set()
        for stage in self:
            for name in stage.needs:
                if name not in made and not run.folder.has(name):
                    raise ValueError(f"{run.folder / name} is missing{self._way_out(name, stage)}")
            made |= set(stage.leaves)

    def _way_out(self, name: str, stage: Stage) -> str:
        maker = next((s.name for s in self.stages if name in s.leaves), None)
        return "" if maker is None else f": run the stage {maker!r} first (stages=[{maker},{stage.name}])"

    def refuse_others(self, run: Run, stage: Stage) -> None:
        """Refuse a folder in which a stage, or one before it, was made with other settings.

        What can be done again is refused only where it was finished, and not with `force`.

        Raises:
            ValueError: names the settings that differ, and the ways out.
        """
        folder = run.folder
        for earlier in self.until(stage):
            there = bool(earlier.leaves) and folder.has(earlier.leaves[0])
            if earlier.repeatable:
                hint, there = " or force=true", there and folder.ended(earlier.name) and not self.settings.force
            else:
                hint = ""
            if there:
                folder.refuse(earlier.name, self.made_with(earlier), hint)

    def alone(self, run: Run, stage: Stage) -> AbstractContextManager[None]:
        """Of runs beside each other that take over what others have made, one makes a stage with these settings."""
        if not (self.settings.reuse and run.folder.writes and stage.leaves):
            return nullcontext()
        path = run.folder.path.parent / f".{stage.name}-{digest(self.made_with(stage))}.lock"
        return in_turn(path, lambda: run.say(f"{stage.name}: waits for a run beside this one, with the same settings"))

    def take(self, run: Run, stage: Stage) -> bool:
        """Take over what a folder beside this one has finished with the same settings, if nothing of it is here.

        Gives whether there was such a folder.
        """
        if not (self.settings.reuse and run.folder.writes and stage.leaves) or any(map(run.folder.has, stage.leaves)):
            return False
        settings = self.made_with(stage)
        source = run.folder.beside(stage.name, settings, stage.leaves)
        if source is None:
            return False
        for name in stage.leaves:
            run.folder.copy(source, name)
        run.folder.begin(stage.name, settings)
        run.folder.finish(stage.name, settings)
        run.folder.spent(stage.name, source.times.get(stage.name))
        run.say(f"{stage.name}: taken from {source.path}, where it was made with the same settings")
        return True

    def complete(self, run: Run, stage: Stage) -> dict[str, float]:
        """Do one stage, unless the folder has it already; gives the seconds that it took, by its name.

        Raises:
            ValueError: it, or one before it, was made with other settings (see `refuse_others`).
        """
        if not (run.folder.writes or stage.together):
            return {}
        self.refuse_others(run, stage)
        settings = self.made_with(stage)
        run.folder.begin(stage.name, settings)
        if run.folder.finished(stage.name, settings):
            run.say(f"{stage.name}: done before")
            return {}
        started = time.perf_counter()
        try:
            with writing(run.folder.path), run.console.busy(stage.name):
                stage.run(run)
        except BaseException as error:
            error.add_note(stage.name)
            raise
        seconds = time.perf_counter() - started
        run.folder.finish(stage.name, settings)
        run.folder.spent(stage.name, seconds)
        return {stage.name: seconds}


def ordered(asked: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages in the order asked, each behind all that it comes after, which are looked up by name.

    Raises:
        ValueError: two of one name, or a circle.
    """
    named = {stage.name: stage for stage in asked}
    if len(named) < len(asked):
        raise ValueError(f"stages: each once, got {', '.join(stage.name for stage in asked)}")
    placed: dict[str, Stage] = {}
    for stage in asked:
        chain = [stage]
        while (before := chain[0].after) is not None and before not in placed:
            if before in [s.name for s in chain]:
                raise ValueError(f"stages: {before} comes after itself")
            chain.insert(0, named.get(before) or converted(before, Stage, f"stages: after of {chain[0].name}"))
        placed |= {s.name: s for s in chain if s.name not in placed}
    return tuple(placed.values())
