"""The bench: networks timed in turns with an anchor, so that what slows the machine slows both."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise

import numpy as np
from scipy.stats import t as student

from ofa.search.latency.artefact import Artefact
from ofa.search.latency.device import Latency, LatencyDevice, Stopwatch

CHUNK_MS = 8.0  # of one network, before it is the other's turn
CHUNKS = 2  # of a load
LEAST, MOST = 4, 64  # loads of a network
ANCHORS = 4  # loads of the anchor that are taken in turn
JUMPS = 8  # impossible times in a row after which a clock is given up


@dataclass(frozen=True)
class Reading:
    """How many times the anchor's time a network takes: median over loads, deviation (MAD), and a 95 % interval.

    >>> str(Reading(ratio=0.5, mad=0.01, low=0.49, high=0.51, runs=30).times(anchor_ms=4.0))
    '2 ms ± 2.0 %'
    """

    ratio: float
    mad: float
    low: float
    high: float
    runs: int

    def times(self, anchor_ms: float) -> Latency:
        """In milliseconds."""
        middle, mad, low, high = (anchor_ms * value for value in (self.ratio, self.mad, self.low, self.high))
        return Latency(middle, mad, low, high, self.runs)


class Bench:
    """Times networks on a device as multiples of an anchor's time, and the anchor at the machine's quietest.

    All networks take turns, over and over. In its turn a network is loaded anew (where memory lies is worth 2 % of a
    small one's time) and runs in short chunks, a chunk of the anchor before and after each; the ratio to these two is
    what counts. A reading is the median over the turns, which lie far enough apart that no disturbance lasts through
    half of them. They go on until half the interval is within the device's `precision`, or its `seconds` are over.

    >>> from ofa.search.latency import TorchCpu
    >>> small, large = (Artefact(nn.Linear(n, n), torch.zeros(1, n)) for n in (64, 1024))
    >>> bench = Bench(TorchCpu(seconds=0.05), anchor=large)
    >>> [reading] = bench.read([small])
    >>> 0 < reading.ratio < 1
    True
    """

    def __init__(self, device: LatencyDevice, anchor: Artefact) -> None:
        self.device, self.anchor = device, anchor
        self._anchors = self._loaded()
        self._seen: list[float] = []

    def _loaded(self) -> Iterator[tuple[Stopwatch, int]]:
        """Loads of the anchor in turn, each with the number of runs in a chunk."""
        watches = [self.device.load(self.anchor) for _ in range(ANCHORS if self.device.loads else 1)]
        return cycle([(watch, runs_of(watch)) for watch in watches])

    @property
    def anchor_ms(self) -> float:
        """The anchor's time at the quietest that was seen: few chunks of it were quicker."""
        while len(self._seen) < 3 * CHUNKS:
            self._seen.append(chunk(*next(self._anchors)))
        return float(np.quantile(self._seen, 0.05))

    def read(self, artefacts: Sequence[Artefact]) -> list[Reading]:
        """Time networks.

        Raises:
            ValueError: the device cannot run one, or its clock jumps.
        """
        end = time.perf_counter() + self.device.seconds * len(artefacts)
        ratios: list[list[float]] = [[] for _ in artefacts]
        runs = [0] * len(artefacts)
        for turn in range(MOST):
            waiting = [i for i, found in enumerate(ratios) if not self._narrow(found)]
            if not waiting or (turn >= LEAST and time.perf_counter() > end):
                break
            for i in waiting:
                ratio, more = self._turn(artefacts[i])
                ratios[i].append(ratio)
                runs[i] += more
        return [reading(found, number) for found, number in zip(ratios, runs, strict=True)]

    def _narrow(self, ratios: Sequence[float]) -> bool:
        return len(ratios) >= LEAST and half(ratios) <= self.device.precision * float(np.median(ratios))

    def _turn(self, artefact: Artefact) -> tuple[float, int]:
        """The ratio of one load, and how many runs it is from."""
        watch = self.device.load(artefact)
        (anchor, anchor_runs), runs = next(self._anchors), runs_of(watch)
        between, own = [chunk(anchor, anchor_runs)], []
        for _ in range(CHUNKS):
            own.append(chunk(watch, runs))
            between.append(chunk(anchor, anchor_runs))
        self._seen += between
        ratios = [2 * mine / (before + after) for mine, (before, after) in zip(own, pairwise(between), strict=True)]
        return float(np.median(ratios)), CHUNKS * runs


def chunk(watch: Stopwatch, runs: int) -> float:
    """Milliseconds of one run: the lower quartile of several, which interruptions move least.

    Raises:
        ValueError: the clock goes backwards or stands still, time after time.
    """
    for _ in range(JUMPS):
        times = watch(runs)
        sound = [ms for ms in times if 0 < ms < math.inf]
        if 2 * len(sound) > len(times):
            return float(np.quantile(sound, 0.25))
    raise ValueError(f"the clock of the device jumps: most of {runs} runs took no time or less, {JUMPS} times in a row")


def runs_of(watch: Stopwatch) -> int:
    """How many runs a chunk has."""
    chunk(watch, 1)  # the first takes longer
    return max(1, min(10_000, round(CHUNK_MS / chunk(watch, 2))))


def half(values: Sequence[float]) -> float:
    """Half the 95 % interval of their median, from their deviation: an infinite one of a single value."""
    if len(values) < 2:
        return math.inf
    spread = float(np.std(values, ddof=1))
    return float(student.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))


def reading(ratios: Sequence[float], runs: int) -> Reading:
    """The median of several loads, and what is known of it.

    >>> reading([0.5, 0.51, 0.49], runs=30).ratio
    0.5
    """
    middle, wide = float(np.median(ratios)), half(ratios)
    mad = float(np.median(np.abs(np.array(ratios) - middle)))
    return Reading(middle, mad, max(middle - wide, 0.0), middle + wide, runs)
