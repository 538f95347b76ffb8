"""The console programs told to stop, at every stage, by either signal: one line, nothing left behind."""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ofa.conf.program.ending import complaints
from ofa.signals import Bell, Terminated, listening
from ofa.train.progress import Progress

TESTS = Path(__file__).parent
TOY = (
    "data=image_folder", "data.size=16", "data.workers=2", "backbone=networks.small", "space.divisor=4",
    "space.proof=quick", "supernet.calibration_batches=1", "supernet.calibration_batch=16", "threads=1", "reuse=false",
    "latency.samples=6", "search.population=4", "search.evaluations=10", "export.subnets=2",
    "teacher.recipe.batch_size=16", "supernet.recipe.batch_size=16",
    "finetune.recipe.batch_size=16",
)  # fmt: skip
SHORT = ("teacher.recipe.epochs=2", "supernet.recipe.epochs=2", "finetune.recipe.epochs=20")
MAIN = "stages=[teacher,supernet,latency,search,export]"
PRUNING = (
    "method=one_step", "budget.macs=[0.3,0.9]", "search.evaluations=6",
    "pruning.finetuning.recipe.batch_size=16", "pruning.finetuning.trials=0",
)  # fmt: skip
OF_SEARCH = ("search.population=4",)  # of an engine that pruning does not use
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, number in (("train", 40), ("test", 12)):
        for level, name in ((60, "dark"), (180, "light")):
            (folder / part / name).mkdir(parents=True)
            for i in range(number):
                noise = rng.integers(-50, 50, (16, 16, 3))
                Image.fromarray((level + noise).astype(np.uint8)).save(folder / part / name / f"{i}.png")
    return folder


