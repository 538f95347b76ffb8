"""Latency in torch itself, on any of its devices."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ofa.search.latency.device import Latency, LatencyDevice


@dataclass(frozen=True)
class TorchEager(LatencyDevice):
    """The network as torch runs it, operator by operator, on `device`; on a GPU the work is waited for.

    It runs for about `seconds`, after a warm-up; `threads` are those of a CPU.

    >>> TorchEager(seconds=0.01).measure(nn.Linear(4, 2), torch.zeros(1, 4)).median_ms > 0
    True

    Raises:
        ValueError: fewer than 1 thread, no time, or (when measuring) no such device here.
    """

    device: str = "cpu"
    threads: int = 1
    seconds: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads < 1 or self.seconds <= 0:
            raise ValueError(f"at least 1 thread and seconds above 0, got {self.threads} and {self.seconds}")

    def measure(self, network: nn.Module, example: Tensor) -> Latency:
        from torch.utils.benchmark import Timer  # looks for a compiler and may say so

        try:
            net, inputs = deepcopy(network).to(self.device).eval(), example.to(self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"latency.device={self.device} cannot be used here: {reason}") from None
        timer = Timer("net(inputs)", globals={"net": net, "inputs": inputs}, num_threads=self.threads)
        with torch.inference_mode():
            timer.timeit(3)  # warms up
            found = timer.blocked_autorange(min_run_time=self.seconds)
        runs = found.number_per_run * len(found.times)
        return Latency(1e3 * found.median, 1e3 * found.iqr, runs, self.threads)
