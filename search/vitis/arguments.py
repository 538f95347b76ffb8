"""Arguments of the runners, checked before anything is traced: one clear line for each that makes no sense."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from ofa.search.vitis.errors import OptimizerInvalidArgumentError

_GPU = re.compile(r"(cuda:)?\d+")


def check_index(index: Any) -> None:
    if index is not None and (isinstance(index, bool) or not isinstance(index, Integral)):
        raise OptimizerInvalidArgumentError(f"index is a whole number, or None for the best, got {index!r}")


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
