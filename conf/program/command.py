"""The console program `ofa`: compose a configuration with Hydra, run its stages, show the front."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ofa.conf.program.arguments import prepare, stand
from ofa.conf.program.console import Console as RunConsole
from ofa.conf.program.ending import UNEXPECTED, complaints, stoppable
from ofa.conf.program.manual import explain, wanted
from ofa.conf.program.sweep import BUDGET_MISSED, FAILED

if TYPE_CHECKING:
    from rich.table import Table


def main() -> None:
    """Entry point. Keys below a group may be overridden without `+`; mistakes in them are found when building."""
    stand()
    match sys.argv[1:]:
        case ["doctor", *settings]:
            from ofa.conf.program.doctor import examine

            examine(settings)
        case ["init", *folders]:
            from ofa.conf.program.starter import begin

            begin(folders)
        case arguments if wanted(arguments):
            explain("ofa", "config", arguments)
        case arguments:
            with stoppable("ofa"):
                sys.argv[1:] = prepare("ofa", "config", arguments)
                _hydra_main()


@hydra.main(version_base="1.3", config_path="pkg://ofa.conf", config_name="config")
def _hydra_main(config: DictConfig) -> None:
    announce("ofa", config)
    try:
        with complaints("ofa"):
            status = execute(config)
    except SystemExit as left:
        if left.code not in (FAILED, UNEXPECTED) or HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        return  # the other jobs of a sweep are not its fault
    if status and HydraConfig.get().mode != RunMode.MULTIRUN:
        raise SystemExit(status)


def announce(program: str, config: DictConfig) -> None:
    """The first line, before torch is imported: what is going to happen, and where."""
    options, backbone = HydraConfig.get().runtime.choices, config.backbone
    name = backbone if isinstance(backbone, str) else backbone.get("_target_")
    line = f"{program} {version('ofa-lab')}: {name} on {options.get('data')}, in {config.run}"
    RunConsole(quiet=os.environ.get("RANK", "0") != "0").print(line, markup=False)


def execute(config: DictConfig) -> int:
    """Do the stages that are not finished yet, and show the table; gives the exit status, 3 for a budget missed.

    Raises:
        ValueError: anything the user can mend; nothing finished is lost.
    """
    from ofa.conf.program.course import Course
    from ofa.conf.program.proposals import FILE, Proposals
    from ofa.conf.program.run import Run
    from ofa.conf.program.stages.export import PICTURES
    from ofa.search import Front

    course = Course.parse(config)
    run = Run.of(course.settings)
    took = course.execute(run)
    if run.folder.writes and any("front.json" in stage.leaves for stage in course):
        front = Front.from_json(run.folder.read("front.json"), run.settings.objectives)
        assert front.teacher is not None
        title = run.title(front.teacher.metrics[PICTURES])
        run.say(front.table(title, ("balanced_accuracy",) if run.uneven else ()))
        for remark in front.remarks():
            run.say(remark)
        run.say(f"picture: {run.folder / 'front.png'} (front.html to look into)   files: {run.folder / 'front.json'}")
    if len(took) > 1:
        run.say(times(took))
    missed = Proposals.load(run).missed if run.folder.has(FILE) else ""
    if missed:
        run.say(missed)
    return BUDGET_MISSED if missed else 0


def times(took: Mapping[str, float]) -> Table:
    """What each stage took, and all of them."""
    from rich.table import Column, Table

    whole = sum(took.values())
    table = Table("stage", Column("took", justify="right"), Column("share", justify="right"))
    for name, seconds in {**took, "all": whole}.items():
        style = "bold" if name == "all" else None
        table.add_row(name, str(timedelta(seconds=round(seconds))), f"{100 * seconds / whole:.0f} %", style=style)
    return table


if __name__ == "__main__":
    main()
