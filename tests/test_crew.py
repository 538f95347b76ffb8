"""Asynchronous evaluation on any executor, Ray included: each subnet once, nothing lost, nobody waits for a batch."""

from __future__ import annotations

import copy
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from toy_evaluations import Failing, Telling, toy_search
from toy_space import accuracy, toy_costs, toy_space

from ofa import Subnet
from ofa.search import Archive, Crew, Guided, Problem, optimise, run
from ofa.search.cluster import check, connected, ray_workers
from ofa.search.engines import Ledger
from ofa.search.evaluation import Result
from ofa.search.workers import workers

HERE = Path(__file__).parent
NO_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: ofa-lab[ray]")


def archived(path: Path) -> dict[Subnet, dict[str, float]]:
    with Archive(path) as archive:
        return {subnet: dict(metrics) for subnet, metrics in archive.items()}


@contextmanager
def threads(evaluate: Any, number: int) -> Iterator[tuple[Any, Crew]]:
    with ThreadPoolExecutor(number) as pool:
        yield evaluate, Crew(pool, number)


@contextmanager
def processes(evaluate: Any, number: int) -> Iterator[tuple[Any, Crew]]:
    """An executor as users have them."""
    with ProcessPoolExecutor(number, get_context("spawn")) as pool:
        yield evaluate, Crew(pool, number)


@pytest.fixture(scope="module")
def on_ray() -> Iterator[None]:
    """A cluster of two processors that the tests share: it takes seconds to start."""
    before = signal.getsignal(signal.SIGTERM)
    with connected(2):
        assert signal.getsignal(signal.SIGTERM) is before, "Ray answers it"
        yield


CREWS = [threads, processes, workers, pytest.param(ray_workers, marks=NO_RAY)]


