"""What each ATen operator does to channel labels: the register of rules, and the pointwise one.

A rule takes the tracer, the call and its result, and gives the label layers of the result: a tuple of tensors, or a
list of such tuples where the operator has several outputs. No rule knows an architecture or a layer class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ofa.interruptions import interrupts
from ofa.tracing.tracer import Call, Tracer

Layers = tuple[Tensor, ...]
Rule = Callable[[Tracer, Call, Any], "Layers | list[Layers]"]
RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of every operator in `names`, with and without trailing underscore."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            RULES[name] = RULES[name + "_"] = function
        return function

    return register


def rule_for(func: Any, call: Call) -> Rule:
    """The rule of an operator; the one that freezes where nobody knows the operator, or where its rule fails."""
    found = RULES.get(call.name)
    if found is None and torch.Tag.pointwise in func.tags:
        found = pointwise
    return guarded(found or (unknown if call.tensors else factory))


def guarded(found: Rule) -> Rule:
    """The rule; an error in it, or labels that do not fit the result, freeze what the operator touches."""

    def run(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
        try:
            layers = found(tracer, call, result)
            check(layers, result)
            return layers
        except Exception as error:
            if interrupts(error):
                raise
            fault = f"the rule of operator {call.name} failed, {type(error).__name__}: {str(error)[:80]}"
            tracer.faults.append(f"{fault} ({tracer.why})")
            return frozen(tracer, call, result, f"{fault} ({tracer.why})")

    return run


def check(layers: Layers | list[Layers], result: Any) -> None:
    """Raise a ValueError if labels do not stand over the elements of the result."""
    outputs = [result] if isinstance(result, Tensor) else list(result) if isinstance(result, (tuple, list)) else []
    rows = layers if isinstance(layers, list) else [layers] * len(outputs)
    for output, own in zip(outputs, rows, strict=True):
        shape = output.shape if isinstance(output, Tensor) else ()
        if any(r.ndim != len(shape) or any(n not in (1, m) for n, m in zip(r.shape, shape, strict=True)) for r in own):
            raise ValueError(f"labels of shape {[tuple(r.shape) for r in own]} over {tuple(shape)}")


@rule(
    "empty_like zeros_like ones_like full_like rand_like randn_like new_empty new_zeros new_ones new_full "
    "_local_scalar_dense"
)
def factory(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    """New values belong to no channel; their size follows the sizes they were made from."""
    return [() for _ in result] if isinstance(result, (tuple, list)) else ()


def unknown(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    """Freeze everything that an operator without a rule touches, and say so."""
    return frozen(tracer, call, result, f"operator {call.name} is not understood ({tracer.why})")


def frozen(tracer: Tracer, call: Call, result: Any, why: str) -> Layers | list[Layers]:
    """Keep everything that an operator touches."""
    for tensor in call.tensors:
        for layer in tracer.tracked(tensor).layers:
            tracer.labels.freeze(layer, why)
    return factory(tracer, call, result)


@rule("hardswish prelu _prelu_kernel copy lerp")
def pointwise(tracer: Tracer, call: Call, result: Any) -> Layers:
    if len(call.tensors) == 1:
        return tracer.tracked(call.tensors[0]).layers
    merged = tuple(tracer.labels.merge([tracer.operand(t) for t in call.tensors], tracer.why))
    if call.name in ("add", "add_") and all(tracer.tracked(t).dependent for t in call.tensors):
        tracer.labels.summed += [layer.numpy().ravel() for layer in merged]
    return merged


@rule("clone _to_copy detach alias contiguous lift_fresh lift_fresh_copy native_dropout bernoulli")
def same(tracer: Tracer, call: Call, result: Any) -> Layers | list[Layers]:
    layers = tracer.tracked(call.tensors[0]).layers
    return layers if isinstance(result, Tensor) else [layers for _ in result]
