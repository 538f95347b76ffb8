"""A disk that is full: one line that says what had no room, nothing half written, and on it goes with more room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ofa import Subnet
from ofa.export import export_onnx, export_program, save_weights
from ofa.files import DiskFull, write_text, writing
from ofa.search import Archive
from ofa.train import Tracker, checkpoint

TESTS = Path(__file__).parent


def mount(folder: Path, size: str, *how: str) -> bool:
    options = ",".join((*how, f"size={size}"))
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    return done.returncode == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    (folder := tmp_path / "small").mkdir()
    if sys.platform != "linux" or os.geteuid() or not mount(folder, "200k"):
        pytest.skip("a small file system can be mounted by root on Linux, outside most containers")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


WRITERS: dict[str, Callable[[Path], object]] = {
    "state.pt": lambda path: checkpoint.save(path, {"model": {"weight": torch.zeros(100_000)}}),
    "report.txt": lambda path: write_text(path, "x" * 400_000),
}
EXPORTS: dict[str, Callable[[Path], object]] = {
    "weights.safetensors": lambda path: save_weights(nn.Linear(300, 300), path),
    "model.onnx": lambda path: export_onnx(nn.Linear(300, 300), torch.zeros(1, 300), path),
    "network.pt2": lambda path: export_program(nn.Linear(300, 300), torch.zeros(1, 300), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_finds_no_room_leaves_the_one_before(small: Path, name: str) -> None:
    (small / name).write_text("before")
    with pytest.raises(DiskFull, match=rf"{name} cannot be written: 0\.\d MB.* make room .*the same command goes on"):
        WRITERS[name](small / name)
    assert [path.name for path in small.iterdir()] == [name] and (small / name).read_text() == "before"


def test_what_a_checkpoint_needs_is_said(small: Path) -> None:
    with pytest.raises(DiskFull, match=r"0\.2 MB of the 0\.4 MB that it needs are free there"):
        WRITERS["state.pt"](small / "state.pt")


@pytest.mark.parametrize("name", EXPORTS)
def test_however_a_library_says_that_the_disk_is_full_it_is_said_once(small: Path, name: str) -> None:
    with pytest.raises(DiskFull, match=name), writing(small / name):
        EXPORTS[name](small / name)


def test_an_archive_and_the_figures_go_on_with_more_room(small: Path) -> None:
    rows = [(Subnet({"width": k}), {f"m{i}": float(k) for i in range(500)}) for k in range(60)]
    with Archive(small / "archive.sqlite") as archive, pytest.raises(DiskFull, match=r"archive\.sqlite"):
        for row in rows:
            archive.add(*row)
    tracker = Tracker(small)
    with pytest.raises(DiskFull, match=r"metrics\.jsonl"):
        for epoch in range(1000):
            tracker.log("teacher", {"epoch": epoch, "text": "x" * 1000})
    assert mount(small, "4m", "remount")
    tracker.rewind("teacher", 10)
    assert len(tracker.path.read_text().splitlines()) <= 11
    with Archive(small / "archive.sqlite") as archive:
        known = len(archive)
        assert 0 < known < 60
        for row in rows[known:]:
            archive.add(*row)
    with Archive(small / "archive.sqlite") as archive:
        assert list(archive) == [subnet for subnet, _ in rows]


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path / "file"):
        (tmp_path / "nowhere" / "file").touch()


@pytest.mark.slow
def test_a_run_stops_at_each_size_of_disk_with_one_line_and_ends_as_if_there_had_been_room(
    small: Path, tmp_path: Path
) -> None:
    settings = (
        "backbone=networks.small", "data.size=16", "space.divisor=4", "space.proof=quick", "threads=1", "reuse=false",
        "teacher.recipe.epochs=2", "supernet.recipe.epochs=2", "supernet.calibration_batches=1", "latency.samples=6",
        "finetune.recipe.epochs=1", "search.population=4", "search.evaluations=8",
        "stages=[teacher,supernet,latency,search,export]",
    )  # fmt: skip
    folder, told = small / "run", []
    for kilobytes in (200, 300, 400, 500, 600, 700, 800, 900, 1000, 1200, 1400, 1600, 1800, 8000):
        assert mount(small, f"{kilobytes}k", "remount")
        done = subprocess.run(
            [sys.executable, "-m", "ofa.conf.program.command", f"run={folder}", *settings],
            capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
        )  # fmt: skip
        if done.returncode == 0:
            break
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and "Traceback" not in done.stdout
        assert line.startswith("ofa: ") and "cannot be written" in line and "make room" in line
        assert not list(folder.rglob("*.partial"))
        told.append(line)
    assert done.returncode == 0 and len(told) >= 3
    for weights in folder.glob("subnets/*/weights.safetensors"):
        load_file(weights)
