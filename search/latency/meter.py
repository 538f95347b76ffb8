"""The meter: measures what the device's file does not hold yet, and how well a second time agrees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ofa.search.latency.artefact import Artefact
from ofa.search.latency.bench import Bench
from ofa.search.latency.device import LatencyDevice
from ofa.search.latency.device_file import DeviceFile, Measurement

AGAIN = 10  # every tenth network is measured a second time
NOISY_PERCENT = 10.0  # beyond which figures are shown, and no statement is made of them


class Meter:
    """Measures networks on a device, beside one anchor, into the device's file.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from ofa.search.latency import TorchCpu
    >>> device, nets = TorchCpu(seconds=0.02), [nn.Linear(n, n) for n in (64, 1024)]
    >>> small, large = (Artefact(net, torch.zeros(1, net.in_features)) for net in nets)
    >>> with tempfile.TemporaryDirectory() as folder, DeviceFile(Path(folder) / "cpu.sqlite", device) as file:
    ...     found = Meter(device, file, anchor=large).measure([small], ["small"])
    ...     found[0].name, found[0].latency.median_ms > 0, small.digest in file
    ('small', True, True)
    """

    def __init__(self, device: LatencyDevice, file: DeviceFile, anchor: Artefact) -> None:
        self.device, self.file, self.anchor = device, file, anchor

    @cached_property
    def bench(self) -> Bench:
        """Loaded when something has to be timed."""
        return Bench(self.device, self.anchor)

    def measure(self, artefacts: Sequence[Artefact], names: Sequence[str], afresh: bool = False) -> list[Measurement]:
        """The latencies of networks: those in the file, unless `afresh`, the others timed together.

        Raises:
            ValueError: the device is not here or cannot run one, its clock jumps, or the file cannot be written.
        """
        known = self.file.measurements
        missing = [i for i, one in enumerate(artefacts) if afresh or one.digest not in known]
        if missing:
            readings = self.bench.read([artefacts[i] for i in missing])
            quiet = self.bench.anchor_ms
            for i, reading in zip(missing, readings, strict=True):
                one = artefacts[i]
                self.file.add(one.digest, names[i], reading, one.features, self.anchor.digest, quiet)
            known = self.file.measurements
        return [known[one.digest] for one in artefacts]

    def noise_percent(self, artefacts: Sequence[Artefact]) -> float:
        """How far a second measurement of every tenth network, of 2 at least, is from the first, in per cent."""
        again = list(artefacts)[:: max(1, min(AGAIN, len(artefacts) // 2))]
        if not again:
            return math.nan
        first = [one.latency.median_ms for one in self.measure(again, ["again"] * len(again))]
        quiet = self.bench.anchor_ms
        second = [reading.times(quiet).median_ms for reading in self.bench.read(again)]
        return float(100 * np.abs(np.array(second) / np.array(first) - 1).mean())
