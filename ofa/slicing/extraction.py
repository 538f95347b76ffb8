"""Extraction: a plan carried out for good on a copy of the network, and weights in slim and in full-size form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ofa.slicing.slices import Plan, duplicate, find_owners, put, take

State = Mapping[str, Tensor]
Part = Callable[[str, Tensor], Tensor]
"""What stays of a named tensor."""


def reduced(model: nn.Module, plan: Plan, part: Part | None = None) -> nn.Module:
    """A copy of `model`, the user's own class, with smaller layers: what `plan` says, without tracing anything.

    >>> network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> plan = Plan({"0.weight": (slice(0, 2), None), "0.bias": (slice(0, 2),), "1.weight": (None, slice(0, 2))})
    >>> [tuple(layer.weight.shape) for layer in reduced(network, plan)]
    [(2, 4), (2, 2)]

    Raises:
        ValueError: the plan is of another network.
    """
    part = part or (lambda name, tensor: kept_of(name, tensor, plan))
    owners = find_owners(model)
    check_names(owners, plan)
    memo: dict[int, Any] = {}
    for name, holders in owners.items():
        module, local = holders[0]
        parameter = module._parameters.get(local)
        tensor = module._buffers[local] if parameter is None else parameter
        assert tensor is not None
        kept = part(name, tensor).detach().clone()
        kept = kept.contiguous() if name in plan.indices or name in plan.zeros else kept
        memo[id(tensor)] = kept if parameter is None else nn.Parameter(kept, tensor.requires_grad)
    result = duplicate(model, memo)
    for change in plan.changes:
        setattr(result.get_submodule(change.module), change.attribute, change.value)
    for path in plan.skipped:
        result.set_submodule(path, nn.Identity())
    return result


def kept_of(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """The slice of a tensor, with its zeros.

    >>> kept_of("bias", torch.tensor([1.0, 2.0, 3.0]), Plan({"bias": (slice(0, 2),)})).tolist()
    [1.0, 2.0]
    """
    part = take(tensor.detach(), plan.indices.get(name, ()))
    return plan.zeros[name].masked(part) if name in plan.zeros else part


def check_names(names: Mapping[str, Any], plan: Plan) -> None:
    unknown = [name for name in (*plan.indices, *plan.zeros) if name not in names]
    if unknown:
        raise ValueError(f"the plan is of another network: it slices {unknown[:3]}, which this one does not have")


def aliases(model: nn.Module) -> dict[str, str]:
    """For every name in the state dict the first name of its tensor; tied weights have several names.

    >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> network[1].weight = network[0].weight
    >>> aliases(network)
    {'0.weight': '0.weight', '0.bias': '0.bias', '1.weight': '0.weight', '1.bias': '1.bias'}
    """
    first: dict[int, str] = {}
    every = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: first.setdefault(id(tensor), name) for name, tensor in every}


def full_size(state: State, plan: Plan, model: nn.Module) -> dict[str, Tensor]:
    """Weights of the extracted network in the original's shapes: zeros in every place that was removed.

    >>> network = nn.Linear(1, 3, bias=False)
    >>> plan = Plan({"weight": (slice(0, 2), None)})
    >>> full_size({"weight": torch.ones(2, 1)}, plan, network)["weight"].tolist()
    [[1.0], [1.0], [0.0]]

    Raises:
        ValueError: `state` is not of the network that `plan` extracts from `model`.
    """
    result = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    write(result, state, plan, aliases(model))
    return result


def write(target: State, state: State, plan: Plan, first: Mapping[str, str]) -> None:
    """Put weights of the extracted network into full-size tensors, in place; nothing is written if they do not fit.

    >>> target = {"weight": torch.zeros(3)}
    >>> write(target, {"weight": torch.ones(2)}, Plan({"weight": (slice(1, 3),)}), {})
    >>> target["weight"].tolist()
    [0.0, 1.0, 1.0]

    Raises:
        ValueError: names or shapes differ; the first ones are given.
    """
    index = {name: plan.indices.get(first.get(name, name), ()) for name in target}
    wanted = {name: tuple(take(tensor, index[name]).shape) for name, tensor in target.items() if stays(name, plan)}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differ = sorted(n for n in {**wanted, **given} if wanted.get(n) != given.get(n))
    if differ:
        rows = [f"{n} is {given.get(n, 'missing')}, {wanted.get(n, 'nothing')} fits" for n in differ[:3]]
        raise ValueError(f"these weights are not of this subnet: {'; '.join(rows)}")
    with torch.no_grad():
        for name, tensor in state.items():
            put(target[name], index[name], tensor.to(target[name]), accumulate=False)


def stays(name: str, plan: Plan) -> bool:
    """Whether a tensor is outside all skipped blocks.

    >>> plan = Plan({}, skipped=("layer1.1",))
    >>> stays("layer1.0.weight", plan), stays("layer1.1.weight", plan)
    (True, False)
    """
    return not any(name.startswith(f"{block}.") for block in plan.skipped)
