"""Latency in torch itself: operator by operator on the CPU, or on a GPU as a graph of its kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from ofa.backbone import as_call
from ofa.search.latency.artefact import Artefact
from ofa.search.latency.device import LatencyDevice, Stopwatch, ThreadedDevice


@dataclass(frozen=True)
class TorchCpu(ThreadedDevice):
    """The network as torch runs it on the CPU, operator by operator, with so many `threads`.

    >>> min(TorchCpu().load(Artefact(nn.Linear(4, 2), torch.zeros(1, 4)))(3)) >= 0
    True

    Raises:
        ValueError: fewer than 1 thread, or no such clock.
    """

    @property
    def runtime(self) -> str:
        return f"torch {torch.__version__}"

    def load(self, artefact: Artefact) -> Stopwatch:
        watch = self.stopwatch(placed(artefact, "cpu"))

        def times(runs: int) -> Sequence[float]:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            try:
                return watch(runs)
            finally:
                torch.set_num_threads(before)

        times(2)
        return times


@dataclass(frozen=True)
class TorchCuda(LatencyDevice):
    """The network on a GPU, timed by the GPU's own events; with `graph` its kernels are launched as one CUDA graph.

    `index` is which GPU it is.

    >>> TorchCuda(index=1, graph=False).index
    1

    Raises (when loading):
        ValueError: no such GPU here, or a network that no graph can hold.
    """

    index: int = 0
    graph: bool = True

    @property
    def runtime(self) -> str:
        name = torch.cuda.get_device_name(self.index) if torch.cuda.is_available() else "no GPU"
        return f"torch {torch.__version__} on {name}"

    def load(self, artefact: Artefact) -> Stopwatch:
        run = placed(artefact, f"cuda:{self.index}")
        with torch.cuda.device(self.index):
            run = self._captured(run) if self.graph else run

        def times(runs: int) -> list[float]:
            with torch.cuda.device(self.index):
                events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
                events[0].record()
                for event in events[1:]:
                    run()
                    event.record()
                torch.cuda.synchronize()
                return [a.elapsed_time(b) for a, b in pairwise(events)]

        times(3)
        return times

    def _captured(self, run: Callable[[], Any]) -> Callable[[], Any]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                run()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            hint = "say latency.graph=false"
            raise ValueError(f"the network cannot be captured as a CUDA graph ({reason}); {hint}") from None
        return graph.replay


def placed(artefact: Artefact, device: str) -> Callable[[], Any]:
    """A copy of the network on a device, in evaluation mode, called on its example inputs.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        network = deepcopy(artefact.network).to(device).eval()
        args, kwargs = as_call(tree_map_only(torch.Tensor, lambda t: t.to(device), artefact.example))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device} cannot be used here: {str(error).splitlines()[0]}") from None

    def run() -> Any:
        with torch.inference_mode():
            return network(*args, **kwargs)

    return run
