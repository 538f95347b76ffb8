"""A randomised network on examples, where plans are tried: the outputs of sliced, extracted and zeroed networks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ofa.conversion.holders import with_containers
from ofa.conversion.randomised import Examples
from ofa.conversion.reference import skipping, surviving
from ofa.interruptions import interrupts
from ofa.slicing import Change, Index, Owners, Plan, find_modules, find_owners, installed, reduced, take
from ofa.tracing import slow_attention

Outputs = dict[str, Tensor]
"""Floating tensors by where they came out: of the network, `output 0`, or of a call of a module, `head:0 0`."""
SELECTING = ("topk", "sort", "argsort", "nonzero", "nms", "_unique2", "unique_consecutive", "masked_select")


class DoesNotRun(Exception):
    """The network's own code fails on a smaller network; the message is what it said."""


@dataclass
class Bench:
    """`network` is compared on `examples`, which are `cheap` if they are smaller than those that were given.

    Outputs of its modules are taken, too, `inside` the network; with `before_selection` those up to the first selection
    by value (the sorting of boxes) alone: what follows it may change places for a difference in the last digit.
    """

    network: nn.Module
    examples: Examples
    cheap: bool = False
    inside: bool = False
    before_selection: bool = False
    modules: Mapping[str, nn.Module] = field(init=False)
    owners: Owners = field(init=False)
    tensors: Mapping[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.modules = find_modules(self.network)
        self.owners = with_containers(self.network, find_owners(self.network))
        self._memory: dict[str, tuple[Tensor, Sequence[Index]]] = {}
        self.tensors = dict((*self.network.named_parameters(), *self.network.named_buffers()))

    def masked(self, name: str, kept: Sequence[Index]) -> Tensor:
        """A tensor with zeros where an index keeps nothing, in memory that the next call writes again."""
        tensor = self.tensors[name].detach()
        if name not in self._memory:
            self._memory[name] = torch.zeros_like(tensor), ()
        memory, before = self._memory[name]
        self._memory[name] = memory, kept
        take(memory, before).zero_()
        take(memory, kept).copy_(take(tensor, kept))
        return memory

    def whole(self) -> Outputs:
        """The outputs of the network as it is."""
        return self.outputs(self.network)

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """The shapes of the outputs of the network as it is."""
        with torch.no_grad():
            return {key: tensor.shape for key, tensor in self.whole().items()}

    def sliced(self, plan: Plan) -> Outputs:
        """The outputs on the slices of a plan."""
        tensors = {name: take(self.tensors[name], index).contiguous() for name, index in plan.indices.items()}
        with installed(self.modules, self.owners, tensors, plan.changes, plan.skipped):
            return self.outputs(self.network)

    def extracted(self, plan: Plan) -> Outputs:
        """The outputs of the network that is extracted by a plan."""
        return self.outputs(reduced(self.network, plan))

    def zeroed(
        self, tensors: Mapping[str, Tensor], skipped: Sequence[str], mixing: bool, changes: Sequence[Change] = ()
    ) -> Outputs:
        """The outputs of the whole network with other tensors, in which what is removed is zero.

        With `mixing`, statistics over channels leave out those that are zero.
        """
        with installed(self.modules, self.owners, tensors, changes, ()), skipping(self.modules, skipped):
            if not mixing:
                return self.outputs(self.network)
            with slow_attention(), surviving():  # a fused encoder hides its statistics
                return self.outputs(self.network)

    def outputs(self, model: nn.Module) -> Outputs:
        """Run a network of these modules; always with the same random numbers.

        Raises:
            DoesNotRun: its code fails.
        """
        found: Outputs = {}
        calls: dict[str, int] = {}
        watch: Any = Selections() if self.before_selection else contextlib.nullcontext()

        def note(name: str, result: Any) -> None:
            if self.before_selection and watch.begun:
                return
            calls[name] = calls.get(name, -1) + 1
            found.update(floating(f"{name}:{calls[name]}", result, clone=True))

        hooks = [m.register_forward_hook(noting(note, n)) for n, m in model.named_modules() if n and self.inside]
        try:
            with torch.random.fork_rng(devices=[]), watch, own_errors():
                torch.manual_seed(0)
                output = model(*self.examples.args, **self.examples.kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        if not (self.before_selection and watch.begun):
            found.update(floating("output", output))
        return found

    def works(self) -> bool:
        """Whether all outputs are finite; from now on up to the first selection by value, if there is one.

        Raises:
            DoesNotRun: the network's code fails.
        """
        watch = Selections()
        with watch, torch.no_grad():
            outputs = self.whole()
        self.inside = self.before_selection = watch.begun
        return all(bool(t.isfinite().all()) for t in outputs.values())


def noting(note: Callable[[str, Any], None], name: str) -> Callable[[nn.Module, Any, Any], None]:
    return lambda _, __, result: note(name, result)


def floating(prefix: str, result: Any, clone: bool = False) -> Outputs:
    """The floating tensors of a result; copies of those that later operators may write into."""
    leaves = [t for t in tree_leaves(plain(result)) if isinstance(t, Tensor) and t.is_floating_point()]
    return {f"{prefix} {i}": t.clone() if clone else t for i, t in enumerate(leaves)}


def plain(result: Any) -> Any:
    """Results that are objects, by their attributes."""
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, (Tensor, list, tuple)) or not hasattr(result, "__dict__"):
        return result
    return dict(vars(result))


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """Errors of the network's own code as `DoesNotRun`; want of memory, and what a signal raised, pass through."""
    try:
        yield
    except Exception as problem:
        if interrupts(problem):
            raise
        first = (str(problem).splitlines() or [""])[0][:200]
        raise DoesNotRun(f"the smaller network does not run: {type(problem).__name__}: {first}") from problem


class Selections(TorchDispatchMode):
    """Whether an operator has picked or ordered floating values by now."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.begun = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in SELECTING:
            self.begun = True
        return func(*args, **(kwargs or {}))


def distance(a: Outputs, b: Outputs) -> float | None:
    """The largest difference relative to the second's largest value; None if their shapes differ."""
    if a.keys() != b.keys() or any(a[key].shape != b[key].shape for key in a):
        return None
    worst = 0.0
    for key, y in b.items():
        if y.numel():
            gap = float((a[key] - y).abs().max()) / float(y.abs().max().clamp_min(1e-12))
            worst = gap if not np.isfinite(gap) else max(worst, gap)
    return worst
