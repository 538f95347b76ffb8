"""Latency devices: what times a network for one sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from ofa.onnx_files import OnnxSupernet  # imports onnx


@dataclass(frozen=True)
class Latency:
    """Time of one run in milliseconds: the median, and the range that holds the middle half.

    >>> Latency(median_ms=1.5, iqr_ms=0.25, runs=50, threads=1).median_ms
    1.5
    """

    median_ms: float
    iqr_ms: float
    runs: int
    threads: int


@dataclass(frozen=True)
class LatencyDevice(ABC):
    """Where latency is measured: one class, named in `conf/latency/NAME.yaml`.

    `samples` random subnets are measured to fit the predictor that a search goes by.
    docs/extending.md shows one of one's own.

    >>> class Counted(LatencyDevice):
    ...     def measure(self, network, example):
    ...         return Latency(1e-3 * sum(p.numel() for p in network.parameters()), 0.0, 1, 1)
    >>> Counted().measure(nn.Linear(9, 100), torch.zeros(1, 9)).median_ms
    1.0

    Raises:
        ValueError: fewer than 6 samples.
    """

    samples: int = field(default=20, kw_only=True)

    def __post_init__(self) -> None:
        if self.samples < 6:
            raise ValueError(f"at least 6 samples fit a predictor, got {self.samples}")

    def sliced(self, onnx: OnnxSupernet) -> LatencyDevice:
        """The same for subnets of a supernet whose ONNX files come from one graph; itself where that is no help."""
        return self

    def measure_written(self, network: nn.Module, example: Tensor, files: Mapping[str, Path]) -> Latency:
        """Time a network of which there are files already, by the names of their exporters."""
        return self.measure(network, example)

    @abstractmethod
    def measure(self, network: nn.Module, example: Tensor) -> Latency:
        """Time a plain network, in evaluation mode, on an example input of batch 1; neither is changed.

        Raises:
            ValueError: the device cannot run it.
        """
