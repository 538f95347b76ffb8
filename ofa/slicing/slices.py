"""A subnet as a set of slices: which indices of each parameter stay, and a forward pass that runs on them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from ofa.arrays import BoolArray, IntArray
from ofa.groups import FIXED, Groups, Stage, skipped_blocks
from ofa.sparsity import Pattern, Zeros

Index = slice | Tensor | None
"""What stays along a dimension: a run, positions, or everything. Positions of shape (blocks, kept) along the second
dimension are those of each block of rows: in a grouped convolution every group may keep others."""


@dataclass(frozen=True)
class Change:
    """One attribute of one module that repeats a size, and its value in a subnet.

    >>> Change("attention", "num_heads", 4).value
    4
    """

    module: str
    attribute: str
    value: Any


@dataclass(frozen=True)
class Plan:
    """What a subnet changes: the kept indices of each tensor, the attributes that follow, the skipped blocks, and the
    zeros in weights.

    >>> from ofa import Supernet
    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4))
    >>> supernet.plan(supernet.space.smallest).indices["1.weight"]  # all outputs, the first 8 inputs
    (None, slice(0, 8, None))
    """

    indices: Mapping[str, tuple[Index, ...]]
    changes: tuple[Change, ...] = ()
    skipped: tuple[str, ...] = ()
    zeros: Mapping[str, Zeros] = field(default_factory=dict)

    @property
    def patterns(self) -> dict[str, Pattern]:
        """The pattern of each layer that has one, by the layer's name."""
        return {name.rpartition(".")[0]: zeros.pattern for name, zeros in self.zeros.items()}


class SizeFollower(Protocol):
    """An attribute that repeats a size."""

    def change(self, groups: Groups, sizes: IntArray) -> Change | None:
        """Its value in a subnet; None where it stays."""


class Slicer:
    """Kept indices of one network's parameters and buffers for given group sizes, remembered by the sizes involved.

    >>> from ofa.groups import constrain, find_groups
    >>> from ofa.tracing import trace
    >>> flow = trace(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), (torch.zeros(1, 4),), {})
    >>> slicer = Slicer(find_groups(flow, constrain(flow, stays=lambda name: None)), flow.parameters)
    >>> slicer.indices(np.array([2]))  # two units of the only group stay
    {'0.weight': (slice(0, 2, None), None), '0.bias': (slice(0, 2, None),), '1.weight': (None, slice(0, 2, None))}
    """

    def __init__(self, groups: Groups, vectors: Mapping[str, Sequence[IntArray | None]]) -> None:
        self.groups = groups
        self._dims: list[tuple[str, list[tuple[IntArray, IntArray] | None]]] = []
        self._memory: dict[tuple[str, int, bytes], Index] = {}
        for name, dims in vectors.items():
            rows = [None if v is None else self._elastic(groups.labels_along(name, d, v)) for d, v in enumerate(dims)]
            if any(row is not None for row in rows):
                self._dims.append((name, rows))

    def _elastic(self, labels: IntArray) -> tuple[IntArray, IntArray] | None:
        touched = np.unique(self.groups.group_of[labels])
        touched = touched[touched != FIXED]
        return (labels, touched) if len(touched) else None

    def indices(self, sizes: IntArray) -> dict[str, tuple[Index, ...]]:
        """For each tensor that is not whole: per dimension a slice, an index tensor, or None where all stays."""
        result = {}
        for name, rows in self._dims:
            index = tuple(self._index(name, d, row, sizes) for d, row in enumerate(rows))
            if any(i is not None for i in index):
                result[name] = index
        return result

    def _index(self, name: str, dim: int, row: tuple[IntArray, IntArray] | None, sizes: IntArray) -> Index:
        if row is None:
            return None
        labels, touched = row
        key = (name, dim, sizes[touched].tobytes())
        if key not in self._memory:
            self._memory[key] = as_index(self.groups.kept(labels, sizes))
        return self._memory[key]


