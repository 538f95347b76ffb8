"""A rule of the tracing engine that fails freezes what its operator touches, and is counted; nothing else happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from patterns import PATTERNS, Net, conv
from torch import Tensor, nn
from torch.nn import functional as F

import ofa
from ofa.backbone import as_call
from ofa.conversion import Converter, Examples, silent
from ofa.slicing import duplicate
from ofa.tracing import operators

NAMES = sorted({rule.__name__ for rule in operators.RULES.values()} | {"unknown"})


def between(run: Callable[[Tensor], Tensor]) -> tuple[nn.Module, Any]:
    """A function between two convolutions of 16 channels."""
    return Net(lambda net, x: net.out(run(net.a(x))), a=conv(3, 16), out=conv(16, 4)), torch.randn(2, 3, 12, 12)


USED: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "along_dimension": PATTERNS["qkv"].build,
    "attention": PATTERNS["multihead attention"].build,
    "batch_norm": PATTERNS["conv1d"].build,
    "concatenation": PATTERNS["class token"].build,
    "convolution": PATTERNS["grouped"].build,
    "embedding": PATTERNS["positions from a table"].build,
    "factory": lambda: between(lambda x: (torch.zeros_like(x), x)[1]),
    "group_norm": PATTERNS["group norm"].build,
    "index": lambda: between(lambda x: x[:, :, torch.arange(6)]),
    "layer_norm": PATTERNS["layer norm"].build,
    "matrix_product": PATTERNS["weight tying"].build,
    "movement": PATTERNS["channel shuffle"].build,
    "neighbourhood": PATTERNS["interpolation"].build,
    "padding": lambda: between(lambda x: F.pad(x, (1, 1, 1, 1))),
    "pointwise": PATTERNS["gate"].build,
    "reduction": PATTERNS["squeeze and excitation"].build,
    "same": lambda: between(lambda x: x.clone()),
    "unfolding": PATTERNS["unfolding"].build,
    "unknown": lambda: between(lambda x: torch.linalg.matrix_exp(x / 100)),
    "weight_norm": PATTERNS["weight norm"].build,
}


def boom(*_: Any) -> Any:
    raise RuntimeError("boom")


def broken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one rule fail wherever it is used."""
    for operator, rule in list(operators.RULES.items()):
        if rule.__name__ == name:
            monkeypatch.setitem(operators.RULES, operator, boom)
    if name in ("pointwise", "unknown"):  # used for operators that are not registered, too
        monkeypatch.setattr(operators, name, boom)


def converter(model: nn.Module, example: Any) -> Converter:
    config = ofa.SpaceConfig(divisor=4, proof="off")
    return Converter(duplicate(model), model, Examples(*as_call(example)), config, {}, silent)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_that_fails_freezes_and_is_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, example = USED[name]()
    right = converter(model, example)
    assert right.trace.faults == ()
    whole = right.run()
    broken(name, monkeypatch)
    wrong = converter(model, example)
    assert wrong.trace.faults and all("failed, RuntimeError: boom (" in fault for fault in wrong.trace.faults)
    found = wrong.run()
    if name != "unknown":  # which freezes anyway
        assert found.elastic < whole.elastic
    frozen = {reason for _, reason in wrong.trace.demands.frozen}
    assert any("failed, RuntimeError: boom" in reason for reason in frozen)


@pytest.mark.parametrize("name", ["matrix_product", "movement", "batch_norm"])
def test_labels_that_do_not_fit_count_as_a_failure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, example = USED[name]()
    for operator, rule in list(operators.RULES.items()):
        if rule.__name__ == name:
            monkeypatch.setitem(operators.RULES, operator, lambda *_: (torch.ones(3, 5, dtype=torch.int64),))
    traced = converter(model, example).trace
    assert traced.faults and all("ValueError" in fault for fault in traced.faults)
