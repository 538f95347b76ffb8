"""The proof of a conversion notices faults that are put into it on purpose, and misses them where it is blinded."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from networks import TIMM
from networks import build as build_network
from patterns import PATTERNS
from torch import nn

import ofa
import ofa.conversion.benches
import ofa.conversion.proof
from experiments.coverage.families import build, families
from experiments.proof.power import Power, power

PATTERNS_WITH_FAULTS = ("grouped", "channel shuffle", "transformer encoder", "weight standardised")
NETWORKS_WITH_FAULTS = ("vit", "densenet")
SMALL_IN_TIMM = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout", "test_byobnet")
NAMES = (*PATTERNS_WITH_FAULTS, *NETWORKS_WITH_FAULTS, *SMALL_IN_TIMM, "shufflenet_v2_x0_5")
FAULTS = 40


def network(name: str) -> tuple[nn.Module, object]:
    """A small network in evaluation mode, and an example input."""
    if name in PATTERNS:
        return PATTERNS[name].build()
    if name in TIMM:
        return build_network(name)
    library = timm.create_model if name in SMALL_IN_TIMM else torchvision.models.get_model
    return library(name).eval(), torch.randn(1, 3, 64, 64)


def measured(name: str) -> Power:
    return power(name, *network(name), FAULTS)


@pytest.mark.parametrize("name", NAMES)
def test_every_fault_that_changes_the_function_is_noticed(name: str) -> None:
    found = measured(name)
    assert found.missed == []
    assert found.tried >= 25 and found.noticed == found.tried
    assert found.sensitivity >= 1e-2


def test_a_proof_that_tolerates_everything_misses_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts faults must be able to say that some were missed."""
    monkeypatch.setattr(ofa.conversion.proof, "TOLERANCE", 1e9)
    found = measured("grouped")
    assert len(found.missed) > 10 and found.noticed == found.tried - len(found.missed)


def test_a_proof_on_a_network_of_zeros_misses_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing moves the output, sliced and zeroed are equal whatever is sliced."""

    def zeros(model: nn.Module, *_: object, **__: object) -> nn.Module:
        network = copy.deepcopy(model).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        return network

    monkeypatch.setattr(ofa.conversion.benches, "randomised", zeros)
    found = power("grouped", *network("grouped"), FAULTS, ofa.SpaceConfig(unproved="keep"))
    assert len(found.missed) > 10 and found.sensitivity == 0


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), families())
def test_every_fault_in_a_family_is_noticed(family: str, name: str) -> None:
    """Hours."""
    found = power(name, *build(family, name), 100)
    assert found.missed == []
    assert found.tried == found.noticed