def make_plan(
    slicer: Slicer, bindings: Iterable[SizeFollower], stages: Sequence[Stage], sizes: IntArray, depths: IntArray
) -> Plan:
    """What a subnet changes that keeps so many units of every group and runs so many blocks of every stage.

    >>> from ofa import Supernet
    >>> found = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4)).conversion
    >>> plan = make_plan(found.slicer, found.bindings, found.stages, np.array([8]), np.array([], dtype=np.int64))
    >>> [(change.module, change.attribute, change.value) for change in plan.changes]
    [('0', 'out_features', 8), ('1', 'in_features', 8)]
    """
    changes = (binding.change(slicer.groups, sizes) for binding in bindings)
    return Plan(slicer.indices(sizes), tuple(c for c in changes if c), skipped_blocks(stages, depths))


def as_index(kept: BoolArray) -> Index:
    """A mask (blocks, places) as the cheapest index: None for everything, a slice for a run, else positions.

    >>> as_index(np.array([[True, True, False]])), as_index(np.array([[True, False, True]]))
    (slice(0, 2, None), tensor([0, 2]))
    """
    if kept.all():
        return None
    if (kept != kept[0]).any():
        return torch.from_numpy(np.nonzero(kept)[1].reshape(len(kept), -1))
    positions = np.flatnonzero(kept[0])
    first, last = (int(positions[0]), int(positions[-1])) if len(positions) else (0, -1)
    if last - first + 1 == len(positions):
        return slice(first, last + 1)
    return torch.from_numpy(positions)


def take(tensor: Tensor, index: Sequence[Index]) -> Tensor:
    """The kept part: a view where all indices are runs.

    >>> take(torch.tensor([[1, 2, 3], [4, 5, 6]]), (None, slice(1, 3))).tolist()
    [[2, 3], [5, 6]]
    """
    for dim, i in enumerate(index):
        if isinstance(i, slice):
            tensor = tensor.narrow(dim, i.start, i.stop - i.start)
        elif i is not None and i.ndim > 1:
            rows = torch.arange(len(tensor), device=tensor.device)
            tensor = tensor[rows[:, None], in_rows(i, rows)]
        elif i is not None:
            tensor = tensor.index_select(dim, i.to(tensor.device))
    return tensor


def put(target: Tensor, index: Sequence[Index], part: Tensor, accumulate: bool) -> None:
    """Write (or add) a part back to where `take` found it.

    >>> target = torch.zeros(2, 3)
    >>> put(target, (slice(0, 1), torch.tensor([0, 2])), torch.ones(1, 2), accumulate=False)
    >>> target.tolist()
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    view = take(target, [i if isinstance(i, slice) else None for i in index])
    listed = [dim for dim, i in enumerate(index) if isinstance(i, Tensor)]
    if not listed:
        view.add_(part) if accumulate else view.copy_(part)
        return
    dim, positions = listed[0], cast(Tensor, index[listed[0]]).to(target.device)
    if positions.ndim > 1:
        rows = torch.arange(len(view), device=target.device)
        view.index_put_((rows[:, None], in_rows(positions, rows)), part, accumulate)
        return
    if len(listed) > 1:
        rows = view.index_select(dim, positions)
        rows = torch.zeros_like(rows) if accumulate else rows
        put(rows, [i if d in listed[1:] else None for d, i in enumerate(index)], part, accumulate=False)
        part = rows
    view.index_add_(dim, positions, part) if accumulate else view.index_copy_(dim, positions, part)


def in_rows(positions: Tensor, rows: Tensor) -> Tensor:
    """Positions of every block of rows, (blocks, kept), for every row."""
    return positions.to(rows.device).repeat_interleave(len(rows) // len(positions), dim=0)


def permute(tensor: Tensor, dim: int, source: IntArray) -> None:
    """Let each position along `dim` take its content from `source`, in place.

    >>> tensor = torch.tensor([10, 20, 30])
    >>> permute(tensor, 0, np.array([2, 0, 1]))
    >>> tensor.tolist()
    [30, 10, 20]
    """
    if (source != np.arange(len(source))).any():
        tensor.copy_(tensor.index_select(dim, torch.from_numpy(source).to(tensor.device)))


class Slice(torch.autograd.Function):
    """A contiguous copy forward; backward adds straight into the slice of the parameter's `.grad`.

    No full-size zero-filled gradient is made; `torch.autograd.grad` on the full parameter sees none.
    """

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, index: Sequence[Index]) -> Tensor:
        ctx.parameter, ctx.index = parameter, index
        return take(parameter.detach(), index).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        parameter = ctx.parameter
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        put(parameter.grad, ctx.index, gradient, accumulate=True)
        return None, None


def slice_of(tensor: Tensor, index: Sequence[Index]) -> Tensor:
    """A parameter's slice with a gradient, a buffer's view.

    >>> weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    >>> slice_of(weight, (slice(0, 2),)).sum().backward()
    >>> weight.grad.tolist()
    [1.0, 1.0, 0.0]
    """
    if not index:
        return tensor
    if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
        return cast(Tensor, Slice.apply(tensor, index))
    return take(tensor.detach(), index)


def detached_slice(tensor: Tensor, index: Sequence[Index]) -> Tensor:
    """A slice for a pass without gradients: a parameter's as contiguous, and with its `requires_grad`, as the extracted
    network's (torch chooses kernels by both), a buffer's view.

    >>> weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    >>> part = detached_slice(weight, (slice(0, 2),))
    >>> part.tolist(), part.requires_grad, part.grad_fn
    ([1.0, 2.0], True, None)
    """
    part = take(tensor.detach(), index)
    return part.contiguous().requires_grad_(tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part


def duplicate(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, also of a model that keeps computed tensors as attributes (the hook of `nn.utils.weight_norm`).

    >>> network = nn.Linear(2, 1)
    >>> duplicate(network).weight is network.weight
    False
    """
    memo = {} if memo is None else memo
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo.setdefault(id(value), value.detach().clone())
    return copy.deepcopy(model, memo)


