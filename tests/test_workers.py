"""Evaluations in several processes: the results of one, and nothing finished is lost whatever happens to a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import build
from torch import nn
from toy_evaluations import Failing, Telling, toy_search
from toy_space import accuracy

from ofa import SpaceConfig, Subnet, Supernet
from ofa.files import DiskFull
from ofa.search import Archive, Evolution, run
from ofa.search.evaluation import Evaluate, Result
from ofa.search.problem import Problem
from ofa.search.workers import tell, visible, workers
from ofa.train.data import Digits
from ofa.train.sandwich import Sandwich

HERE = Path(__file__).parent


def archived(path: Path) -> dict[Subnet, dict[str, float]]:
    with Archive(path) as archive:
        return {subnet: dict(metrics) for subnet, metrics in archive.items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[Subnet, dict[str, float]]:
    """What the toy search archives in this process."""
    path = tmp_path_factory.mktemp("whole") / "archive.sqlite"
    with Archive(path) as archive:
        run(toy_search(), accuracy, archive)
    return archived(path)


def learner() -> Sandwich:
    """A residual network on a few digits."""
    model, _ = build("resnet")
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    space = SpaceConfig(width=(0.125, 0.25), resolution=(24, 32), proof="off")
    splits = Digits(size=32).load()
    few = replace(splits.validation, images=splits.validation.images[:64], labels=splits.validation.labels[:64])
    supernet = Supernet(model.eval(), torch.zeros(1, 1, 32, 32), space).eval()
    return Sandwich(supernet, replace(splits, validation=few), calibration_batch=16, calibration_batches=2)


def test_workers_find_what_one_process_finds(tmp_path: Path) -> None:
    taught = learner()
    fronts, supernet = [], taught.supernet
    with workers(taught.evaluate_subnet, 2, threads=torch.get_num_threads()) as (held, spread):
        for name, evaluate, map_ in (("alone", taught.evaluate_subnet, map), ("workers", held, spread)):
            settings = Evolution(population=5, evaluations=10)
            search = settings.start(Problem.parse(supernet.space, ["accuracy", "loss", "macs"], supernet.costs), 1)
            with Archive(tmp_path / name) as archive:
                fronts.append(run(search, evaluate, archive, map=map_))
    metrics = archived(tmp_path / "alone")
    assert len({row["loss"] for row in metrics.values()}) > 5
    assert archived(tmp_path / "workers") == metrics
    assert fronts[0] == fronts[1]


class Enough(Exception):
    """Both processes have been seen."""


def test_every_process_is_asked_and_measures_its_own_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,8")
    results: list[Result] = []

    def note(result: Result) -> None:
        results.append(result)
        if len({r.metrics["process"] for r in results}) == 2:
            raise Enough

    with (
        pytest.raises(Enough),
        Archive(tmp_path / "archive.sqlite") as archive,
        workers(Telling(0.3), 2, devices=("cuda:2", "cuda:0"), threads=3) as (held, spread),
    ):
        run(toy_search(400), held, archive, note, spread)
    assert 0.3 <= min(r.seconds for r in results) < 1.0  # a fresh process takes longer to begin
    assert os.getpid() not in {r.metrics["process"] for r in results}
    assert {(r.metrics["gpu"], r.metrics["threads"]) for r in results} == {(5, 3), (8, 3)}  # a device each, in turn


def test_an_exception_surfaces_and_loses_one_evaluation(
    tmp_path: Path, expected: dict[Subnet, dict[str, float]]
) -> None:
    path, subnets = tmp_path / "archive.sqlite", list(expected)
    evaluate = Failing(path, {subnets[2]: ("error", 5), subnets[-1]: ("unpicklable", 11)})
    with workers(evaluate, 2) as (held, spread):
        with Archive(path) as archive, pytest.raises(ValueError, match=r"^no such width$") as caught:
            run(toy_search(), held, archive, map=spread)
        assert "toy_evaluations.py" in str(caught.value.__cause__)  # the worker's traceback
        assert archived(path) == without(expected, subnets[2], *subnets[6:])
        with Archive(path) as archive, pytest.raises(RuntimeError, match=r"^Refusal: not today \(7\)$"):
            run(toy_search(), held, archive, map=spread)
        assert archived(path) == without(expected, subnets[-1])
        with Archive(path) as archive:
            run(toy_search(), held, archive, map=spread)
    assert archived(path) == expected


def without(expected: dict[Subnet, dict[str, float]], *subnets: Subnet) -> dict[Subnet, dict[str, float]]:
    return {subnet: metrics for subnet, metrics in expected.items() if subnet not in subnets}


def test_a_killed_worker_is_one_clear_error_and_loses_one_evaluation(
    tmp_path: Path, expected: dict[Subnet, dict[str, float]]
) -> None:
    path, subnets = tmp_path / "archive.sqlite", list(expected)
    with (
        pytest.raises(ValueError, match=r"a worker died .*everything finished is kept, and the same command"),
        Archive(path) as archive,
        workers(Failing(path, {subnets[2]: ("killed", 5)}), 2) as (held, spread),
    ):
        run(toy_search(), held, archive, map=spread)
    assert time.time() - (tmp_path / "failed-killed").stat().st_mtime < 10
    assert archived(path) == without(expected, subnets[2], *subnets[6:])
    with Archive(path) as archive:
        run(toy_search(), accuracy, archive)
    assert archived(path) == expected


UNGUARDED = """
import sys
sys.path[:0] = {paths!r}
from ofa.search.workers import workers
from toy_evaluations import accuracy

