"""Searches that are killed at any moment, and that share an archive: nothing is lost, and the end is the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from toy_evaluations import toy_search
from toy_space import accuracy

from ofa import Subnet
from ofa.search import Archive, run
from ofa.search.evaluation import Result

HERE, EVALUATIONS = Path(__file__).parent, 120


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Processes are forked from one that has imported this file, which takes milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]))  # it does not hear of sys.path
        forkserver.ensure_running()
    return context


def life(path: Path, noise: float, begun: Any = None) -> None:
    """A search that writes down what it evaluates, then what it was told, and in the end its front."""
    log = os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(what: str, subnet: Subnet) -> None:
        os.write(log, f"{what}\t{json.dumps(dict(subnet))}\n".encode())

    def evaluate(subnet: Subnet) -> dict[str, float]:
        time.sleep(0.002)
        found = accuracy(subnet)["accuracy"] + noise * (os.getpid() % 97)
        note("evaluated", subnet)
        return {"accuracy": found}

    def told(result: Result) -> None:
        note("told", result.subnet)

    if begun is not None:
        begun.wait()
    with Archive(path) as archive:
        front = run(toy_search(EVALUATIONS), evaluate, archive, told)
    path.with_name(f"front-{os.getpid()}.json").write_text(json.dumps(front.to_json()))


def logged(path: Path, what: str) -> list[Subnet]:
    log = path.with_suffix(".log")
    lines = [line.split("\t") for line in log.read_text().splitlines()] if log.exists() else []
    return [Subnet(json.loads(subnet)) for word, subnet in lines if word == what]


def archived(path: Path) -> dict[Subnet, float]:
    with Archive(path) as archive:
        return {subnet: metrics["accuracy"] for subnet, metrics in archive.items()}


def front_of(process: BaseProcess, folder: Path) -> Any:
    process.join(60)
    assert process.exitcode == 0
    return json.loads((folder / f"front-{process.pid}.json").read_text())


@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_nothing(kills: int, server: ForkServerContext, tmp_path: Path) -> None:
    rng, killed, path, lives = random.Random(0), 0, tmp_path / "archive-0.sqlite", 0
    whole = server.Process(target=life, args=(tmp_path / "whole.sqlite", 0.0))
    whole.start()
    undisturbed = front_of(whole, tmp_path)
    between = 0  # kills while the archive was neither empty nor full
    while True:
        process = server.Process(target=life, args=(path, 0.0))
        process.start()
        lives += 1
        if killed < kills and kill(process, path, rng):
            killed += 1
            known = archived(path) if path.exists() else {}
            assert set(logged(path, "told")) <= set(known), "told and lost"
            between += 0 < len(known) < EVALUATIONS
            continue
        assert front_of(process, tmp_path) == undisturbed
        assert archived(path) == archived(tmp_path / "whole.sqlite") and len(archived(path)) == EVALUATIONS
        assert len(logged(path, "evaluated")) < EVALUATIONS + lives, "a kill costs more than what was under way"
        if killed == kills:
            break
        path, lives = tmp_path / f"archive-{killed}.sqlite", 0
    assert between > kills / 2


def kill(process: BaseProcess, path: Path, rng: random.Random) -> bool:
    """Kill a process when it has evaluated some subnets, or a moment later; False if it was faster."""
    log = path.with_suffix(".log")

    def evaluated() -> int:
        return log.read_bytes().count(b"evaluated") if log.exists() else 0

    wanted = evaluated() + rng.randrange(12)
    while process.is_alive() and evaluated() < wanted:
        time.sleep(0.005)
    process.join(rng.uniform(0.0, 0.01))
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
    return process.exitcode == -signal.SIGKILL


def test_two_searches_of_one_archive_end_with_one_front(server: ForkServerContext, tmp_path: Path) -> None:
    """Their evaluations differ, and what the faster one found counts for both."""
    path, begun = tmp_path / "archive.sqlite", server.Event()
    both = [server.Process(target=life, args=(path, 0.01, begun)) for _ in range(2)]
    for process in both:
        process.start()
    begun.set()
    first, second = (front_of(process, tmp_path) for process in both)
    assert first == second
    assert len(archived(path)) == EVALUATIONS
    assert set(Counter(logged(path, "told")).values()) == {2}