Holder = nn.Module | list[Any] | dict[Any, Any]
Owners = Mapping[str, Sequence[tuple[Holder, Any]]]
"""For each tensor, by its first name, what holds it, a module first, and its name or place there."""


def tensor_of(owners: Owners, name: str) -> Tensor:
    """The parameter or buffer itself, whatever hides it for a while.

    >>> network = nn.Linear(2, 1)
    >>> tensor_of(find_owners(network), "weight") is network.weight
    True
    """
    module, local = owners[name][0]
    assert isinstance(module, nn.Module)
    found = module._parameters.get(local)
    return cast(Tensor, module._buffers[local] if found is None else found)


def find_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by every name that it has.

    >>> list(find_modules(nn.Sequential(nn.Linear(2, 1))))
    ['', '0']
    """
    return dict(model.named_modules(remove_duplicate=False))


def find_owners(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """For each parameter and buffer, by its first name: every module that registers it, and its name there.

    >>> network = nn.Sequential(nn.Linear(2, 1, bias=False))
    >>> find_owners(network)
    {'0.weight': [(Linear(in_features=2, out_features=1, bias=False), 'weight')]}
    """
    names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
    owners: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in names.values()}
    for module in model.modules():
        for local, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                owners[names[id(tensor)]].append((module, local))
    return owners


@contextlib.contextmanager
def installed(
    modules: Mapping[str, nn.Module],
    owners: Owners,
    tensors: Mapping[str, Tensor],
    changes: Sequence[Change],
    skipped: Sequence[str],
) -> Iterator[None]:
    """For one forward pass, let `modules` see other tensors and attributes, and skipped blocks be the identity.

    An entry in a module's `__dict__` hides the parameter of the same name; nothing else of the module changes.

    >>> network = nn.Linear(1, 2, bias=False)
    >>> parts = {"weight": torch.ones(1, 1)}
    >>> with installed(find_modules(network), find_owners(network), parts, [Change("", "out_features", 1)], []):
    ...     network(torch.ones(1, 1)).tolist(), network.out_features
    ([[1.0]], 1)
    >>> network.out_features, tuple(network.weight.shape)
    (2, (2, 1))
    """
    undo: list[tuple[Any, Any, Any]] = []
    missing = object()

    def replace(store: Any, name: Any, value: Any) -> None:
        undo.append((store, name, store.get(name, missing) if isinstance(store, dict) else store[name]))
        store[name] = value

    try:
        for name, tensor in tensors.items():
            for holder, local in owners[name]:
                replace(holder.__dict__ if isinstance(holder, nn.Module) else holder, local, tensor)
        for change in changes:
            replace(modules[change.module].__dict__, change.attribute, change.value)
        for path in skipped:
            parent, _, child = path.rpartition(".")
            replace(cast(dict[str, Any], modules[parent]._modules), child, nn.Identity())
        yield
    finally:
        for store, name, value in reversed(undo):
            if value is missing:
                store.pop(name, None)
            else:
                store[name] = value
