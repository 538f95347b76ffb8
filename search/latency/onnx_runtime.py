"""Latency in onnxruntime on the CPU."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ofa.export import export_onnx
from ofa.search.latency.device import Latency, LatencyDevice

if TYPE_CHECKING:
    from ofa.onnx_files import OnnxSupernet  # imports onnx

Inputs = Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike] | npt.NDArray[Any]

_MOST_RUNS = 10_000


@dataclass(frozen=True)
class OnnxRuntime(LatencyDevice):
    """The network as an ONNX file in onnxruntime on this CPU, with so many `threads`.

    >>> OnnxRuntime(threads=1).measure(nn.Linear(4, 2), torch.zeros(1, 4)).median_ms > 0
    True

    Raises:
        ValueError: fewer than 1 thread.
    """

    threads: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads < 1:
            raise ValueError(f"at least 1 thread, got {self.threads}")

    def measure(self, network: nn.Module, example: Tensor) -> Latency:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            self.export(network, example, path)
            return measure_onnx(path, example.cpu().numpy(), self.threads)

    def measure_written(self, network: nn.Module, example: Tensor, files: Mapping[str, Path]) -> Latency:
        if "onnx" not in files:
            return self.measure(network, example)
        return measure_onnx(files["onnx"], example.cpu().numpy(), self.threads)

    def export(self, network: nn.Module, example: Tensor, path: Path) -> None:
        """The file that is timed."""
        export_onnx(network, example, path)

    def sliced(self, onnx: OnnxSupernet) -> LatencyDevice:
        return Sliced(**vars(self), onnx=onnx)


@dataclass(frozen=True)
class Sliced(OnnxRuntime):
    """The same with files that are sliced from the graph of a supernet."""

    onnx: OnnxSupernet = field(kw_only=True)

    def export(self, network: nn.Module, example: Tensor, path: Path) -> None:
        self.onnx.export(network, example, path)


def measure_onnx(
    path: str | Path,
    inputs: Inputs,
    threads: int = 1,
    warmup: int = 10,
    repeats: int = 50,
    seconds: float = 0.2,
) -> Latency:
    """Time an ONNX file on the CPU: at least `repeats` runs, and more until `seconds` have passed.

    `inputs` are arrays by name or in order, or the one array.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_onnx(nn.Linear(4, 2), torch.zeros(1, 4), Path(folder) / "model.onnx")
    ...     found = measure_onnx(Path(folder) / "model.onnx", np.zeros((1, 4), np.float32), seconds=0.01)
    >>> found.runs >= 50, found.median_ms > 0
    (True, True)

    Raises:
        ValueError: not a file that onnxruntime runs on these inputs, or settings below 1.
    """
    if min(threads, repeats) < 1 or warmup < 0:
        raise ValueError(f"threads and repeats are 1 or more, got {threads} and {repeats}; warmup {warmup}")
    session = _session(Path(path), threads)
    feed = _feed(inputs, [node.name for node in session.get_inputs()])
    try:
        for _ in range(warmup + 1):
            session.run(None, feed)
    except Exception as error:  # onnxruntime's errors share no other base
        raise ValueError(f"{path} does not run on {_shapes(feed)}: {error}") from None
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < repeats or (time.perf_counter() < end and len(times) < _MOST_RUNS):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(1e3 * (time.perf_counter() - start))
    low, median, high = np.percentile(times, [25, 50, 75]).tolist()
    return Latency(median, high - low, len(times), threads)


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no other base
        raise ValueError(f"onnxruntime cannot load {path}: {error}") from None


def _feed(inputs: Inputs, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    if isinstance(inputs, np.ndarray):
        inputs = [inputs]
    feed = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=False))
    if set(feed) != set(names) or len(inputs) != len(names):
        given = list(inputs) if isinstance(inputs, Mapping) else f"{len(inputs)} arrays"
        raise ValueError(f"the network's inputs are {list(names)}, got {given}")
    return {name: np.asarray(value) for name, value in feed.items()}


def _shapes(feed: Mapping[str, npt.NDArray[Any]]) -> str:
    return ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in feed.items())
