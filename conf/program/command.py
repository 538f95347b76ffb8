"""The console program `ofa`: compose a configuration with Hydra, run its stages, show the front."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from ofa.conf.program.ending import complaints, stoppable

BUDGET_MISSED = 3  # exit status
CONFIG = Path(__file__).parents[1] / "config.yaml"


def main() -> None:
    """Entry point. Keys below a group may be overridden without `+`; mistakes in them are found when building."""
    with stoppable("ofa"):
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
        status = execute(config)
        if status:
            raise SystemExit(status)


def execute(config: DictConfig) -> int:
    """Do the stages that are not finished yet, and show the table; gives the exit status, 3 for a budget missed.

    Raises:
        ValueError: anything the user can mend; nothing finished is lost.
    """
    from ofa.conf.program.course import Course
    from ofa.conf.program.proposals import FILE, Proposals
    from ofa.conf.program.run import Run
    from ofa.search import Front

    course = Course.parse(config)
    run = Run.of(course.settings)
    course.execute(run)
    if run.folder.writes and run.folder.has("front.json"):
        front = Front.from_json(run.folder.read("front.json"), run.settings.objectives)
        run.say(front.table())
        run.say(f"picture: {run.folder / 'front.png'}   files: {run.folder / 'front.json'}")
    missed = Proposals.load(run).missed if run.folder.has(FILE) else ""
    if missed:
        run.say(missed)
    return BUDGET_MISSED if missed else 0


def relaxed(argument: str) -> str:
    """`data.size=48` as `++data.size=48`: a YAML names only what differs from a class's defaults."""
    key, equals, _ = argument.partition("=")
    groups = (*groups_of(), "budget", "tuning")
    nested = equals and key.partition(".")[0] in groups and "." in key and key[0] not in "+~-"
    return f"++{argument}" if nested else argument


def check_keys(arguments: list[str], *nodes: str) -> None:
    """Say plainly that there is no such setting, with close names, before Hydra does at length."""
    known = [*map(str, OmegaConf.load(CONFIG)), *groups_of(), *nodes]
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        first = key.lstrip("~").partition(".")[0].partition("@")[0]
        if equals and first[:1] not in ("+", "-") and first not in known:
            close = difflib.get_close_matches(first, known, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(sorted(known))}"
            print(f"ofa: {argument}: there is no setting {first!r}; {hint}", file=sys.stderr)
            raise SystemExit(2)


def groups_of() -> list[str]:
    """The folders of configurations."""
    return sorted({path.parent.name for path in CONFIG.parent.glob("*/*.yaml")})


def check_folder(run: str) -> None:
    """Say plainly that a run folder cannot be written, before Hydra tries to."""
    try:
        Path(run).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"ofa: run folder {run} cannot be written: {error.strerror}; choose another run=…", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
