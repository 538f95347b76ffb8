"""Latency devices: where a network is loaded and run, and what tells the time there."""

from __future__ import annotations

import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

from ofa.costs import FEATURES_VERSION
from ofa.search.latency.artefact import Artefact

Stopwatch = Callable[[int], Sequence[float]]
"""Runs a loaded network so many times, and gives the milliseconds of each run, or one mean of them."""

Clock = Literal["auto", "cpu", "wall"]
PROTOCOL = ("samples", "error_percent", "precision", "seconds", "file")  # settings of how, not where


@dataclass(frozen=True)
class Latency:
    """Time of one run in milliseconds: the median, its deviation (MAD), and a 95 % interval of the median.

    >>> Latency(median_ms=1.5, mad_ms=0.02, low_ms=1.45, high_ms=1.55, runs=200).share
    0.03333333333333336
    """

    median_ms: float
    mad_ms: float
    low_ms: float
    high_ms: float
    runs: int

    @property
    def share(self) -> float:
        """Half the interval as a share of the median."""
        return (self.high_ms - self.low_ms) / 2 / self.median_ms

    def __str__(self) -> str:
        return f"{self.median_ms:.4g} ms ± {100 * self.share:.1f} %"


@dataclass(frozen=True)
class LatencyDevice(ABC):
    """Where latency is measured: one class, named in `conf/latency/NAME.yaml`, that loads a network and runs it.

    Networks are measured to fit the model that a search goes by, until it errs by `error_percent` at most on networks
    left out, or `samples` are. Each is measured until half its interval is `precision` of it, for `seconds` at most.
    `file` keeps the measurements for other runs, too: a path, `cache` for one below ~/.cache/ofa-lab/devices, nothing
    for one in the run folder. `loads` says whether a network is loaded anew for every few runs: where memory lies is
    worth 2 % of a small network's time.

    docs/extending.md shows one of one's own.

    >>> class Counted(LatencyDevice):
    ...     def load(self, artefact):
    ...         weights = sum(p.numel() for p in artefact.network.parameters())
    ...         return lambda runs: [1e-3 * weights] * runs
    >>> Counted().load(Artefact(nn.Linear(9, 100), torch.zeros(1, 9)))(2)
    [1.0, 1.0]

    Raises:
        ValueError: fewer than 6 samples, or a precision or seconds that are not positive.
    """

    loads: ClassVar[bool] = True

    samples: int = field(default=20, kw_only=True)
    error_percent: float = field(default=2.0, kw_only=True)
    precision: float = field(default=0.01, kw_only=True)
    seconds: float = field(default=0.4, kw_only=True)
    file: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.samples < 6:
            raise ValueError(f"at least 6 samples fit a model, got {self.samples}")
        if self.precision <= 0 or self.seconds <= 0:
            raise ValueError(f"precision and seconds are above 0, got {self.precision} and {self.seconds}")

    @abstractmethod
    def load(self, artefact: Artefact) -> Stopwatch:
        """Make a network ready to run on its example input; it is not changed.

        Raises:
            ValueError: the device is not here, or cannot run it.
        """

    @property
    def runtime(self) -> str:
        """Name and version of what runs the networks."""
        return "unknown"

    @property
    def fingerprint(self) -> dict[str, str]:
        """What a measurement holds for: class and settings, processor, runtime and version, governor, features."""
        own = {f.name: str(getattr(self, f.name)) for f in fields(self) if f.name not in PROTOCOL}
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"device": kind, **own, "runtime": self.runtime, "features": str(FEATURES_VERSION), **machine()}


@dataclass(frozen=True)
class ThreadedDevice(LatencyDevice):
    """A device that runs a network with so many `threads` of this machine's processor.

    `clock` is what times a run: the thread's CPU time (cpu), the clock on the wall (wall), or (auto) the first with one
    thread and the second with more.

    Raises:
        ValueError: fewer than 1 thread, no such clock, or the CPU time of one thread among several.
    """

    threads: int = 1
    clock: Clock = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads < 1:
            raise ValueError(f"at least 1 thread, got {self.threads}")
        if self.clock not in ("auto", "cpu", "wall"):
            raise ValueError(f"clock is auto, cpu or wall, got {self.clock!r}")
        if self.clock == "cpu" and self.threads > 1:
            raise ValueError(
                f"clock=cpu is the time of one thread, got threads={self.threads}; clock=wall times several"
            )

    def stopwatch(self, run: Callable[[], Any]) -> Stopwatch:
        """Times a function by the clock of this device."""
        return stopwatch(run, self.clock, self.threads)


def stopwatch(run: Callable[[], Any], clock: Clock, threads: int) -> Stopwatch:
    """Times a function run by run: by the CPU time of this thread, or by the clock on the wall.

    `auto` is CPU time with one thread, which others' work on the machine disturbs least; a runtime that works in
    threads of its own must say `wall`.

    >>> len(stopwatch(lambda: sum(range(100)), "auto", 1)(5))
    5
    """
    tick = time.thread_time_ns if clock == "cpu" or (clock == "auto" and threads == 1) else time.perf_counter_ns

    def times(runs: int) -> list[float]:
        found = []
        for _ in range(runs):
            started = tick()
            run()
            found.append(1e-6 * (tick() - started))
        return found

    return times


def version_of(package: str) -> str:
    """The version of an installed package, or that it is missing.

    >>> version_of("no-such-package")
    'missing'
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


@cache
def machine() -> Mapping[str, str]:
    """The processor of this machine, and how its frequency is governed."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "processor": f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine(),
        "governor": governor.read_text().strip() if governor.exists() else "unknown",
    }
