"""The operators that a network runs, in order: what its tensors' names and shapes do not tell of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ofa.backbone import as_call
from ofa.tracing import contraction, normalisation
from ofa.tracing.flow import slow_attention
from ofa.tracing.operators import RULES
from ofa.tracing.tracer import evaluating

FAMILIES = (contraction.attention, contraction.convolution, normalisation.batch_norm)  # one operator on each device
EXTENTS = ("view", "_unsafe_view", "expand", "slice", "clone", "alias", "detach", "index", "copy", "empty")
SIZES = ("size", "output_size", "end", "sizes", "repeats", "split_sizes")  # follow the example inputs
BACKENDS = ("cudnn_enabled", "compute_log_sumexp", "return_debug_mask", "training", "momentum")


class Operations(TorchDispatchMode):
    """Notes every operator with its settings (strides, slopes, dimensions), but for what follows the inputs' sizes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        if name not in EXTENTS:
            given = zip((argument.name for argument in func._schema.arguments), args, strict=False)
            settings = {k: v for k, v in {**dict(given), **(kwargs or {})}.items() if k not in (*SIZES, *BACKENDS)}
            rule = RULES.get(name)
            family = rule.__name__ if rule in FAMILIES and rule is not None else name
            plain = {k: v for k, v in settings.items() if is_plain(v)}
            self.rows.append(f"{family} {plain}")
        return func(*args, **(kwargs or {}))


def operations_of(model: nn.Module, inputs: Any) -> list[str]:
    """The operators of one evaluation pass, in words: the same ones on another device and for another batch.

    >>> operations_of(nn.Sequential(nn.Linear(4, 2), nn.LeakyReLU(0.1)), torch.zeros(1, 4))[-1]
    "leaky_relu {'negative_slope': 0.1}"
    """
    args, kwargs = as_call(inputs)
    found = Operations()
    with evaluating(model), torch.no_grad(), slow_attention(), found:
        model(*args, **kwargs)
    return found.rows


def is_plain(value: Any) -> bool:
    """A number, a truth value, a word, or a list of them."""
    return all(isinstance(v, (bool, int, float, str)) for v in (value if isinstance(value, (list, tuple)) else [value]))
