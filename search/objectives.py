"""What a search wants more of or less of: the objectives, and how their figures are written."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ofa import Supernet
from ofa.space import Genome

Floats = npt.NDArray[np.float64]
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Objective(ABC):
    """One figure of a subnet that evaluating it gives: one class, named in `conf/objective/NAME.yaml`.

    `name` is what metrics call it, `label` and `unit` stand at axes and behind figures; of a figure that is `counted`
    the thousands go into the unit (12.35 MB).

    >>> class F1(Objective):
    ...     name, label, unit, maximise = "f1", "F1 score", "%", True
    >>> F1().written(93.12), F1().gain(93.12)
    ('93.12 %', 93.12)
    """

    name: ClassVar[str]
    label: ClassVar[str]
    unit: ClassVar[str] = ""
    maximise: ClassVar[bool] = False
    counted: ClassVar[bool] = False

    def gain(self, value: float) -> float:
        """`value` with its sign turned, where needed, so that larger is better."""
        return value if self.maximise else -value

    @classmethod
    def parse(cls, names: Sequence[Objective | str]) -> tuple[Objective, ...]:
        """Objectives, ours by name, in order.

        Raises:
            ValueError: none, an unknown one, or one named twice.
        """
        parsed = tuple(objective_of(name) for name in names)
        given = [objective.name for objective in parsed]
        if not parsed or len(set(given)) != len(given):
            raise ValueError(f"a search needs one or more distinct objectives, got {given}")
        return parsed

    def value(self, metrics: Mapping[str, float]) -> float:
        """This objective's figure among `metrics`.

        Raises:
            ValueError: it is not there.
        """
        if self.name not in metrics:
            raise ValueError(f"objective {self.name!r} is not among the metrics {sorted(metrics)}")
        return float(metrics[self.name])

    def interval(self, value: float, samples: int) -> tuple[float, float] | None:
        """Where the true figure lies with a probability of 95 %, if so many samples gave `value`; None: not known."""
        return None

    def step(self, value: float, samples: int) -> float:
        """How much better than `value` a figure on the same samples has to be to count as better."""
        return 0.0

    def written(self, value: float | None, ends: tuple[float, float] | None = None) -> str:
        """A figure as people write it, with prefix and unit: 97.31 %, 12.35 M, 0.412 ms; 97.3 ± 1.2 % with `ends`."""
        if value is None:
            return "-"
        if ends is not None and ends[0] < ends[1]:
            half = (ends[1] - ends[0]) / 2
            digits = max(1, -math.floor(math.log10(half)))
            return f"{value:.{digits}f} ± {half:.{digits}f} {self.unit}".rstrip()
        divisor, prefix = self._prefix(abs(value))
        number = f"{value / divisor:#.4g}" if prefix else self.number(value)
        return f"{number} {prefix}{self.unit}".rstrip()

    def number(self, value: float) -> str:
        """The digits of a figure that needs no prefix."""
        return f"{value:.0f}" if self.counted else f"{value:.4g}"

    def axis(self, largest: float) -> tuple[str, float]:
        """Label with its unit, and the divisor, for an axis on which the figures reach `largest`."""
        divisor, prefix = self._prefix(largest)
        unit = f"{prefix}{self.unit}"
        return f"{self.label} ({unit})" if unit else self.label, divisor

    def _prefix(self, size: float) -> tuple[float, str]:
        known = _PREFIXES if self.counted else ()
        return next(((divisor, prefix) for divisor, prefix in known if size >= divisor), (1.0, ""))


@dataclass(frozen=True)
class CostObjective(Objective):
    """A figure that is known before a subnet is evaluated, so that a budget may limit it.

    >>> class Money(CostObjective):
    ...     name, label, unit = "cents", "Price", "ct"
    ...     def costs(self, supernet, genomes):
    ...         return 1e-6 * supernet.costs(genomes)["macs"]
    >>> Money().written(2.5), Money().axis(2.5)
    ('2.5 ct', ('Price (ct)', 1.0))
    """

    def costs(self, supernet: Supernet, genomes: Genome) -> Floats | None:
        """The cost of each of `genomes`, (population, choices), shape (population,), in the objective's unit.

        None where the costs of the search have it already by this name: the supernet's own, and a predicted latency.
        """
        return None


@dataclass(frozen=True)
class Accuracy(Objective):
    """The score of the task, from 0 to 100: for classes the share of right ones, top 1, in per cent.

    >>> Accuracy().written(97.314), Accuracy().written(97.314, ends=(96.1, 98.5))
    ('97.31 %', '97.3 ± 1.2 %')
    """

    name: ClassVar[str] = "accuracy"
    label: ClassVar[str] = "Accuracy"
    unit: ClassVar[str] = "%"
    maximise: ClassVar[bool] = True

    def interval(self, value: float, samples: int) -> tuple[float, float] | None:
        """Wilson's interval of a share (1927), which holds on few samples and near 100, too.

        >>> low, high = Accuracy().interval(100.0, samples=100)
        >>> f"{low:.1f} to {high:.1f}"
        '96.3 to 100.0'
        """
        from scipy.stats import binomtest  # slow to import

        right = min(max(round(value * samples / 100), 0), samples)
        ends = binomtest(right, samples).proportion_ci(0.95, method="wilson")
        return 100 * float(ends.low), 100 * float(ends.high)

    def step(self, value: float, samples: int) -> float:
        """Half a standard error, and one sample at least.

        >>> round(Accuracy().step(97.0, samples=539), 2), Accuracy().step(100.0, samples=50)
        (0.37, 2.0)
        """
        share = min(max(value / 100, 0.0), 1.0)
        return max(50 * math.sqrt(share * (1 - share) / samples), 100 / samples)

    def number(self, value: float) -> str:
        return f"{value:.2f}"


@dataclass(frozen=True)
class BalancedAccuracy(Accuracy):
    """The mean over classes of the share of right ones: every class counts the same, however rare it is.

    How sure it is depends on how many there are of each class, so that no interval is given.

    >>> BalancedAccuracy().axis(90.0), BalancedAccuracy().interval(90.0, samples=100)
    (('Balanced accuracy (%)', 1.0), None)
    """

    name: ClassVar[str] = "balanced_accuracy"
    label: ClassVar[str] = "Balanced accuracy"

    def interval(self, value: float, samples: int) -> tuple[float, float] | None:
        return None


@dataclass(frozen=True)
class Loss(Objective):
    """The task's loss, a mean over samples.

    >>> Loss().gain(0.25)
    -0.25
    """

    name: ClassVar[str] = "loss"
    label: ClassVar[str] = "Loss"


@dataclass(frozen=True)
class Macs(CostObjective):
    """Multiply–accumulates a sample (1 MAC = 2 FLOPs), without those that N:M patterns save.

    >>> Macs().written(12_345_678)
    '12.35 M'
    """

    name: ClassVar[str] = "macs"
    label: ClassVar[str] = "MACs"
    counted: ClassVar[bool] = True


@dataclass(frozen=True)
class Params(CostObjective):
    """Parameters; zeros count.

    >>> Params().written(716)
    '716'
    """

    name: ClassVar[str] = "params"
    label: ClassVar[str] = "Parameters"
    counted: ClassVar[bool] = True


@dataclass(frozen=True)
class WeightBytes(CostObjective):
    """Bytes of the parameters, packed where they have an N:M pattern.

    >>> WeightBytes().written(25_600)
    '25.60 kB'
    """

    name: ClassVar[str] = "weight_bytes"
    label: ClassVar[str] = "Weights"
    unit: ClassVar[str] = "B"
    counted: ClassVar[bool] = True


@dataclass(frozen=True)
class PeakBytes(CostObjective):
    """The most bytes of activations that are alive at once, a sample.

    >>> PeakBytes().axis(2.5e6)
    ('Peak of activations (MB)', 1000000.0)
    """

    name: ClassVar[str] = "peak_bytes"
    label: ClassVar[str] = "Peak of activations"
    unit: ClassVar[str] = "B"
    counted: ClassVar[bool] = True


@dataclass(frozen=True)
class LatencyMs(CostObjective):
    """Milliseconds for one sample on the latency device: predicted in the search, measured at the export.

    >>> LatencyMs().written(0.4123)
    '0.412 ms'
    """

    name: ClassVar[str] = "latency_ms"
    label: ClassVar[str] = "Latency"
    unit: ClassVar[str] = "ms"

    def number(self, value: float) -> str:
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def objectives() -> dict[str, type[Objective]]:
    """The classes of this file by name: accuracy, balanced_accuracy, loss, macs, params, weight_bytes, peak_bytes,
    latency_ms."""
    own = (cls for cls in globals().values() if isinstance(cls, type) and issubclass(cls, Objective))
    return {cls.name: cls for cls in own if hasattr(cls, "name")}


def objective_of(name: Objective | str) -> Objective:
    """The objective of a name; any other object is one already.

    Raises:
        ValueError: there is none of that name.
    """
    if isinstance(name, Objective):
        return name
    if name not in objectives():
        raise ValueError(f"no objective {name!r}; the objectives are {', '.join(objectives())}")
    return objectives()[name]()


def found(name: str, among: Iterable[Objective]) -> Objective | None:
    """The objective of a figure's name: one `among` those given, or ours; None for a figure that is none."""
    own = objective_of(name) if name in objectives() else None
    return next((objective for objective in among if objective.name == name), own)


def priced(supernet: Supernet, among: Iterable[Objective]) -> Callable[[Genome], Mapping[str, Floats]]:
    """The supernet's costs, and those that objectives compute, each (population,).

    Raises (when called):
        ValueError: an objective's costs are not one number for each genome.
    """
    own = [objective for objective in among if isinstance(objective, CostObjective)]

    def costs(genomes: Genome) -> Mapping[str, Floats]:
        result = dict(supernet.costs(genomes))
        for objective in own:
            values = objective.costs(supernet, genomes)
            if values is None:
                continue
            if np.shape(values) != (len(genomes),):
                raise ValueError(
                    f"{type(objective).__name__}.costs gives one number for each of {len(genomes)} genomes, got shape"
                    f" {np.shape(values)}"
                )
            result[objective.name] = np.asarray(values, dtype=np.float64)
        return result

    return costs