with workers(accuracy, 2):
    print("began")
"""


def test_a_script_without_its_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(UNGUARDED.format(paths=[str(Path(__file__).parent)]))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "began" not in done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: a worker died (") and 'lacks `if __name__ == "__main__":`' in last


SEARCHING = """
import signal, sys
sys.path[:0] = {paths!r}
from ofa.search import Archive, run
from ofa.search.workers import workers
from ofa.search.problem import Problem
from toy_evaluations import Telling, toy_search

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    with Archive(sys.argv[1]) as archive, workers(Telling(0.2), 2) as (held, spread):
        run(toy_search(1000), held, archive, map=spread)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_and_no_file_outlives_the_one_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    script, path, scratch = tmp_path / "searching.py", tmp_path / "archive.sqlite", tmp_path / "scratch"
    script.write_text(SEARCHING.format(paths=[str(HERE), str(HERE.parent)]))
    scratch.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(path)],
        env={**os.environ, "TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not path.exists() or len(archived(path)) < 6:
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    assert any(scratch.rglob("evaluate.pt"))
    (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)  # Ctrl-C reaches every process
    _, errors = parent.communicate(timeout=180)  # what they all write to ends with the last of them
    assert parent.returncode == -number
    assert errors.count("Traceback") == (1 if number == signal.SIGINT else 0), errors
    assert not list(scratch.iterdir())


@pytest.mark.gpu
def test_workers_on_gpus_find_what_one_process_finds() -> None:
    devices = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    taught = learner()
    taught.supernet.to(devices[-1])
    subnets = [taught.supernet.space.smallest, taught.supernet.space.largest]
    expected = sorted(taught.evaluate_subnet(subnet)["loss"] for subnet in subnets)
    with workers(taught.evaluate_subnet, 2, devices) as (held, spread):
        assert sorted(found["loss"] for found in spread(held, subnets)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("evaluate", "processes", "devices", "message"),
    [
        (lambda subnet: accuracy(subnet), 2, (), r"cannot be sent to workers, only run in one process: .*lambda"),
        (accuracy, 0, (), "at least 1 process of 1 thread, got 0 and 1"),
        (accuracy, 2, ("cpu",), r"devices of workers are cuda:0, cuda:1, …, got 'cpu'"),
    ],
)
def test_mistakes_are_said_before_anything_starts(
    evaluate: Evaluate, processes: int, devices: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message), workers(evaluate, processes, devices):
        pass


def test_devices_are_counted_among_those_that_this_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible("cuda:3") == "3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,8")
    assert visible("cuda:1") == "3"
    with pytest.raises(ValueError, match=r"cuda:3 is not to be seen: CUDA_VISIBLE_DEVICES=5,3,8"):
        visible("cuda:3")


def without_room(subnet: Subnet) -> dict[str, float]:
    raise DiskFull.of(Path("here"), 10)


def test_a_full_disk_is_said_by_a_worker_as_it_is() -> None:
    with workers(without_room, 1) as (held, spread), pytest.raises(DiskFull, match=r"^here cannot be written"):
        list(spread(held, [Subnet({"stem": 8})]))


class Talkative:
    """Tells who it is until it is asked to stop."""

    def __call__(self, subnet: Subnet) -> dict[str, float]:
        for number in range(600):
            if tell((os.getpid(), number)):
                return {"accuracy": number}
            time.sleep(0.05)
        return {"accuracy": -1.0}


def test_workers_tell_and_are_asked_to_stop_and_waited_for() -> None:
    heard: list[tuple[int, int]] = []
    with pytest.raises(Enough), workers(Talkative(), 2, hear=heard.append) as (held, spread):
        evaluated = spread(held, [Subnet({"stem": 8}), Subnet({"stem": 16})])
        begin = threading.Thread(target=lambda: list(evaluated), daemon=True)
        begin.start()
        while len({process for process, _ in heard}) < 2:
            time.sleep(0.01)
        asked = time.monotonic()
        raise Enough
    assert time.monotonic() - asked < 15
    for process in {process for process, _ in heard}:
        numbers = [number for other, number in heard if other == process]
        assert numbers == list(range(len(numbers)))  # nothing is lost, and in order
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_what_goes_wrong_in_hearing_is_raised_in_the_end() -> None:
    def deaf(message: object) -> None:
        raise ValueError("not heard")

    with pytest.raises(ValueError, match=r"^not heard$"), workers(Brief(), 1, hear=deaf) as (held, spread):
        assert len(list(spread(held, [Subnet({"stem": 8})]))) == 1


class Brief:
    """Tells more than a pipe holds."""

    def __call__(self, subnet: Subnet) -> dict[str, float]:
        for _ in range(200):
            tell("x" * 1000)
        return {"accuracy": 1.0}


class Leaving:
    """Leaves a process behind, which holds what it was born with."""

    def __call__(self, subnet: Subnet) -> dict[str, float]:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        return {"accuracy": 1.0}


def test_nobody_waits_for_what_an_evaluation_left_behind() -> None:
    with workers(Leaving(), 1) as (held, spread):
        assert len(list(spread(held, [Subnet({"stem": 8})]))) == 1
        finished = time.monotonic()
    assert time.monotonic() - finished < 15
