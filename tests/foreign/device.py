"""A latency device: a clock beside the network."""

import statistics
import time
from dataclasses import dataclass

import torch

from ofa.search.latency import Latency, LatencyDevice


@dataclass(frozen=True)
class Clock(LatencyDevice):
    runs: int = 9

    def measure(self, network: torch.nn.Module, example: torch.Tensor) -> Latency:
        times = []
        with torch.inference_mode():
            for _ in range(self.runs):
                start = time.perf_counter()
                network(example)
                times.append(1e3 * (time.perf_counter() - start))
        low, median, high = statistics.quantiles(times, n=4)
        return Latency(median, high - low, self.runs, torch.get_num_threads())
