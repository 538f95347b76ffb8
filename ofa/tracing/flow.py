"""Label flow: one forward pass of a network under the tracer, with the rules of all operators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ofa.interruptions import interrupts
from ofa.tracing import contraction, movement, normalisation
from ofa.tracing.lifetimes import Lifetimes
from ofa.tracing.operators import rule_for
from ofa.tracing.tracer import ModuleCall, Trace, Tracer, Tracked, evaluating

RULES = (contraction, movement, normalisation)  # importing them registers their rules


def trace(model: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    """Run `model` once, in evaluation mode and without gradients, and follow the labels of its parameters.

    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> found = trace(network, (torch.zeros(1, 4),), {})
    >>> [labels.tolist() for labels in found.parameters["0.weight"]]  # one for every index of every dimension
    [[1, 2, 3], [4, 5, 6, 7]]
    >>> [(term.module, term.constant, [len(labels) for labels in term.vectors]) for term in found.macs]
    [('0', 4, [3]), ('2', 1, [2, 3])]

    Raises:
        ValueError: the model does not run on the inputs; the original error is quoted.
    """
    memory = Lifetimes()
    tracer = Tracer(model, rule_for, memory)
    for tensor in tree_leaves((inputs, kwargs)):
        if isinstance(tensor, Tensor):
            tracer.known[tensor] = Tracked(dependent=True, token=next(tracer.tokens))
            memory.note(tensor, ())
            tracer.batch = max(tracer.batch, tensor.shape[0] if tensor.ndim else 1)
    with evaluating(model), torch.no_grad(), slow_attention(), following(model, tracer), tracer:
        try:
            output = model(*inputs, **kwargs)
        except Exception as error:
            if interrupts(error):
                raise
            shapes = tree_map(lambda t: tuple(t.shape) if isinstance(t, Tensor) else t, (inputs, dict(kwargs)))
            hint = mismatch(model, (inputs, kwargs))
            raise ValueError(f"the model does not run on the example inputs {shapes}: {hint}{error}") from error
    for tensor in tree_leaves(output):
        if isinstance(tensor, Tensor):
            for layer in tracer.tracked(tensor).layers:
                tracer.labels.freeze(layer, "the network's output")
    return tracer.traced()


def mismatch(model: nn.Module, inputs: Any) -> str:
    """How the devices or floating types of a model and its inputs differ, if they do."""
    given = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    own = [*model.parameters(), *model.buffers()]
    devices, types = (
        ({str(t.device) for t in tensors} for tensors in (own, given)),
        ({str(t.dtype) for t in tensors if t.is_floating_point()} for tensors in (own, given)),
    )
    for what, (ours, theirs) in (("device", devices), ("type", types)):
        if theirs and ours and theirs.isdisjoint(ours):
            named = (
                f"the model's {what} is {' and '.join(sorted(ours))}, that of the inputs {' and '.join(sorted(theirs))}"
            )
            return f"{named}; bring them together first. "
    return ""


@contextlib.contextmanager
def slow_attention() -> Iterator[None]:
    """Keep `nn.MultiheadAttention` and `nn.TransformerEncoder` off the fused path that hides their operators.

    >>> with slow_attention():
    ...     torch.backends.mha.get_fastpath_enabled()
    False
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def following(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Keep the tracer's module stack, and note every module that may be a residual block."""
    entries: list[tuple[str, int, tuple[int, ...], int | None] | None] = []
    handles = []

    def enter(name: str, args: Any, kwargs: Any) -> None:
        tracer.stack.append(name)
        tracer.ran.add(name)
        tracer.note_sizes((args, kwargs))
        single = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        known = (tracer.tracked(args[0]).token, tuple(args[0].shape), tracer.memory.index(args[0])) if single else None
        entries.append((name, *known) if known else None)

    def leave(result: Any) -> None:
        tracer.note_sizes(result)
        tracer.stack.pop()
        tracer.note_sizes(result)
        entry = entries.pop()
        if entry is None or not isinstance(result, Tensor) or tuple(result.shape) != entry[2]:
            return
        known = tracer.tracked(result)
        residual = entry[1] in known.roots and known.dependent
        buffers = (entry[3], tracer.memory.index(result))
        tracer.calls.append(ModuleCall(entry[0], entry[1], known.token, residual, buffers))

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _, a, k, name=name: enter(name, a, k), with_kwargs=True))
        handles.append(module.register_forward_hook(lambda _, __, result: leave(result)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
