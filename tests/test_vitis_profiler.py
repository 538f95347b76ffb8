"""Vitis' profiler: MACs, FLOPs, parameters, latency and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import TIMM, build
from patterns import PATTERNS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from vitis_networks import NETWORKS, make

from ofa.costs import complexity
from ofa.search.vitis import model_complexity, profile
from ofa.tracing import slow_attention
from ofa.vitis.utils import profiler


def counted(model: nn.Module, inputs: Any) -> int:
    """FLOPs of the batch by torch's own counter, which does not see into fused operators."""
    unfused = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), slow_attention(), unfused:
        if isinstance(inputs, dict):
            model(**inputs)
        else:
            model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("name", "make"), [*((n, build) for n in TIMM), *((n, make) for n in NETWORKS)])
def test_macs_are_those_of_torchs_counter(name: str, make: Callable[[str], tuple[nn.Module, Any]]) -> None:
    """Convolutional networks and transformers; several inputs."""
    model, inputs = make(name)
    batch = len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))
    flops, params = model_complexity(model, inputs, return_flops=True)
    assert flops * batch == counted(model, inputs) > 0
    assert params == sum(p.numel() for p in model.parameters())
    assert model_complexity(model, inputs) == (flops // 2, params)


@pytest.mark.parametrize("name", PATTERNS)
def test_macs_of_every_pattern(name: str) -> None:
    """Functional operators, shuffles, attention by hand, transposed convolutions of all dimensions."""
    model, inputs = PATTERNS[name].build()
    found = complexity(model, inputs)
    assert 2 * found.macs * found.batch == counted(model, inputs)


class Own(nn.Conv2d):
    """A subclass, which Vitis' counter does not see."""


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.weight = Own(3, 4, 3, padding=1), nn.Parameter(torch.randn(5, 4, 1, 1))
        self.own.bias.requires_grad_(False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.tied.weight

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        x = self.again(self.tied(self.own(x).movedim(1, -1))).movedim(-1, 1)
        return nn.functional.conv2d(x, self.weight) * scale


def test_the_table_is_by_type_and_counts_functions_for_their_module(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing here need be prunable; frozen parameters are no trainable ones, shared ones count once."""
    model, inputs = Functional(), (torch.randn(2, 3, 8, 8), torch.tensor(2.0))
    found = complexity(model, inputs)
    assert (found.params, found.trainable) == (3 * 4 * 9 + 4 + 16 + 20, 3 * 4 * 9 + 16 + 20)
    assert {row.type: (row.modules, row.macs, row.params) for row in found.types} == {
        "Own": (1, 64 * 3 * 4 * 9, 3 * 4 * 9 + 4),
        "Functional": (1, 64 * 4 * 5, 20),
        "Linear": (2, 2 * 64 * 16, 16),
    }
    assert model_complexity(model, inputs, readable=True, verbose=True) == ("10.24 k", "144")
    assert (
        "Functional" in (table := " ".join(capsys.readouterr().err.split()))
        and "148 parameters, 144 trainable" in table
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_are_by_module_as_in_vitis(name: str) -> None:
    """In total those of the whole network."""
    model, inputs = make(name)
    macs, params = model_complexity(model, inputs)
    counted = profiler.count_macs(model, inputs)
    assert list(counted) == list(model.modules()) and sum(counted.values()) == macs
    assert profiler.count_flops(nn.DataParallel(model), inputs) == {module: 2 * n for module, n in counted.items()}
    rows = profiler.count_params(model)
    assert rows == {n: {"trainable": sum(p.numel() for p in m.parameters())} if list(m.parameters()) else {}
                    for n, m in model.named_modules() if not list(m.children())}  # fmt: skip
    assert sum(row.get("trainable", 0) for row in rows.values()) == params


def test_counts_of_functions_and_of_frozen_and_shared_parameters() -> None:
    """A function counts for its module, also in a network whose modules have modules inside; none counts twice."""
    model, inputs = Functional(), (torch.randn(2, 3, 8, 8), torch.tensor(2.0))
    assert profiler.count_macs(model, inputs) == {
        model: 64 * 4 * 5, model.own: 64 * 3 * 4 * 9, model.tied: 64 * 16, model.again: 64 * 16,
    }  # fmt: skip
    assert profiler.count_params(model) == {
        "": {"trainable": 20}, "own": {"trainable": 108, "non-trainable": 4}, "tied": {"trainable": 16}, "again": {},
    }  # fmt: skip


def test_latency_and_memory() -> None:
    """The network is as it was; memory is of activations, of the whole batch."""
    model, x = (
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)).train(),
        torch.ones(4, 3, 8, 8),
    )
    latency_ms, peak_bytes = profile(model, x, num_iters=3)
    assert 0 < latency_ms < 1000 and model.training
    assert peak_bytes == 4 * 4 * 64 * (3 + 8 + 8)
    for wrong in (0, True, 2.5, "3"):
        with pytest.raises(ValueError, match=f"num_iters is a whole number of at least 1, got {wrong!r}"):
            profile(model, x, num_iters=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the model does not run on the example inputs"):
        profile(model, x[:, :2])
