"""Parameters that a forward pass reads past their modules: found by running on copies, served where that is possible.

A slice is put where modules keep their parameters. Code that holds the parameter itself, in a list or a closure, never
sees it: sliced and zeroed networks are then equal because both are the whole one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ofa.conversion.randomised import Examples
from ofa.slicing import Holder, Owners, find_modules, installed
from ofa.tracing import evaluating

DEEPEST = 6  # containers inside containers
MOST = 100_000  # values of a network that are looked at
OWN = ("_parameters", "_buffers", "_modules")


def with_containers(model: nn.Module, owners: Owners) -> dict[str, list[tuple[Holder, Any]]]:
    """The owners of every tensor, and the lists, dicts and objects inside the network that hold it as well.

    >>> from ofa.slicing import find_owners
    >>> network = nn.Linear(2, 1, bias=False)
    >>> network.tied = [network.weight]
    >>> found = with_containers(network, find_owners(network))["weight"]
    >>> [type(holder).__name__ for holder, place in found]
    ['Linear', 'list']
    """
    names = {id(t): n for n, t in (*model.named_parameters(), *model.named_buffers())}
    found = {name: list(holders) for name, holders in owners.items()}
    for container, key, value, _ in contents(model):
        if id(value) in names and not isinstance(container, tuple):
            found[names[id(value)]].append((container, key))
    return found


def contents(model: nn.Module) -> Iterator[tuple[Any, Any, Tensor, str]]:
    """(container, key, tensor, in words) of every tensor that an attribute leads to, but for modules' own registers.

    Closures and partial functions are looked into, too: as containers they are tuples, in which nothing can be put.
    """
    seen: set[int] = set()
    pending: list[tuple[Any, str, int]] = [
        (value, f"{path or type(module).__name__}.{name}", 0)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in OWN and "hooks" not in name and not isinstance(value, Tensor)
    ]
    while pending and len(seen) < MOST:
        value, where, depth = pending.pop()
        if id(value) in seen or depth > DEEPEST:
            continue
        seen.add(id(value))
        container, items = inside(value)
        for key, item in items:
            if isinstance(item, Tensor):
                yield container, key, item, f"{kind(value)} {where}"
            elif not isinstance(item, (nn.Module, str, bytes, int, float, type(None))):
                pending.append((item, where, depth + 1))


def inside(value: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """What holds the parts of a value, and the parts: a list, a dict, an object's attributes, a closure's cells."""
    if isinstance(value, dict):
        return value, list(value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return (value if isinstance(value, list) else ()), list(enumerate(value))
    if isinstance(value, MethodType):
        return (), [("function", value.__func__), ("self", value.__self__)]
    if isinstance(value, FunctionType):
        cells = [(i, content(cell)) for i, cell in enumerate(value.__closure__ or ())]
        return (), [*cells, *enumerate(value.__defaults__ or ())]
    if isinstance(value, functools.partial):
        return (), [*enumerate((value.func, *value.args)), *value.keywords.items()]
    if isinstance(value, (nn.Module, Tensor, type, ModuleType, torch.dtype, torch.device)):
        return (), []
    attributes = getattr(value, "__dict__", {})
    return attributes, list(attributes.items()) if isinstance(attributes, dict) else []


def content(cell: Any) -> Any:
    """What a closure's cell holds; nothing where it is still empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def kind(value: Any) -> str:
    if isinstance(value, (FunctionType, MethodType)):
        return "a closure,"
    if isinstance(value, (functools.partial, list, tuple, dict, set, frozenset)):
        return f"a {type(value).__name__},"
    return f"an object of {type(value).__name__},"


def read_past(model: nn.Module, original: nn.Module, owners: Owners, examples: Examples) -> dict[str, str]:
    """Names of the parameters and buffers that are read although copies of them are installed, and through what.

    `original` is the network that `model` was copied from: functions are not copied, and may still hold its tensors.
    """
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    watch = Watch({**dict((*original.named_parameters(), *original.named_buffers()))}, tensors)
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    with evaluating(model), torch.no_grad(), installed(find_modules(model), owners, copies, (), ()), watch:
        model(*examples.args, **examples.kwargs)
    if not watch.met:
        return {}
    both = {id(t): n for source in (tensors, watch.originals) for n, t in source.items()}
    ways: dict[str, str] = {}
    for net in (model, original):
        for _, _, value, where in contents(net):
            if id(value) in both:
                ways.setdefault(both[id(value)], where)
    return {name: f"read through {ways.get(name, 'something else than its module')}" for name in sorted(watch.met)}


class Watch(TorchDispatchMode):
    """Notes which of some named tensors operators meet, by their memory."""

    def __init__(self, originals: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.originals, self.met = originals, set[str]()
        self.names: dict[int, set[str]] = {}
        for name, tensor in (*originals.items(), *tensors.items()):
            if tensor.numel():
                self.names.setdefault(tensor.untyped_storage().data_ptr(), set()).add(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self.met |= self.names.get(tensor.untyped_storage().data_ptr(), set())
        return func(*args, **(kwargs or {}))
