"""The command `ofa init`: a folder to start from, which runs as it is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ofa.conf.program.arguments import refused

NAME = "ofa init"
STARTER = Path(__file__).parent
COMMAND = "ofa --config-dir=. experiment=mine"


def begin(arguments: Sequence[str]) -> None:
    """Write the starter's files into a folder, by default the one that one stands in.

    Raises:
        SystemExit: more than one folder, or a file that is there already; nothing was written then.
    """
    folder = Path(arguments[0] if arguments else ".")
    try:
        if len(arguments) > 1 or str(folder).startswith("-"):
            raise ValueError(f"one folder is allowed, got {' '.join(arguments)}")
        names = [path.relative_to(STARTER) for path in sorted(STARTER.rglob("*")) if own(path)]
        there = [str(folder / name) for name in names if (folder / name).exists()]
        if there:
            raise ValueError(f"{', '.join(there)} would be overwritten; nothing was written: name another folder")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(STARTER / name, folder / name)
    except OSError as error:
        refused(NAME, ValueError(f"{folder} cannot be written: {error.strerror}"))
    except ValueError as error:
        refused(NAME, error)
    print(f"{folder}: {', '.join(map(str, names))}")
    print(COMMAND if folder == Path() else f"cd {folder} && {COMMAND}")


def own(path: Path) -> bool:
    """Whether a file is one of those that are written."""
    return path.suffix in (".py", ".yaml", ".md") and path != Path(__file__)
