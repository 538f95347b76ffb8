"""Costs are formulas, and equal to what a counter sees when the extracted network really runs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import timm
import torch
from networks import TIMM, build
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import ofa
from ofa.costs import complexity


class PeakCounter(TorchDispatchMode):
    """The most bytes of activations alive after any operator."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.ignored = {t.untyped_storage()._cdata for t in (*net.parameters(), *net.buffers())}
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        self.note(x)

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.numel() and storage._cdata not in self.ignored:
            self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.live = {key: row for key, row in self.live.items() if not row[0].expired()}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and "empty" not in func.name():
                self.note(leaf)
        return result


@pytest.mark.parametrize("name", sorted(TIMM))
def test_costs_equal_what_the_extracted_network_does(name: str) -> None:
    model, x = build(name)
    x = x[:1].clone()
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="quick"))
    rng = np.random.default_rng(0)
    for subnet in [supernet.space.largest, supernet.space.smallest, *(supernet.space.sample(rng) for _ in range(20))]:
        net, cost = supernet.extract(subnet).eval(), supernet.cost(subnet)
        attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        with torch.no_grad(), attention, FlopCounterMode(display=False) as counter:
            net(x)
        assert counter.get_total_flops() == 2 * cost.macs
        assert cost.params == sum(p.numel() for p in net.parameters())
        with torch.no_grad(), PeakCounter(net, x) as memory:
            net(x)
        assert memory.peak == cost.peak_bytes


QUICK = ("efficientnet", "mixer", "resnet")  # with grouped and depthwise convolutions, matrix products, and neither


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sorted(TIMM)])
def test_features_are_those_of_the_extracted_network(name: str) -> None:
    model, x = build(name)
    x = x[:1].clone()
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="off"))
    rng = np.random.default_rng(0)
    for subnet in [supernet.space.largest, supernet.space.smallest, *(supernet.space.sample(rng) for _ in range(3))]:
        found = supernet.features(supernet.space.encode(subnet))
        true = complexity(supernet.extract(subnet), x)
        own = {feature: float(values[0]) for feature, values in found.items() if values[0]}
        assert own == pytest.approx({feature: value for feature, value in true.features.items() if value})
        assert own["macs"] == pytest.approx(true.macs) and own["weight_bytes"] >= 4 * true.params * 0.9


def test_channels_that_a_tile_does_not_divide_are_counted() -> None:
    even, uneven = (
        complexity(nn.Conv2d(c, 32, 3, padding=1, bias=False), torch.zeros(1, c, 8, 8)).features for c in (16, 18)
    )
    assert even["padding_4"] == even["padding_16"] == even["kernels_uneven_4"] == 0
    assert uneven["padding_4"] == 64 * 9 * 2 * 32 and uneven["padding_16"] == 64 * 9 * 14 * 32
    assert uneven["macs_uneven_8"] == uneven["macs_conv"] == 64 * 9 * 18 * 32 and uneven["kernels_uneven_16"] == 1
    assert even["weight_bytes"] == 4 * 9 * 16 * 32 and even["read_bytes"] == 4 * 16 * 64
    assert even["written_bytes"] == 4 * 32 * 64 and even["macs_at_64"] == even["macs"]


def test_features_do_not_depend_on_the_batch() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(), nn.Flatten(), nn.Linear(8 * 36, 10))
    one, four = (complexity(net, torch.zeros(n, 3, 8, 8)).features for n in (1, 4))
    assert one == pytest.approx(four)
    assert one["smooth_bytes"] == one["batched_bytes"] == 4 * 8 * 36 and one["operators"] == 1 and one["kernels"] == 2


class Turned(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x.permute(0, 2, 3, 1)).transpose(1, 3)


@pytest.mark.parametrize(
    ("net", "bytes_of", "operators"),
    [
        (nn.ReLU(), {"clipped"}, 0),
        (nn.Hardtanh(), {"clipped"}, 0),
        (nn.BatchNorm2d(8), {"batched"}, 0),
        (nn.LayerNorm([8, 6, 6]), {"normal"}, 1),
        (nn.ELU(), {"smooth"}, 1),
        (Turned(), {"turned", "smooth"}, 1),
        (nn.Flatten(), set(), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_runtimes_fold_is_no_operator(net: nn.Module, bytes_of: set[str], operators: int) -> None:
    """`relu` and `hardtanh` hold the words of smooth ones, `elu` and `tanh`; a copy of a view is one of its bytes."""
    found = complexity(nn.Sequential(nn.Conv2d(3, 8, 3), net), torch.zeros(1, 3, 8, 8)).features
    kinds = ("clipped", "batched", "turned", "smooth", "normal", "summed", "moved", "plain")
    assert {kind for kind in kinds if f"{kind}_bytes" in found} == bytes_of
    assert found.get("operators", 0) == operators


def test_taps_of_grouped_convolutions_do_not_follow_the_channels_of_a_group() -> None:
    example = torch.zeros(1, 32, 8, 8)
    wide, narrow = (complexity(nn.Conv2d(32, 32, 3, groups=n), example).features for n in (4, 16))
    assert wide["taps_grouped"] == narrow["taps_grouped"] == 36 * 9 * 32 and wide["macs"] == 4 * narrow["macs"]
    assert "taps_grouped" not in complexity(nn.Conv2d(32, 32, 3, groups=32), example).features


def test_a_population_of_ten_thousand_takes_a_moment() -> None:
    supernet = ofa.Supernet(timm.create_model("resnet50"), torch.randn(1, 3, 224, 224), ofa.SpaceConfig(proof="off"))
    genomes = np.random.default_rng(0).integers(0, supernet.space.counts, (10_000, len(supernet.space)))
    started = time.perf_counter()
    rows = supernet.costs(genomes)
    seconds = time.perf_counter() - started
    assert {"macs", "params", "peak_bytes"} <= set(rows) and all(v.shape == (10_000,) for v in rows.values())
    assert seconds < 5  # about 0.3 s on an idle core; the bound only catches an accident
    one = supernet.cost(supernet.space.decode(genomes[7]))
    assert (one.macs, one.params, one.peak_bytes) == tuple(int(rows[k][7]) for k in ("macs", "params", "peak_bytes"))
    print(f"{seconds:.2f} s")
