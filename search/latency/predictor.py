"""Latency: measured in onnxruntime, and predicted from costs by non-negative least squares."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from ofa.search.budget import Floats
from ofa.search.problem import Costs
from ofa.space import Genome

Inputs = Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike] | npt.NDArray[Any]
Features = Mapping[str, npt.ArrayLike]

_MOST_RUNS = 10_000


@dataclass(frozen=True)
class Latency:
    """Time of one run in milliseconds: the median, and the range that holds the middle half."""

    median_ms: float
    iqr_ms: float
    runs: int
    threads: int


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


@dataclass(frozen=True)
class HeldOut:
    """Mean absolute error on networks left out of the fit, in per cent, beside a line on MACs alone."""

    percent: float
    macs_only_percent: float
    networks: int

    def __str__(self) -> str:
        return (
            f"held-out error on {self.networks} networks: {self.percent:.1f} % "
            f"(MACs alone: {self.macs_only_percent:.1f} %)"
        )


@dataclass(frozen=True)
class LatencyPredictor:
    """Milliseconds per unit of each feature, none negative, plus a constant."""

    coefficients: Mapping[str, float]
    intercept_ms: float
    held_out: HeldOut | None = None

    @classmethod
    def fit(cls, features: Features, latency_ms: npt.ArrayLike, folds: int = 5) -> LatencyPredictor:
        """Fit named features, each of shape (networks,), to measured latencies, by their relative error.

        A feature `macs` only serves the line to compare with when there are others; without it that line is
        on the sum of all features called `macs_…`. Fewer than three networks have no held-out error.

        Raises:
            ValueError: no features, unequal lengths, or a latency that is not positive.
        """
        names, columns, target = _table(features, latency_ms)
        parts = [name for name in names if name != "macs"] or names
        chosen = columns[:, [names.index(name) for name in parts]]
        weights = _solve(chosen, target)
        held_out = None
        if len(target) > 2:
            macs = _macs(names, columns)
            errors = [_held_out(table, target, folds) for table in (chosen, macs)]
            held_out = HeldOut(errors[0], errors[1], len(target))
        return cls(dict(zip(parts, weights[1:].tolist(), strict=True)), float(weights[0]), held_out)

    def predict(self, features: Features) -> Floats:
        """Latency in milliseconds, shape (networks,); features that were not fitted are ignored.

        Raises:
            ValueError: a fitted feature is missing.
        """
        missing = [name for name in self.coefficients if name not in features]
        if missing:
            raise ValueError(f"features {missing} were fitted and are missing among {sorted(features)}")
        terms = [slope * np.asarray(features[name], dtype=np.float64) for name, slope in self.coefficients.items()]
        return np.asarray(self.intercept_ms + np.sum(terms, axis=0))

    def attach(self, costs: Costs) -> Costs:
        """Costs that give the predicted `latency_ms` too; `costs` must give the fitted features."""

        def with_latency(genomes: Genome) -> Mapping[str, Floats]:
            known = costs(genomes)
            return {**known, "latency_ms": self.predict(known)}

        return with_latency

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> LatencyPredictor:
        """Read what `to_json` wrote; a ValueError if it is something else."""
        try:
            row = json.loads(text)
            held_out = None if row["held_out"] is None else HeldOut(**row["held_out"])
            coefficients = {str(name): float(slope) for name, slope in row["coefficients"].items()}
            return cls(coefficients, float(row["intercept_ms"]), held_out)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not a latency predictor: {text[:80]!r} ({error!r})") from None


def _table(features: Features, latency_ms: npt.ArrayLike) -> tuple[list[str], Floats, Floats]:
    """Names, features of shape (networks, features), and latencies of shape (networks,)."""
    target = np.asarray(latency_ms, dtype=np.float64)
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in features.items()}
    if target.ndim != 1 or not len(target) or not np.all(np.isfinite(target) & (target > 0)):
        raise ValueError(f"latencies are a row of positive milliseconds, got {latency_ms!r:.120}")
    uneven = [f"{name} {list(values.shape)}" for name, values in arrays.items() if values.shape != target.shape]
    if uneven or not arrays:
        raise ValueError(f"every feature needs one value for each of the {len(target)} latencies, got {uneven}")
    return list(arrays), np.stack(list(arrays.values()), axis=1), target


def _macs(names: Sequence[str], columns: Floats) -> Floats:
    """MACs alone, shape (networks, 1)."""
    kinds = ["macs"] if "macs" in names else [name for name in names if name.startswith("macs_")]
    total: Floats = columns[:, [names.index(name) for name in kinds]].sum(axis=1, keepdims=True)
    return total


def _solve(columns: Floats, target: Floats) -> Floats:
    """Constant and slopes, none negative, least squares of the relative error."""
    scale = np.abs(columns).max(axis=0)
    scale[scale == 0] = 1.0
    table = np.column_stack([np.ones(len(target)), columns / scale])
    weights, _ = nnls(table / target[:, None], np.ones(len(target)))
    return np.asarray(weights / np.concatenate([[1.0], scale]))


def _held_out(columns: Floats, target: Floats, folds: int) -> float:
    """Mean absolute relative error in per cent, every network predicted by a fit without its fold."""
    fold = np.arange(len(target)) % min(max(folds, 2), len(target))
    errors = []
    for index in np.unique(fold):
        weights = _solve(columns[fold != index], target[fold != index])
        predicted = weights[0] + columns[fold == index] @ weights[1:]
        errors.append(np.abs(predicted / target[fold == index] - 1))
    return float(100 * np.mean(np.concatenate(errors)))
