"""Runs of classic pruning at toy size, which tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from composition import composed

from ofa.conf.program.command import execute

TOY = (
    "backbone=networks.small", "data.size=16", "threads=1", "space.divisor=4", "space.proof=quick",
    "teacher.recipe.epochs=6", "supernet.calibration_batches=2", "export.subnets=4",
    "latency.seconds=0.1", "reuse=false",
)  # fmt: skip
SHORT = ("pruning.finetuning.recipe.epochs=2", "pruning.finetuning.trials=0")


def taught(folder: Path) -> Path:
    """The folder, with a trained backbone in it."""
    execute(composed(f"run={folder}", *TOY, *SHORT, "method=uniform", "stages=[teacher]"))
    return folder


def beside(trained: Path, name: str) -> Path:
    """A new folder that shares the trained backbone."""
    folder = trained.parent / name
    folder.mkdir()
    for file in ("teacher.pt", "done.json", "settings.json"):
        (folder / file).write_bytes((trained / file).read_bytes())
    return folder


def pruned(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """Run to the end; gives the rows of the front."""
    execute(composed(f"run={folder}", *TOY, *SHORT, *overrides))
    rows: list[dict[str, Any]] = json.loads((folder / "front.json").read_text())
    return rows


def steps(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("pruning/*/step.json"))]
