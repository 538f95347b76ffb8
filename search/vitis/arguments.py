"""Arguments of the pruners, checked before anything is traced: one clear line for each that makes no sense."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from ofa.search.vitis.errors import OptimizerInvalidArgumentError

TAKEN = ("net_id", "mode", "macs", "params", "subnet_setting")  # of a row of a search's result
_GPU = re.compile(r"(cuda:)?\d+")


def check_index(index: Any) -> None:
    if index is not None and (isinstance(index, bool) or not isinstance(index, Integral)):
        raise OptimizerInvalidArgumentError(f"index is a whole number, or None for the best, got {index!r}")


def check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise OptimizerInvalidArgumentError(f"{name} is a whole number of at least {least}, got {value!r}")


def check_share(name: str, value: Any) -> None:
    if not is_number(value) or not 0 < value < 1:
        raise OptimizerInvalidArgumentError(f"{name} is a share between 0 and 1, got {value!r}")


def check_call(function: Any, arguments: Any, names: tuple[str, str], what: str) -> None:
    """Raise an error where a function of a network, or the tuple of its further arguments, is none."""
    name, others = names
    if not callable(function):
        raise OptimizerInvalidArgumentError(f"{name} is a function of a network that {what}, got {function!r}")
    if not isinstance(arguments, (tuple, list)):
        got = f"got {type(arguments).__name__}: {others}=(…,) with a comma"
        raise OptimizerInvalidArgumentError(f"{others} is a tuple of what {name} takes besides the network, {got}")


def numbers_of(gpus: Sequence[Any] | None) -> list[str]:
    """The numbers of GPUs, as a script gives them: 0, "0", "cuda:0".

    Raises:
        OptimizerInvalidArgumentError: it is no list, or holds something else.
    """
    chosen = [str(gpu) for gpu in gpus or ()] if gpus is None or isinstance(gpus, (tuple, list, range)) else [""]
    if not all(_GPU.fullmatch(gpu) for gpu in chosen):
        raise OptimizerInvalidArgumentError(f"gpus is a list of their numbers, such as ['0', '1'], got {gpus!r}")
    return [gpu.removeprefix("cuda:") for gpu in chosen]


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise OptimizerInvalidArgumentError(f"{name} is True or False, got {value!r}")


def check_fraction(name: str, value: Any) -> None:
    """Raise an error where a probability is none."""
    if not is_number(value) or not 0 <= value <= 1:
        raise OptimizerInvalidArgumentError(f"{name} is a probability from 0 to 1, got {value!r}")


def check_range(min_macs: Any, max_macs: Any) -> None:
    """Raise an error unless these are limits of MACs, of which the upper one may be infinite."""
    limits = is_number(min_macs) and is_number(max_macs) and 0 <= min_macs < math.inf
    if not (limits and min_macs <= max_macs and max_macs > 0):
        got = f"got {min_macs!r} and {max_macs!r}"
        raise OptimizerInvalidArgumentError(f"min_macs and max_macs are millions of MACs, the smaller first, {got}")


def check_metric(metric: str, min_or_max_metric: Any) -> None:
    """Raise an error unless scores have a name of their own in the result, and a direction."""
    if metric in TAKEN:
        raise OptimizerInvalidArgumentError(
            f"evaluation_metric is a name for the scores beside {', '.join(TAKEN)} in the result, got {metric!r}"
        )
    if min_or_max_metric not in ("max", "min"):
        best = "for what a better score is"
        raise OptimizerInvalidArgumentError(f"min_or_max_metric is 'max' or 'min', {best}, got {min_or_max_metric!r}")


def check_evolution(counts: Mapping[str, int], macs_step: float, mutate_prob: float) -> None:
    """Raise an error where a setting of an evolutionary search makes no sense; `counts` are sizes by their names."""
    if not is_number(macs_step) or not 0 < macs_step < math.inf:
        raise OptimizerInvalidArgumentError(
            f"macs_step, the width of a bin in million MACs, is above 0, got {macs_step!r}"
        )
    for name, count in counts.items():
        check_whole(name, count, 1 if name in ("parent_popu_size", "iteration") else 0)
    check_fraction("mutate_prob", mutate_prob)


def ratios_of(expand_ratio: Any) -> tuple[float, ...]:
    """The shares of channels to offer.

    Raises:
        OptimizerInvalidArgumentError: it is no list, or holds something else.
    """
    ratios = listed(expand_ratio)
    if not ratios or not all(is_number(ratio) and 0 < ratio <= 1 for ratio in ratios):
        what = "expand_ratio is a list of the shares of channels to offer, above 0 to 1, such as [0.5, 0.75, 1]"
        raise OptimizerInvalidArgumentError(f"{what}, got {expand_ratio!r}")
    return tuple(float(ratio) for ratio in ratios)


def listed(values: Any) -> list[Any]:
    """What a list, or the like, holds; nothing where it is none."""
    several = isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping))
    return list(values) if several else []


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
