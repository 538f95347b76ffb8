"""N:M sparsity of activations: in every block of channels of a layer's input some become zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ofa.sparsity.layers import check_pattern, input_dim, layer_of, weight_of
from ofa.sparsity.pattern import Pattern


@dataclass(frozen=True)
class BlockActivations:
    """Keeps the largest magnitudes of every block along `dim` of a layer's input: a forward pre-hook.

    What goes gets no gradient. A hook pickles, copies and exports with its layer.

    >>> BlockActivations(Pattern.parse("2:4"), dim=-1).keep(torch.tensor([[1.0, -4.0, 2.0, 3.0]])).tolist()
    [[0.0, -4.0, 0.0, 3.0]]
    """

    pattern: Pattern
    dim: int

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self.keep(args[0]), *args[1:]), kwargs
        name = input_name(kwargs)
        return args, {**kwargs, name: self.keep(kwargs[name])}

    def keep(self, x: Tensor) -> Tensor:
        """`x` with zeros in place of the smallest magnitudes of each block."""
        return x * self.pattern.mask(x, self.dim, x.dtype, spare_zeros=True)


def input_name(kwargs: Mapping[str, Any]) -> str:
    """Under which name a layer got its input by keyword: torch's own call it `input`; otherwise the first."""
    return "input" if "input" in kwargs else next(iter(kwargs), "input")


def sparsify_inputs(model: nn.Module, patterns: Mapping[str, Pattern]) -> list[RemovableHandle]:
    """From now on keep only the largest magnitudes of the inputs of the named layers, in training and in evaluation.

    Channels are the last dimension of a linear layer's input, (…, features), and stand before the spatial ones of a
    convolution's, (batch, channels, …). A layer of which others use the weight without calling it (the output
    projection of `nn.MultiheadAttention`) gets whole inputs all the same.

    >>> network = nn.Sequential(nn.Linear(4, 1, bias=False))
    >>> with torch.no_grad():
    ...     _ = network[0].weight.fill_(1.0)
    >>> handles = sparsify_inputs(network, {"0": Pattern.parse("2:4")})
    >>> network(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist()  # 3 + 4
    [[7.0]]

    Raises:
        ValueError: a name is not that of a convolution or linear layer.
        TypeError: a pattern is none.
    """
    handles = []
    for name, pattern in patterns.items():
        layer = layer_of(model, name)
        check_pattern(pattern)
        dim = -1 if isinstance(layer, nn.Linear) else 1 - weight_of(layer).ndim
        handles.append(layer.register_forward_pre_hook(BlockActivations(pattern, dim), with_kwargs=True))
    return handles


def blockwise(model: nn.Module) -> Iterator[tuple[str, int]]:
    """The weights whose layers get sparse inputs, and the dimension that counts these.

    >>> network = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    >>> handles = sparsify_inputs(network, {"0": Pattern.parse("2:4")})
    >>> list(blockwise(network))
    [('0.weight', 1)]
    """
    for name, layer in model.named_modules():
        if any(isinstance(hook, BlockActivations) for hook in layer._forward_pre_hooks.values()):
            yield f"{name}.weight".removeprefix("."), input_dim(layer)
