"""Evaluations of the toy space that take time, fail or die; worker processes import this file, so it imports little."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from toy_space import accuracy, toy_costs, toy_space

from ofa import Subnet
from ofa.search import Archive, Evolution, Search
from ofa.search.problem import Problem


def toy_search(evaluations: int = 12) -> Search:
    settings = Evolution(population=6, evaluations=evaluations)
    return settings.start(Problem.parse(toy_space(), ["accuracy", "macs"], toy_costs), 3)


@dataclass(frozen=True)
class Telling:
    """The toy's accuracy after a while, and facts about the process."""

    seconds: float

    def __call__(self, subnet: Subnet) -> dict[str, float]:
        time.sleep(self.seconds)
        gpu = float(os.environ.get("CUDA_VISIBLE_DEVICES") or -1)
        return {**accuracy(subnet), "process": os.getpid(), "threads": torch.get_num_threads(), "gpu": gpu}


class Refusal(Exception):
    """Does not survive a pickle: it takes two arguments."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")


@dataclass(frozen=True)
class Failing:
    """The toy's accuracy, but for subnets that fail once, in a manner, when the archive holds so many rows."""

    archive: Path
    failures: dict[Subnet, tuple[str, int]]

    def __call__(self, subnet: Subnet) -> dict[str, float]:
        manner, rows = self.failures.get(subnet, ("", 0))
        mark = self.archive.with_name(f"failed-{manner}")
        if not manner or mark.exists():
            return accuracy(subnet)
        mark.touch()
        self.wait(rows)
        mark.touch()  # the time of the failure
        if manner == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("no such width") if manner == "error" else Refusal(7, "not today")

    def wait(self, rows: int) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with Archive(self.archive) as archive:
                if len(archive) >= rows:
                    return
            time.sleep(0.1)
        raise TimeoutError(f"the archive never held {rows} rows")