@pytest.mark.parametrize("crew_of", CREWS)
def test_every_crew_evaluates_each_subnet_once(crew_of: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if crew_of is ray_workers:
        request.getfixturevalue("on_ray")
    path, results = tmp_path / "archive.sqlite", list[Result]()
    with crew_of(Telling(0.0), 2) as (held, crew), Archive(path) as archive:
        run(search := toy_search(30), held, archive, results.append, crew=crew)
    told = {result.subnet: result.metrics for result in results}
    assert len(results) == len(told) == 30 and search.stopped == "all 30 evaluations are done"
    assert {s: m["accuracy"] for s, m in archived(path).items()} == {s: accuracy(s)["accuracy"] for s in told}
    others = {metrics["process"] for metrics in told.values()} - {os.getpid()}
    assert len(others) in ((0,) if crew_of is threads else (1, 2))  # one may be done before the other has started


def test_nobody_waits_for_a_straggler() -> None:
    """The first subnet is ready when three batches of others are."""
    enough, begun, lock = threading.Event(), list[Subnet](), threading.Lock()

    def evaluate(subnet: Subnet) -> dict[str, float]:
        with lock:
            begun.append(subnet)
            if len(begun) == 20:
                enough.set()
        if subnet == begun[0] and not enough.wait(20):
            raise TimeoutError(f"others waited: {len(begun)} were begun")
        return accuracy(subnet)

    with ThreadPoolExecutor(3) as pool, Archive(":memory:") as archive:
        run(search := toy_search(30), evaluate, archive, crew=Crew(pool, 3))
    assert len(search.results) == 30 and list(search.results).index(begun[0]) >= 15


def test_pending_ones_count_as_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for while ten are pending leaves their places on the front alone."""
    problem = Problem.parse(toy_space(), ["accuracy", "macs"], toy_costs)
    search = Guided(evaluations=100, population=10).start(problem)
    for _ in range(4):
        for subnet in search.ask():
            search.tell(subnet, accuracy(subnet))
    careless = copy.deepcopy(search)
    first, second = search.ask_more(10), search.ask_more(10)
    assert careless.ask_more(10) == first and not set(first) & set(second)
    monkeypatch.setattr(Ledger, "waiting", 0)
    assert set(careless.ask_more(10)) != set(second)


def test_a_failure_surfaces_and_what_is_under_way_is_kept(tmp_path: Path) -> None:
    path, wrong = tmp_path / "archive.sqlite", toy_search().ask()[1]
    with ThreadPoolExecutor(2) as pool, Archive(path) as archive, pytest.raises(ValueError, match=r"^no such width$"):
        run(toy_search(), Failing(path, {wrong: ("error", 4)}), archive, crew=Crew(pool, 2))
    kept = archived(path)
    assert 4 <= len(kept) < 12 and wrong not in kept
    with ThreadPoolExecutor(2) as pool, Archive(path) as archive:
        run(search := toy_search(), accuracy, archive, crew=Crew(pool, 2))
    assert len(search.results) == 12 and list(archived(path))[: len(kept)] == list(kept), "what was there is lost"


def test_a_crew_is_of_one_at_least() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="at least 1 item at a time, got 0"):
        Crew(pool, 0)


def test_a_function_of_ones_own_on_an_executor() -> None:
    with ThreadPoolExecutor(4) as pool:
        front = optimise(
            {"heat": [1, 2, 3, 4, 5], "time": [1, 2, 4, 8]},
            lambda point: {"yield": 10.0 - (point["heat"] - 3) ** 2 + point["time"]},
            {"yield": "max", "price": "min"},
            lambda point: {"price": 2.0 * point["heat"] + point["time"]},
            crew=Crew(pool, 4),
        )
    assert len(front.evaluated) == 20 and dict(front.best("yield").subnet or {}) == {"heat": 3, "time": 8}


SHARING = """
import sys, time
sys.path[:0] = {paths!r}
from concurrent.futures import ThreadPoolExecutor
from ofa.search import Archive, Crew, Evolution, Problem, run
from toy_space import accuracy, toy_costs, toy_space

def evaluate(subnet):
    time.sleep(0.02)
    return accuracy(subnet) | {{"seed": float(sys.argv[2])}}

problem = Problem.parse(toy_space(), ["accuracy", "macs"], toy_costs)
with Archive(sys.argv[1]) as archive, ThreadPoolExecutor(2) as pool:
    print("ready", flush=True)
    sys.stdin.readline()
    search = Evolution(population=6, evaluations=200).start(problem, int(sys.argv[2]))
    run(search, evaluate, archive, crew=Crew(pool, 2))
    print(len(search.results), flush=True)
"""


def test_two_processes_share_an_archive_and_its_evaluations(tmp_path: Path) -> None:
    """Together they make about as many as one was to make, and each ends with all of them."""
    path, script = tmp_path / "archive.sqlite", SHARING.format(paths=[str(HERE), str(HERE.parent)])
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    numbers = [int(process.communicate(timeout=120)[0]) for process in both]
    found = archived(path)
    seeds = Counter(metrics["seed"] for metrics in found.values())
    assert set(seeds) == {1.0, 2.0} and min(seeds.values()) > 20, "one of them did nothing"
    assert 200 <= len(found) <= 220, "what was under way at the end is all that may be too much"
    assert all(200 <= number <= len(found) for number in numbers)


# ------------------------------------------------------------ Ray


class Suicidal:
    """Dies at some subnets, each once."""

    def __init__(self, folder: Path, subnets: list[Subnet]) -> None:
        self.folder, self.subnets = folder, subnets

    def __call__(self, subnet: Subnet) -> dict[str, float]:
        mark = self.folder / f"died-{self.subnets.index(subnet)}" if subnet in self.subnets else None
        if mark is not None and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return accuracy(subnet) | {"process": os.getpid()}


@NO_RAY
@pytest.mark.slow
@pytest.mark.usefixtures("on_ray")
def test_a_killed_worker_on_ray_costs_nothing_but_time(tmp_path: Path) -> None:
    with Archive(":memory:") as archive:
        run(alone := toy_search(), accuracy, archive)
    doomed = list(alone.results)[1:3]
    with ray_workers(Suicidal(tmp_path, doomed), 2) as (held, crew):
        for name, how in (("freely", {"crew": crew}), ("in batches", {"map": crew})):
            results = list[Result]()
            with Archive(tmp_path / name) as archive:
                run(toy_search(), held, archive, results.append, **how)  # type: ignore[arg-type]
            marks = list(tmp_path.glob("died-*"))
            assert len(marks) == 2, "nobody was killed"
            assert len({result.subnet for result in results}) == len(results) == 12 == len(archived(tmp_path / name))
            for mark in marks:
                mark.unlink()
    assert [result.subnet for result in results] == list(alone.results), "in batches it is the search of one process"


@NO_RAY
@pytest.mark.usefixtures("on_ray")
def test_what_ray_refuses(tmp_path: Path) -> None:
    wrong = Subnet({"stem": 8})
    with (
        ray_workers(Failing(tmp_path / "archive.sqlite", {wrong: ("error", 0)}), 1) as (held, crew),
        pytest.raises(ValueError, match=r"^no such width$"),
    ):
        list(crew(held, [wrong]))
    with pytest.raises(ValueError, match=r"room for 2 workers of 1 threads, asked were 3"):
        ray_workers(accuracy, 3).__enter__()
    with pytest.raises(ValueError, match=r"cannot be sent to workers"):
        ray_workers(lambda subnet: {}, 1).__enter__()


def test_an_address_without_a_cluster_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"no Ray cluster at RAY_ADDRESS=127\.0\.0\.1:1"):
        check("127.0.0.1:1")


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'ofa-lab\[ray\]'"), ray_workers(accuracy, 1):
        pass
