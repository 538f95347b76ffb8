"""A latency device: a clock beside the network."""

import time
from dataclasses import dataclass

import torch

from ofa.search.latency import Artefact, LatencyDevice, Stopwatch


@dataclass(frozen=True)
class Clock(LatencyDevice):
    warm_ups: int = 3

    def load(self, artefact: Artefact) -> Stopwatch:
        def run() -> float:
            start = time.perf_counter()
            with torch.inference_mode():
                artefact.network(artefact.example)
            return 1e3 * (time.perf_counter() - start)

        _ = [run() for _ in range(self.warm_ups)]
        return lambda runs: [run() for _ in range(runs)]
