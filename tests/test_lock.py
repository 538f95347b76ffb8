"""Who holds a run folder: one command at a time, on this machine and on others, and a dead owner's is taken over."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest

from ofa.conf.program.lock import BEAT_S, LOCK, OWNER, STALE_S, Owner, held

ROOT = Path(__file__).parents[1]
HOLDING = "import sys, time; from pathlib import Path; from ofa.conf.program.lock import held\n"
HOLDING += "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"


def holding(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_second_says_who_holds_it_and_a_killed_owner_is_taken_over(tmp_path: Path) -> None:
    with holding(tmp_path) as process:
        (tmp_path / ".teacher.pt.0123.partial").touch()
        with pytest.raises(ValueError, match=rf"is in use by process {process.pid} on {platform.node()} since") as told:
            held(tmp_path).__enter__()
        assert "(-c " in str(told.value) and "wait for it, or choose another run=…" in str(told.value)
        assert (tmp_path / ".teacher.pt.0123.partial").exists(), "it may be the owner's"
        process.kill()
    assert (tmp_path / OWNER).exists()
    with held(tmp_path):
        assert json.loads((tmp_path / OWNER).read_text())["process"] == os.getpid()
        assert not (tmp_path / ".teacher.pt.0123.partial").exists()
    assert not (tmp_path / OWNER).exists()
    with held(tmp_path):
        pass


def left(folder: Path, age: float, **facts: Any) -> None:
    """The name that an owner left, with its last sign of life."""
    (folder / OWNER).write_text(json.dumps({**vars(Owner.me()), **facts}))
    os.utime(folder / OWNER, (time.time() - age,) * 2)


def test_of_another_machine_a_sign_of_life_tells(tmp_path: Path) -> None:
    left(tmp_path, BEAT_S, machine="another", host="elsewhere", process=7)
    with pytest.raises(
        ValueError, match=r"in use by process 7 on elsewhere since .*\(if it is dead: after 120 seconds\)"
    ):
        held(tmp_path).__enter__()
    left(tmp_path, STALE_S + 1, machine="another")
    with held(tmp_path):
        assert Owner.load(tmp_path) == Owner(**{**vars(Owner.me()), "since": Owner.load(tmp_path).since})  # type: ignore[union-attr]


def test_where_the_file_system_has_no_locks_the_name_on_the_door_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(file: IO[Any], how: int) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "lockf", refused)
    with held(tmp_path), pytest.raises(ValueError, match=f"in use by process {os.getpid()} "):
        held(tmp_path).__enter__()
    with subprocess.Popen(["true"]) as ended:
        pass
    left(tmp_path, 0, process=ended.pid)
    with held(tmp_path):
        pass
    left(tmp_path, STALE_S + 1, process=os.getppid())  # another process got its number
    with held(tmp_path):
        pass


def test_an_owner_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ofa.conf.program.lock.BEAT_S", 0.05)
    with held(tmp_path):
        os.utime(tmp_path / OWNER, (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / OWNER).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_damaged_name_on_the_door_is_nobody(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    (tmp_path / OWNER).write_text("{")
    with held(tmp_path):
        pass
