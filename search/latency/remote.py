"""Latency on a phone or a board: a command takes an ONNX file there and prints milliseconds."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ofa.search.latency.artefact import Artefact
from ofa.search.latency.device import LatencyDevice, Stopwatch

NUMBER = r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Remote(LatencyDevice):
    """A `command` with {onnx} and {runs} in it, and how its output tells the milliseconds of one run.

    Every number that `pattern` finds is the time of a run, in `unit_ms` milliseconds; a single one may be their mean.
    `name` tells one device from another. `copy` is run once a network before, such as
    `adb push {onnx} /data/local/tmp/model.onnx`. A command that takes more than `timeout_s` seconds has failed.

    >>> clock = Remote(command="echo {runs} runs of {onnx}: latency 3.5 ms", pattern=r"latency ([0-9.]+) ms")
    >>> clock.load(Artefact(nn.Linear(4, 2), torch.zeros(1, 4)))(10)
    [3.5]

    Raises:
        ValueError: a command without {onnx} where nothing is copied, a pattern without one group.
    """

    loads: ClassVar[bool] = False

    command: str
    copy: str | None = None
    pattern: str = rf"({NUMBER}) *ms"
    unit_ms: float = 1.0
    timeout_s: float = 120.0
    name: str = "remote"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.command.strip() or "{onnx}" not in self.command + (self.copy or ""):
            raise ValueError(
                f"latency.command, or latency.copy before it, takes the file as {{onnx}}, got {self.command!r}"
            )
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"latency.pattern={self.pattern!r} is no pattern: {error}") from None
        if groups != 1:
            raise ValueError(f"latency.pattern has one group, the milliseconds; {self.pattern!r} has {groups}")

    @property
    def runtime(self) -> str:
        return self.name

    def load(self, artefact: Artefact) -> Stopwatch:
        path = str(artefact.onnx)
        if self.copy:
            self._output(self.copy, path, 0)

        def times(runs: int) -> Sequence[float]:
            _ = artefact  # its file stays while this is timed
            return self._read(self._output(self.command, path, runs))

        return times

    def _output(self, template: str, onnx: str, runs: int) -> str:
        words = [word.replace("{onnx}", onnx).replace("{runs}", str(runs)) for word in shlex.split(template)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=self.timeout_s, check=False)
        except subprocess.TimeoutExpired:
            raise ValueError(f"{words[0]} on {self.name} took more than latency.timeout_s={self.timeout_s:g}") from None
        except OSError as error:
            raise ValueError(f"{words[0]} cannot be run: {error.strerror}") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing was said"]
            raise ValueError(f"{words[0]} on {self.name} failed with status {done.returncode}: {said[0]}")
        return done.stdout

    def _read(self, output: str) -> list[float]:
        found = re.findall(self.pattern, output)
        try:
            times = [self.unit_ms * float(number) for number in found]
        except ValueError:
            times = []
        if not times or not all(math.isfinite(t) and t > 0 for t in times):
            wanted = f"positive milliseconds that latency.pattern={self.pattern!r} finds"
            raise ValueError(f"{self.name} printed no {wanted}: {output[:120]!r}")
        return times
