"""Elastic resolution: a choice whose costs are those of the network on smaller images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import build
from torch.utils.flop_counter import FlopCounterMode

import ofa


@pytest.mark.parametrize("name", ["resnet", "mobilenetv3", "convnext"])
def test_costs_follow_the_resolution(name: str) -> None:
    model, x = build(name)
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(resolution=(64, 32, 48), proof="quick")).eval()
    assert supernet.space["resolution"].options == (32, 48, 64)
    assert supernet.space.largest["resolution"] == 64
    rng = np.random.default_rng(0)
    for subnet in [supernet.space.smallest, supernet.space.largest, *(supernet.space.sample(rng) for _ in range(5))]:
        supernet.activate(subnet)
        images = supernet.resize(x)
        assert images.shape[-1] == subnet["resolution"] and (images is x) == (subnet["resolution"] == 64)
        net = supernet.extract().eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            expected = net(images)
        assert counter.get_total_flops() == 2 * len(x) * supernet.cost(subnet).macs
        with torch.no_grad():
            assert torch.equal(supernet(images), expected)


def test_a_population_mixes_resolutions() -> None:
    model, x = build("resnet")
    space = (supernet := ofa.Supernet(model, x, ofa.SpaceConfig(resolution=(32, 64), proof="off"))).space
    genomes = np.random.default_rng(0).integers(0, space.counts, (50, len(space)))
    rows = supernet.costs(genomes)
    assert rows["macs"].astype(int).tolist() == [supernet.cost(space.decode(g)).macs for g in genomes]


def test_resolutions_that_the_network_refuses_are_said() -> None:
    model, x = build("vit")
    with pytest.raises(ValueError, match="resolution 48 is not possible: the model does not run"):
        ofa.Supernet(model, x, ofa.SpaceConfig(resolution=(48, 64), proof="off"))
    with pytest.raises(ValueError, match="for images of shape"):
        ofa.Supernet(torch.nn.Linear(4, 4), torch.randn(1, 4), ofa.SpaceConfig(resolution=(48, 64), proof="off"))
