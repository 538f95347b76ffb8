"""What a search wants more of or less of, and how such figures are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COSTS = ("macs", "params", "weight_bytes", "latency_ms")
_MAXIMISED = {"accuracy": True, "loss": False} | dict.fromkeys(COSTS, False)
_LABELS = {"accuracy": "Accuracy (%)", "loss": "Loss", "latency_ms": "Latency (ms)"}
_COUNTS = {"macs": "MACs", "params": "Parameters", "weight_bytes": "Weights, bytes"}
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Objective:
    """One figure to make as large or as small as possible; an accuracy is in per cent.

    Raises:
        ValueError: no objective has this name.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in _MAXIMISED:
            raise ValueError(f"no objective {self.name!r}; the objectives are {', '.join(_MAXIMISED)}")

    @property
    def maximise(self) -> bool:
        return _MAXIMISED[self.name]

    def gain(self, value: float) -> float:
        """`value` with its sign turned, where needed, so that larger is better."""
        return value if self.maximise else -value

    @classmethod
    def parse(cls, names: Sequence[Objective | str]) -> tuple[Objective, ...]:
        """Objectives by name, in order.

        Raises:
            ValueError: none, an unknown one, or one named twice.
        """
        objectives = tuple(name if isinstance(name, Objective) else cls(name) for name in names)
        if not objectives or len(set(objectives)) != len(objectives):
            given = [objective.name for objective in objectives]
            raise ValueError(f"a search needs one or more distinct objectives, got {given}")
        return objectives

    def value(self, metrics: Mapping[str, float]) -> float:
        """This objective's figure among `metrics`.

        Raises:
            ValueError: it is not there.
        """
        if self.name not in metrics:
            raise ValueError(f"objective {self.name!r} is not among the metrics {sorted(metrics)}")
        return float(metrics[self.name])


def axis(name: str, largest: float) -> tuple[str, float]:
    """Label with its unit, and the divisor, for an axis on which `name` reaches `largest`."""
    if name not in _COUNTS:
        return _LABELS.get(name, name), 1.0
    for divisor, prefix in _PREFIXES:
        if largest >= divisor:
            return f"{_COUNTS[name]} ({prefix})", divisor
    return _COUNTS[name], 1.0


def written(name: str, value: float | None) -> str:
    """A figure as people write it: 97.31 %, 12.3 M, 0.412 ms."""
    if value is None:
        return "-"
    if name == "accuracy":
        return f"{value:.2f} %"
    if name == "latency_ms":
        return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"
    if name in _COUNTS:
        divisor, prefix = next(((d, p) for d, p in _PREFIXES if abs(value) >= d), (1.0, ""))
        return f"{value / divisor:#.4g} {prefix}" if prefix else f"{value:.0f}"
    return f"{value:.4g}"
