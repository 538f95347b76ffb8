"""Scores of weights by magnitude × norm of the input they meet (Wanda, Sun et al., 2023)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ofa.backbone import as_call
from ofa.sparsity.activations import input_name
from ofa.sparsity.layers import TRANSPOSED, layer_of, weight_of
from ofa.tracing import evaluating


def wanda_scores(model: nn.Module, names: Iterable[str], batches: Iterable[Any]) -> dict[str, Tensor]:
    """|weight| × the L2 norm of its input channel over all batches, for each named layer, in its weight's shape.

    A layer that no batch reaches is left out. `batches` are inputs of the model: tensors, tuples or dicts.

    >>> network = nn.Sequential(nn.Linear(2, 1))
    >>> with torch.no_grad():
    ...     _ = network[0].weight.copy_(torch.tensor([[-2.0, 1.0]]))
    >>> wanda_scores(network, ["0"], [torch.tensor([[3.0, 0.0], [4.0, 1.0]])])["0"].tolist()  # 2 × 5 and 1 × 1
    [[10.0, 1.0]]

    Raises:
        ValueError: there is no batch.
    """
    norms = input_norms(model, names, batches)
    return {name: weighted(layer_of(model, name), norm) for name, norm in norms.items()}


def input_norms(model: nn.Module, names: Iterable[str], batches: Iterable[Any]) -> dict[str, Tensor]:
    """The L2 norm of every input channel of the named layers over all batches, (channels,), in evaluation mode.

    Raises:
        ValueError: there is no batch.
    """
    squares: dict[str, Tensor] = {}
    handles = [
        layer_of(model, name).register_forward_pre_hook(partial(_add, squares, name), with_kwargs=True)
        for name in names
    ]
    count = 0
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                args, kwargs = as_call(batch)
                model(*args, **kwargs)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise ValueError("input norms need at least one batch, got none")
    return {name: total.sqrt() for name, total in squares.items()}


def _add(
    squares: dict[str, Tensor], name: str, layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
) -> None:
    x = (args[0] if args else kwargs[input_name(kwargs)]).float()
    dim = x.ndim - 1 if isinstance(layer, nn.Linear) else x.ndim + 1 - weight_of(layer).ndim
    added = x.square().sum([d for d in range(x.ndim) if d != dim])
    squares[name] = squares[name] + added if name in squares else added


def weighted(layer: nn.Module, norm: Tensor) -> Tensor:
    """|weight| × the norm of the input channel that each weight meets, in float32 at least: half of it overflows."""
    weight = weight_of(layer).detach().abs()
    weight = weight.to(torch.promote_types(weight.dtype, norm.dtype))
    if isinstance(layer, TRANSPOSED):  # (in, out / groups, …)
        return weight * norm.view(-1, *[1] * (weight.ndim - 1))
    groups = norm.numel() // weight.shape[1]  # (out, in / groups, …): a group's outputs meet the group's inputs
    rows = norm.view(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    return weight * rows.view(*rows.shape, *[1] * (weight.ndim - 2))
