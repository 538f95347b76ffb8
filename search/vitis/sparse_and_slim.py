"""Sparse and slim forms of a pruned network, and state dicts that go from one to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ofa.backbone import unwrapped
from ofa.persistence import plan_from_json
from ofa.slicing import (
    Index,
    Plan,
    State,
    aliases,
    duplicate,
    find_modules,
    find_owners,
    installed,
    put,
    reduced,
    take,
    write,
)

NOTHING: State = {}
LOST = "a pickled slim network has no sparse_state_dict(): call that of ofa.vitis, with the pruning-info file"


class Mask:
    """Hooks of a network of original size: each forward pass runs on the kept parts of its weights.

    What is removed is zero and gets no gradient, so that weight decay and momentum leave it so.
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.plan = plan
        paths = {id(module): path for path, module in model.named_modules()}
        owners = find_owners(model)
        self.places = {n: [(paths[id(m)], local) for m, local in owners[n]] for n in plan.indices}
        self._open: dict[int, ExitStack] = {}

    def attach(self, model: nn.Module) -> None:
        """Run `model` under this mask from now on, also after weights are loaded into it."""
        self.clear(model)
        model.register_forward_pre_hook(self.enter)
        model.register_forward_hook(self.leave, always_call=True)
        model.register_load_state_dict_post_hook(self.clear)

    def enter(self, model: nn.Module, inputs: Any) -> None:
        modules = find_modules(model)
        owners = {n: [(modules[path], local) for path, local in places] for n, places in self.places.items()}
        parts = {n: kept_part(self._tensor(owners[n]), index) for n, index in self.plan.indices.items()}
        stack = self._open[id(model)] = ExitStack()
        stack.callback(self._write_back, owners, parts)
        stack.enter_context(installed(modules, owners, parts, self.plan.changes, self.plan.skipped))

    def leave(self, model: nn.Module, inputs: Any, output: Any) -> None:
        self._open.pop(id(model), ExitStack()).close()

    def clear(self, model: nn.Module, *_: Any) -> None:
        """Make everything zero that is removed."""
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            for name, index in self.plan.indices.items():
                kept = take(tensors[name], index).clone()
                put(tensors[name].zero_(), index, kept, accumulate=False)

    @staticmethod
    def _tensor(places: list[tuple[nn.Module, str]]) -> Tensor:
        module, local = places[0]
        tensor: Tensor = getattr(module, local)
        return tensor

    def _write_back(self, owners: Mapping[str, list[tuple[nn.Module, str]]], parts: State) -> None:
        """Statistics that a training pass updated in a copy go back to the buffers."""
        for name, index in self.plan.indices.items():
            whole = self._tensor(owners[name])
            if not is_weight(whole) and any(isinstance(i, Tensor) for i in index):
                with torch.no_grad():
                    put(whole, index, parts[name], accumulate=False)


def is_weight(tensor: Tensor) -> bool:
    """A parameter, or its copy in a replica of `DataParallel`; else a buffer."""
    return isinstance(tensor, nn.Parameter) or tensor.requires_grad


def kept_part(tensor: Tensor, index: Sequence[Index]) -> Tensor:
    """A weight's part as the slim network has it, with its gradient; a buffer's view where one can be made."""
    part = take(tensor, index)
    return part.contiguous() if is_weight(tensor) else part


class Method:
    """A function of a network as its attribute; the network's copy has its own.

    Its pickle has one that says where it is, of the standard library alone.
    """

    def __init__(self, function: Any, network: nn.Module) -> None:
        self.function, self.network = function, network

    def __call__(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.function(self.network.state_dict())
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Method:
        return Method(self.function, memo.get(id(self.network), self.network))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (getitem, {}, LOST)


def sparse_network(model: nn.Module, plan: Plan, statistics: State = NOTHING) -> nn.Module:
    """A copy of `model` in its own shapes that computes, and trains, only what `plan` keeps; the rest is zero.

    Its `slim_state_dict()` gives the weights of the slim network. `statistics` are buffers of the slim network.
    """
    network = duplicate(model)
    buffers = dict(network.named_buffers())
    for name, value in statistics.items():
        put(buffers[name], plan.indices.get(name, ()), value.to(buffers[name].device), accumulate=False)
    Mask(network, plan).attach(network)
    network.__dict__["slim_state_dict"] = partial(_slim_state_of, network, plan)
    return network


def original(model: nn.Module) -> nn.Module:
    """The network inside what a script calls its model.

    Raises:
        ValueError: it is a sparse network, which has a mask already.
        TypeError: it is no `nn.Module`.
    """
    network = unwrapped(model)
    hooks = [hook for module in network.modules() for hook in module._forward_pre_hooks.values()]
    if any(isinstance(getattr(hook, "__self__", None), Mask) for hook in hooks):
        raise ValueError(
            f"this {type(network).__name__} is the sparse result of prune(), asked is the network it was made from:"
            " original.load_state_dict(sparse.state_dict()), and give that original"
        )
    return network


def slim_network(model: nn.Module, plan: Plan, statistics: State = NOTHING) -> nn.Module:
    """A plain copy of `model` with smaller layers, free of this library but for `sparse_state_dict()`.

    That gives the weights in the original's shapes. `statistics` are buffers of the slim network.
    """

    def part(name: str, tensor: Tensor) -> Tensor:
        kept = take(tensor, plan.indices.get(name, ()))
        return statistics[name].to(kept.device) if name in statistics else kept

    network = reduced(model, plan, part)
    shapes = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    network.__dict__["sparse_state_dict"] = Method(
        partial(padded, plan=plan, shapes=shapes, first=aliases(model)), network
    )
    return network


def padded(state: State, plan: Plan, shapes: State, first: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights of a slim network in the original's shapes, zeros in every place that was removed."""
    device = next((tensor.device for tensor in state.values()), torch.device("cpu"))
    result = {name: torch.zeros_like(tensor, device=device) for name, tensor in shapes.items()}
    write(result, state, plan, first)
    return result


def cut(state: State, plan: Plan, first: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights of original size as those of the slim network."""
    return {n: take(t, plan.indices.get(first.get(n, n), ())).detach().clone() for n, t in state.items()}


def _slim_state_of(network: nn.Module, plan: Plan) -> dict[str, Tensor]:
    return cut(network.state_dict(), plan, aliases(network))


def slim_state_dict(state_dict: State, model: nn.Module, json_path: str | Path) -> dict[str, Tensor]:
    """Weights of a sparse network as those of the slim one; `json_path` is its pruning-info file."""
    return cut(state_dict, read_plan(json_path), aliases(model))


def sparse_state_dict(state_dict: State, model: nn.Module, json_path: str | Path) -> dict[str, Tensor]:
    """Weights of a slim network in the shapes of the original `model`; `json_path` is its pruning-info file."""
    return padded(state_dict, read_plan(json_path), model.state_dict(), aliases(model))


def read_plan(json_path: str | Path) -> Plan:
    try:
        return plan_from_json(Path(json_path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{json_path} is no pruning-info file: {error}") from None
