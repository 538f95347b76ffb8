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
