"""The command `ofa doctor`: what is here, and what a run would cost before it starts."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from ofa.conf.program.arguments import composed, overrides_of, refused

NAME = "ofa doctor"
BESIDE = (
    "datasets",
    "optuna-dashboard",
    "pyarrow",
    "ray",
    "torchmetrics",
)  # some settings use them
CHECKPOINT = 3  # times the weights: beside them, the optimiser's two moments at most


def examine(arguments: Sequence[str]) -> None:
    """Say what is here and, where settings are given, what their run would cost; nothing is left behind.

    Raises:
        SystemExit: settings with which there would be no run.
    """
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"ofa {importlib.metadata.version('ofa-lab')}, Python {platform.python_version()}, {sys.executable}")
    try:
        config = composed("config", overrides_of("config", arguments))
    except ValueError as error:
        refused(NAME, error)
    for line in itertools.chain(machine(), folders(Path(str(config.run))), packages(), devices()):
        console.print(f"  {line}")
    if not arguments:
        console.print("ofa doctor data=… backbone=… says what a run with these settings would cost")
        return
    console.print(f"a run with these settings, in {config.run}:")
    try:
        for line in bill(config):
            console.print(f"  {line}")
    except (ValueError, OSError, OmegaConfBaseException) as error:
        refused(NAME, error)


def machine() -> Iterator[str]:
    """Processors and memory of this computer."""
    yield f"processors   {os.cpu_count()}, {platform.processor() or platform.machine()}"
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    if {"SC_PHYS_PAGES", "SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        page = os.sysconf("SC_PAGE_SIZE")
        free, whole = (page * os.sysconf(name) for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
        yield f"memory       {size(free)} free of {size(whole)}"


def folders(run: Path) -> Iterator[str]:
    """Whether there is room, and leave to write, where files will be."""
    places = {"runs": run, "temporary": Path(tempfile.gettempdir()), "weights": Path.home() / ".cache"}
    for name, path in places.items():
        there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
        state = "writable" if there.is_dir() and os.access(there, os.W_OK) else "CANNOT BE WRITTEN"
        yield f"{name:12} {path}: {state}, {size(shutil.disk_usage(there).free)} free"


def packages() -> Iterator[str]:
    """Versions of what the program needs, and of what some settings use."""
    needed = [entry for entry in importlib.metadata.requires("ofa-lab") or () if "extra ==" not in entry]
    names = [re.split(r"[^\w.-]", entry)[0] for entry in needed]
    for title, group in ("needed", names), ("beside", BESIDE):
        yield f"{title:12} {', '.join(f'{name} {installed(name)}' for name in group)}"


def installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "MISSING" if name not in BESIDE else "not installed"


def devices() -> Iterator[str]:
    """What networks can run on; torch is imported for it."""
    import torch

    yield f"devices      cpu ({torch.get_num_threads()} threads at most)"
    for number in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield f"             cuda:{number} {name}, {size(free)} free of {size(whole)}"
    if torch.backends.mps.is_available():
        yield "             mps"


def bill(config: DictConfig) -> Iterator[str]:
    """Time of each stage, memory and disk, from a few steps of each that are done for it in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="ofa-doctor-") as folder:
        yield from measured(config, Path(folder))


def measured(config: DictConfig, folder: Path) -> Iterator[str]:
    from ofa.conf.program.course import Course
    from ofa.conf.program.folder import RunFolder
    from ofa.conf.program.run import Run

    course = Course.parse(config)
    run, own = Run(course.settings, RunFolder(folder)), RunFolder(Path(str(config.run)), writes=False)
    splits = run.splits
    parts = {"train": splits.train, "choose": splits.validation, "test": splits.test}
    pictures = ", ".join(f"{len(part):,} to {verb}" for verb, part in parts.items())
    yield f"pictures     {pictures}; {splits.num_classes} classes"
    run.teacher = run.backbone().eval().requires_grad_(False)
    weights = sum(t.numel() * t.element_size() for t in run.teacher.state_dict().values())
    yield f"backbone     {sum(p.numel() for p in run.teacher.parameters()):,} parameters, {size(weights)}"
    unfinished = [stage for stage in course if not own.finished(stage.name, course.made_with(stage))]
    for stage in unfinished:
        stage.rehearse(run)
    run.supernet = run.convert().eval()
    total = 0.0
    for stage in course:
        if stage not in unfinished:
            yield f"{stage.name:12} done before"
            continue
        seconds = stage.forecast(run)
        total += seconds or 0.0
        yield f"{stage.name:12} {'not known' if seconds is None else f'about {spell(seconds)}'}"
    yield f"together     about {spell(total)}, without reading pictures of an epoch for the first time"
    yield f"memory       about {peak()}, and in each of {run.settings.workers} workers a part of it"
    files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    disk = 2 * CHECKPOINT * weights + (run.settings.export.subnets + 1) * files
    yield f"disk         up to {size(disk)} in {config.run}"


def peak() -> str:
    """The most memory that this process has taken, and of a GPU."""
    import torch

    taken = []
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        taken.append(size(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit))
    if torch.cuda.is_available():
        taken.append(f"{size(torch.cuda.max_memory_allocated())} of the GPU")
    return ", ".join(taken) or "not known"


def spell(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))


def size(number: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} GB"