class Command:
    """A console program in a session of its own, with a place for temporary files of its own."""

    def __init__(self, folder: Path, pictures: Path, *settings: str, program: str = "command") -> None:
        self.folder, self.scratch = folder, Path(tempfile.mkdtemp())  # short: sockets lie there
        command = [sys.executable, "-m", f"ofa.conf.program.{program}", f"run={folder}", f"data.folder={pictures}"]
        paths = f"{TESTS.parent}:{TESTS}"
        self.process = subprocess.Popen(
            [*command, *settings],
            env={**os.environ, "TMPDIR": str(self.scratch), "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def reach(self, reached: Callable[[Path], bool]) -> None:
        deadline = time.monotonic() + 200
        while not reached(self.folder):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def signal(self, number: signal.Signals, group: bool) -> None:
        (os.killpg if group else os.kill)(self.process.pid, number)

    def stop(self, reached: Callable[[Path], bool], number: signal.Signals, group: bool, stage: str) -> str:
        """Stop it where it has reached something; gives its one line."""
        self.reach(reached)
        self.signal(number, group)
        return self.stopped(number, stage)

    def stopped(self, number: signal.Signals, stage: str, program: str = "ofa") -> str:
        """Check how it ended; gives its one line."""
        output, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 128 + number, errors
        assert "Traceback" not in output
        (line,) = [line for line in errors.splitlines() if not line.startswith("checking pictures ")]
        assert re.match(
            rf"{program}: stopped by {number.name} in {stage}(_ms)?\b.*; what is finished is kept, and the same",
            line,
        )
        assert line in (self.folder / "ofa.log").read_text()
        self.gone()
        return line

    def gone(self) -> None:
        """Nothing is left of it: no process, no temporary file, no name on the door."""
        vanish(self.process.pid)
        assert {path.name for path in self.scratch.iterdir()} <= {f"torchinductor_{getpass.getuser()}", ".ses"}
        shutil.rmtree(self.scratch)
        assert not list(self.folder.rglob("*.partial"))
        assert not (self.folder / ".owner.json").exists()

    def finish(self) -> str:
        output, errors = self.process.communicate(timeout=400)
        assert self.process.returncode == 0, errors
        shutil.rmtree(self.scratch)
        return output


def vanish(leader: int, seconds: float = 3.0) -> None:
    """Wait until no process of a session is left."""
    deadline = time.monotonic() + seconds
    while left := session(leader):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def session(leader: int) -> list[str]:
    """The processes of a session, zombies included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[3]) == leader:
            found.append(text)
    return found


def rows(path: Path) -> int:
    """Rows of an archive, or measurements of a device."""
    if not path.exists():
        return 0
    table = "measurement" if path.name == "latency.sqlite" else "evaluations"
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            return int(database.execute(f"select count(*) from {table}").fetchone()[0])
    except sqlite3.Error:
        return 0


def epochs(folder: Path, stage: str) -> list[int]:
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row["epoch"] for row in lines if row["stage"] == stage]


REACHED: dict[str, Callable[[Path], bool]] = {
    "teacher": lambda f: bool(epochs(f, "teacher")),
    "supernet": lambda f: bool(epochs(f, "supernet")),
    "latency": lambda f: rows(f / "latency.sqlite") >= 2,
    "search": lambda f: rows(f / "archive.sqlite") >= 3,
    "finetune": lambda f: '"stage": "finetune-' in (f / "metrics.jsonl").read_text(),
    "export": lambda f: len(list(f.glob("subnets/*/subnet.json"))) >= 1,
}
PRUNED: dict[str, Callable[[Path], bool]] = {
    "prune": lambda f: rows(f / "pruning/01/archive.sqlite") >= 2,
    "prune-01": lambda f: bool(epochs(f, "prune-01")),
}


def front(folder: Path) -> list[dict[str, Any]]:
    found = json.loads((folder / "front.json").read_text())
    return [{name: value for name, value in row.items() if "latency" not in name} for row in found]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("signals") / "run"
    Command(folder, pictures, *TOY, *SHORT, MAIN).finish()
    return folder


def test_a_training_saves_in_the_middle_of_an_epoch_and_goes_on(tmp_path: Path, pictures: Path) -> None:
    """The whole group is told, loader workers included; and while it works, its folder is its own."""
    folder, before, settings = tmp_path / "run", 0, (*TOY, "stages=[teacher]", "teacher.recipe.epochs=400")
    for _ in range(2):
        command = Command(folder, pictures, *settings)
        command.reach(lambda f, seen=before: len(epochs(f, "teacher")) > seen)  # type: ignore[misc]
        if not before:
            second = Command(folder, pictures, *settings)
            _, errors = second.process.communicate(timeout=60)
            owner = rf"process {command.process.pid} on \S+ since .* \(command.py run={folder} .*epochs=400\)"
            assert second.process.returncode == 2
            assert re.fullmatch(rf"ofa: {folder} is in use by {owner}; wait for it, or choose another run=…\n", errors)
        command.signal(signal.SIGTERM, group=True)
        steps, of = map(int, re.findall(r"teacher (\d+) of (\d+)", command.stopped(signal.SIGTERM, "teacher"))[0])
        assert (folder / "teacher-partial.pt").exists()
        done = epochs(folder, "teacher")
        assert done == list(range(1, len(done) + 1)) and len(done) > before
        assert len(done) * 4 <= steps <= len(done) * 4 + 4 and of == 1600
        before = len(done)


def test_a_search_keeps_what_is_evaluated(tmp_path: Path, pictures: Path) -> None:
    """Search workers, which have loader workers of their own, are told as well."""
    folder, stages = tmp_path / "run", "stages=[teacher,supernet,search]"
    Command(folder, pictures, *TOY, *SHORT, stages, "workers=2").stop(REACHED["search"], signal.SIGTERM, True, "search")
    assert REACHED["search"](folder) and "search" not in json.loads((folder / "done.json").read_text())


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_stopped_in_every_stage_and_gone_on_equals_uninterrupted(
    run: Path, pictures: Path, tmp_path: Path, number: signal.Signals, group: bool
) -> None:
    folder = tmp_path / "run"
    for stage, reached in REACHED.items():
        Command(folder, pictures, *TOY, *SHORT, MAIN, "workers=2").stop(reached, number, group, stage)
    Command(folder, pictures, *TOY, *SHORT, MAIN, "workers=2").finish()
    assert front(folder) == front(run)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_pruning_and_finetuning_are_stopped_like_the_rest(
    run: Path, pictures: Path, tmp_path: Path, number: signal.Signals, group: bool
) -> None:
    folder = tmp_path / "run"
    settings = (*(s for s in TOY if s not in OF_SEARCH and not s.startswith("search.")), *SHORT, *PRUNING)
    for place, reached in PRUNED.items():
        command = Command(folder, pictures, *settings, "pruning.finetuning.recipe.epochs=400")
        assert place in command.stop(reached, number, group, "prune")
    assert (folder / "pruning/01/finetuned-partial.pt").exists()


class Fading:
    """Told to stop in its finaliser, out of which nothing is raised."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)


ORPHAN = """
import multiprocessing, os, time
from ofa.signals import follow

def late():
    time.sleep(1)
    follow()
    time.sleep(60)

child = multiprocessing.get_context("fork").Process(target=late)
child.start()
print(child.pid, flush=True)
os._exit(1)
"""


def test_a_loader_whose_parent_is_gone_before_it_began_ends_too() -> None:
    process = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, start_new_session=True)
    process.communicate(timeout=30)  # the pipe ends with the last process
    vanish(process.pid)


def test_a_stop_that_a_finaliser_swallows_comes_again() -> None:
    with pytest.raises(Terminated), listening(Bell()):
        Fading()
        time.sleep(5)
        pytest.fail("nothing was raised")


def test_a_second_sigterm_is_patient_and_a_second_ctrl_c_is_not() -> None:
    code = (
        "import os, signal, sys, time\nfrom ofa.signals import Bell, listening\n"
        "with listening(bell := Bell(patient=True)):\n"
        "    for name in sys.argv[1:]:\n        signal.raise_signal(signal.Signals[name])\n"
        "    os._exit(7)\n"
    )
    for names, status in ((("SIGTERM", "SIGTERM"), 7), (("SIGTERM", "SIGINT"), 130), (("SIGINT", "SIGINT"), 130)):
        assert subprocess.run([sys.executable, "-c", code, *names], cwd=TESTS.parent).returncode == status


def test_what_nobody_expected_is_three_lines_and_the_rest_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logging.FileHandler(tmp_path / "ofa.log")
    logging.getLogger().addHandler(handler)
    try:
        with pytest.raises(SystemExit) as left, complaints("ofa"), Progress("search", 10, quiet=True) as bar:
            bar.advance()
            {}["depth"]
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert left.value.code == 1
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "ofa: unexpected in search 1 of 10: KeyError: 'depth'"
    assert "what is finished is kept" in second and f"in {tmp_path / 'ofa.log'}: please report it" in third
    log = (tmp_path / "ofa.log").read_text()
    assert "Traceback" in log and '{}["depth"]' in log and first in log


@pytest.mark.slow
@BOTH
def test_a_study_of_hyper_parameters_is_stopped_like_a_run(
    pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    settings = (*(s for s in TOY if not s.startswith(("search.", "latency.", "export."))), "teacher.recipe.epochs=1")
    command = Command(tmp_path / "run", pictures, *settings, "tuning.epochs=400", program="tune")
    command.reach(lambda f: bool(epochs(f / "trials/0", "supernet")))
    command.signal(number, group=True)
    command.stopped(number, "trial 0", program="ofa-tune")
