"""Randomised networks, on which proofs compare: the signal reaches the output, the user's network stays as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from ofa.conversion import Examples
from ofa.conversion.bench import distance
from ofa.conversion.randomised import randomised

NAMES = ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5")


def example() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network(name: str) -> nn.Module:
    return torchvision.models.get_model(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_signal_reaches_the_output(name: str) -> None:
    """With fresh weights and statistics it does not: the output of a fresh MobileNetV2 hardly depends on its input."""
    x = example()
    net = randomised(network(name), Examples((x,), {}))
    with torch.no_grad():
        moved = distance({"output": net(-0.5 * x)}, {"output": net(x)})
    assert moved is not None and moved >= 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_batch_statistics_are_those_of_what_passes(name: str) -> None:
    x = example()
    net = randomised(network(name), Examples((x,), {}))
    norms = {module: name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    wrong: list[str] = []

    def compare(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)
        variance = values.var(dim=1, unbiased=False)
        expected = variance.clamp_min(0.05 * float(variance.mean()))  # dead channels are not blown up
        mean_fits = torch.allclose(module.running_mean, values.mean(dim=1), rtol=1e-3, atol=1e-4)
        if not (mean_fits and torch.allclose(module.running_var, expected, rtol=1e-3, atol=1e-6)):
            wrong.append(norms[module])

    for module in norms:
        module.register_forward_pre_hook(compare)
    with torch.no_grad():
        net(x)
    assert norms and wrong == []


@pytest.mark.parametrize("everything", [False, True])
def test_no_parameter_is_constant_and_neighbours_differ(everything: bool) -> None:
    """Units that change places are noticed only if their values differ."""
    net = randomised(network("mobilenet_v3_small"), Examples((example(),), {}), everything=everything)
    vectors = {name: p for name, p in net.named_parameters() if p.ndim == 1 and name.endswith(("weight", "bias"))}
    assert all(float(p.detach().std()) > 0 for p in net.parameters())
    assert [name for name, p in vectors.items() if bool((p[1:] == p[:-1]).any())] == []


def flags(net: nn.Module) -> Iterator[bool]:
    return (module.training for module in net.modules())


@pytest.mark.parametrize("everything", [False, True])
def test_the_original_keeps_its_weights_statistics_and_flags(everything: bool) -> None:
    net = network("mobilenet_v2").train()
    net.features[3].eval()
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    before = list(flags(net))
    copy = randomised(net, Examples((example(),), {}), everything=everything)
    assert list(flags(net)) == before and not any(flags(copy))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())
    assert any(not torch.equal(tensor, weights[name]) for name, tensor in copy.state_dict().items())


class Positioned(nn.Module):
    """Tokens with positions, of the deviation that such tables start with."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.table = nn.Parameter(torch.randn(9, 16) * 0.02), nn.Parameter(torch.randn(9, 9) * 0.02)
        self.value = nn.Linear(16, 16)
        nn.init.orthogonal_(self.value.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.value(x + self.positions)
        return (self.table + tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens


def test_tables_are_as_large_as_what_they_meet() -> None:
    """Or a wrong slice of a table would move the output by less than the tolerance."""
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    net = Positioned()
    other = randomised(net, Examples((x,), {}))
    for name in ("positions", "table"):
        before, after = net.get_parameter(name), other.get_parameter(name)
        assert after.std() >= 0.199
        assert torch.allclose(F.normalize(after), F.normalize(before), atol=1e-5)  # rows are scaled each for itself
    assert torch.allclose(F.normalize(other.value.weight), net.value.weight, atol=1e-5)
    assert (other.value.weight.norm(dim=1) <= 1.5).all()
