"""Files and checkpoints: whole or not there, and harmless to read."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ofa.files import replacing, write_text
from ofa.train import checkpoint

STATE = {"weights": {"w": torch.arange(2000.0)}, "steps_done": 3, "best": {"accuracy": 97.5}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "teacher.pt"
    checkpoint.save(path, STATE)
    return path


def test_what_was_saved_is_loaded(saved: Path) -> None:
    state = checkpoint.load(saved)
    assert torch.equal(state["weights"]["w"], torch.arange(2000.0))
    assert state["steps_done"] == 3 and state["best"] == {"accuracy": 97.5}


def test_a_failed_save_leaves_the_previous_file_and_nothing_else(saved: Path) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        checkpoint.save(saved, {"weights": (i for i in range(3))})  # generators cannot be pickled
    assert checkpoint.load(saved)["steps_done"] == 3
    assert [path.name for path in saved.parent.iterdir()] == ["teacher.pt"]


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "flipped", "list", "missing", "folder"])
def test_a_damaged_file_is_named(saved: Path, damage: str) -> None:
    content = saved.read_bytes()
    if damage in ("missing", "folder"):
        saved.unlink()
    if damage == "folder":
        saved.mkdir()
    if damage == "list":
        torch.save([1, 2], saved)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    texts = {"empty": b"", "text": b"hello", "truncated": content[:-300], "flipped": bytes(flipped)}
    if damage in texts:
        saved.write_bytes(texts[damage])
    with pytest.raises(ValueError, match=r"teacher\.pt"):
        checkpoint.load(saved)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "teacher.pt"
    torch.save({"model": Malicious()}, path)
    with pytest.raises(ValueError, match=r"teacher\.pt"):
        checkpoint.load(path)
    assert not (tmp_path / "executed").exists()


SAME_NAME = """
import sys, pathlib
from ofa.files import write_text
for i in range(100):
    write_text(pathlib.Path(sys.argv[1]), sys.argv[2] * 5_000)
"""


def test_processes_that_write_one_file_leave_what_one_of_them_wrote(tmp_path: Path) -> None:
    """With one unfinished file for all, renames fail, and texts are mixed."""
    path = tmp_path / "there" / "report.txt"
    writers = [subprocess.Popen([sys.executable, "-c", SAME_NAME, str(path), str(n)]) for n in range(8)]
    assert [writer.wait() for writer in writers] == [0] * 8
    text = path.read_text()
    assert len(text) == 5_000 and len(set(text)) == 1
    assert [*path.parent.iterdir()] == [path]
    usual = tmp_path / "usual.txt"
    usual.write_text("")
    assert path.stat().st_mode == usual.stat().st_mode


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    write_text(path, "before")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write("after")
        raise ZeroDivisionError
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]
