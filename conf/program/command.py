"""The console program `ofa`: compose a configuration with Hydra, run its stages, show the front."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from ofa.conf.program.job import Job

CONFIG = Path(__file__).parents[1] / "config.yaml"


def main() -> None:
    """Entry point. Keys below a group may be overridden without `+`; mistakes in them are found when building."""
    prepare()
    _hydra_main()


def prepare(*nodes: str) -> None:
    """Check and relax the command line; `nodes` are settings that are known beside those of `config.yaml`."""
    check_keys(sys.argv[1:], *nodes)
    sys.argv[1:] = [relaxed(argument) for argument in sys.argv[1:]]
    run = next((a.partition("=")[2] for a in sys.argv[1:] if a.startswith("run=")), None)
    if run is not None and "$" not in run:
        check_folder(run)


@hydra.main(version_base="1.3", config_path="pkg://ofa.conf", config_name="config")
def _hydra_main(config: DictConfig) -> None:
    with complaints("ofa"):
        execute(config)


@contextmanager
def complaints(program: str) -> Iterator[None]:
    """What the user can mend becomes one line and exit code 2."""
    from rich.console import Console
    from rich.markup import escape

    from ofa.train.guards import Terminated

    try:
        yield
    except Terminated:
        Console(stderr=True).print(f"{program}: stopped by SIGTERM; nothing is lost, the same command goes on")
        raise
    except (ValueError, OSError, OmegaConfBaseException) as error:
        Console(stderr=True).print(f"[bold red]{program}:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from None


def execute(config: DictConfig) -> None:
    """Run the stages that are not finished yet, and show the table.

    Raises:
        ValueError: anything the user can mend; nothing finished is lost.
    """
    from ofa.conf.program.job import TRAINED, Job
    from ofa.conf.program.records import read_json
    from ofa.search import Front
    from ofa.train.distribution import joined

    job = Job(config)
    try:
        with joined(job.device):
            for stage in (s for s in job.stages if s in TRAINED):
                complete(job, stage)
        for stage in (s for s in job.stages if s not in TRAINED):
            complete(job, stage)
    finally:
        job.tracker.close()
    path = job.folder / "front.json"
    if path.exists() and job.writes:
        front = Front.from_json(read_json(path), job.objectives)
        job.console.print(front.table())
        job.console.print(f"picture: {job.folder / 'front.png'}   files: {path}", highlight=False, soft_wrap=True)


def complete(job: Job, stage: str) -> None:
    """Do a stage, unless the folder has it already."""
    from ofa.conf.program.stages import STAGES

    job.begin(stage)
    if job.finished(stage):
        job.console.print(f"{stage}: done before")
        return
    STAGES[stage](job)
    job.finish(stage)


def relaxed(argument: str) -> str:
    """`data.size=48` as `++data.size=48`: a YAML names only what differs from a class's defaults."""
    key, equals, _ = argument.partition("=")
    groups = (
        "data",
        "task",
        "budget",
        "teacher",
        "space",
        "supernet",
        "latency",
        "search",
        "pruning",
        "export",
        "tracking",
        "tuning",
    )
    nested = equals and key.partition(".")[0] in groups and "." in key and key[0] not in "+~-"
    return f"++{argument}" if nested else argument


def check_keys(arguments: list[str], *nodes: str) -> None:
    """Say plainly that there is no such setting, with close names, before Hydra does at length."""
    groups = {path.parent.name for path in CONFIG.parent.glob("*/*.yaml")}
    known = [*map(str, OmegaConf.load(CONFIG)), *sorted(groups), *nodes]
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        first = key.lstrip("~").partition(".")[0].partition("@")[0]
        if equals and first[:1] not in ("+", "-") and first not in known:
            close = difflib.get_close_matches(first, known, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(sorted(known))}"
            print(f"ofa: {argument}: there is no setting {first!r}; {hint}", file=sys.stderr)
            raise SystemExit(2)


def check_folder(run: str) -> None:
    """Say plainly that a run folder cannot be written, before Hydra tries to."""
    try:
        Path(run).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"ofa: run folder {run} cannot be written: {error.strerror}; choose another run=…", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
