"""What a conversion compares, what it cannot show, and what it leaves alone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from networks import small
from patterns import PATTERNS, Net
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import ofa
from experiments.proof.faults import exchanged, positions, swapped, wrong_labels, wrong_slice
from experiments.proof.power import Recorder, recording
from ofa.backbone import as_call
from ofa.conversion import Conversion, Converter, Examples, silent
from ofa.conversion.proof import MOVES
from ofa.slicing import duplicate
from ofa.tracing.operators import RULES


def conversion(model: nn.Module, example: Any, config: ofa.SpaceConfig) -> Conversion:
    return Converter(duplicate(model), model, Examples(*as_call(example)), config, {}, silent).run()


def proof_of(model: nn.Module, example: Any, config: ofa.SpaceConfig | None = None) -> Recorder:
    """The last proof of a network's conversion."""
    with recording():
        ofa.Supernet(model, example, config)
    return Recorder.last


# ------------------------------------------------------------ statistics over channels


class Residual(nn.Module):
    """Two residual blocks with LayerNorm, one of them optional."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(6, 16), nn.Linear(16, 4)
        self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(16)])
        self.layers = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x).relu())
        return self.out(x)


def layer_normed() -> tuple[nn.Module, Tensor]:
    return Residual(), torch.randn(2, 6)


def vision_transformer() -> tuple[nn.Module, Tensor]:
    return timm.create_model("test_vit").eval(), torch.randn(1, 3, 64, 64)


MIXED: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "perceptron": layer_normed,
    "vision transformer": vision_transformer,
    "transformer encoder": PATTERNS["transformer encoder"].build,  # its statistics are in one fused operator
}


@pytest.mark.parametrize("name", MIXED)
def test_a_group_that_statistics_mix_is_compared_with_zeros_tensor_by_tensor(name: str) -> None:
    """Channels of one tensor that change places are noticed in the row in which all blocks run."""
    proof = proof_of(*MIXED[name](), ofa.SpaceConfig(divisor=4))
    assert proof.mixed and set(proof.ways.values()) == {"sliced = zeroed"}
    group = max(proof.mixed, key=lambda g: len(proof.groups.groups[g].members))
    points, proof.bench, parts = proof.rounds[0]
    point = proof.sized(points[1], parts)
    plan, both = proof.plan(*point), proof.on_both_sides(1)
    assert proof.error(plan, *point, both) is None
    for tensor, dim, _ in proof.groups.groups[group].members:
        size = proof.bench.tensors[tensor].shape[dim]
        assert len(positions(plan.indices[tensor][dim])) > 1
        swap = wrong_slice(tensor, dim, size, swapped)
        assert proof.error(swap.plan(proof, point), *point, both) is not None, swap
        wrong = wrong_labels(tensor, dim, exchanged).proof(proof)
        assert wrong.error(wrong.plan(*point), *point, both) is not None, (tensor, dim)


class Scaled(nn.Module):
    """Attention of one head, scaled by its size, which the operator reads from its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 16) for _ in range(3))
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).unsqueeze(1) for layer in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(3 * query, 3 * key, value).squeeze(1))


def test_attention_scaled_by_its_size_is_compared_with_the_size_that_is_left() -> None:
    proof = proof_of(Scaled(), torch.randn(2, 7, 6), ofa.SpaceConfig(divisor=4))
    assert proof.failures == {} and proof.ways["query.width"] == "sliced = zeroed"


# ------------------------------------------------------------ what moves no output


def test_a_kernel_whose_border_lies_outside_of_small_images_is_shown_on_larger_ones() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=8, padding=1), nn.Conv2d(8, 8, 7, padding=3), nn.Conv2d(8, 4, 1))
    found = conversion(net, torch.randn(1, 3, 16, 16), ofa.SpaceConfig(divisor=4))
    kernel = "1.kernel"
    assert found.proved.ways[kernel] == "sliced = zeroed" and found.proved.moved[kernel] >= MOVES


def without_effect(net: nn.Module, x: Tensor) -> Tensor:
    hidden = F.conv2d(x, net.a, padding=1).relu()
    return net.last(x + 0.0 * F.conv2d(hidden, net.b, padding=1))


def ineffective() -> tuple[nn.Module, Tensor]:
    """A network, `a.width` of which can move nothing."""
    a, b = nn.Parameter(torch.randn(16, 3, 3, 3)), nn.Parameter(torch.randn(3, 16, 3, 3))
    return Net(without_effect, a=a, b=b, last=nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 12, 12)


def test_a_choice_that_moves_no_output_is_frozen_as_not_shown() -> None:
    found = conversion(*ineffective(), ofa.SpaceConfig(divisor=4))
    assert found.proved.failures["a.width"].startswith("not shown: without it the output moves by 0e+00")
    assert found.proved.ways["a.width"] == "not shown"
    assert "a.width" not in [one.choice.name for one in found.choices]
    supernet = ofa.Supernet(*ineffective(), ofa.SpaceConfig(divisor=4))
    assert any(layer.reason.startswith("not shown") for layer in supernet.report.layers)


def test_a_choice_that_moves_no_output_may_be_kept_and_is_said_to_be_not_shown() -> None:
    found = conversion(*ineffective(), ofa.SpaceConfig(divisor=4, unproved="keep"))
    assert not found.proved.failures and "a.width" in [one.choice.name for one in found.choices]
    assert found.proved.ways["a.width"] == "not shown" and found.proved.moved["a.width"] == 0


def test_a_branch_whose_module_moves_is_shown_inside_the_network() -> None:
    """Its output is multiplied by zero later, but what its own last layer gives can be compared."""
    branch = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
    model = Net(lambda net, x: net.last(x + 0.0 * net.branch(x)), branch=branch, last=nn.Conv2d(3, 4, 3))
    found = conversion(model, torch.randn(2, 3, 12, 12), ofa.SpaceConfig(divisor=4))
    assert found.proved.ways == {"branch.0.width": "sliced = zeroed, inside the network"} and not found.proved.failures
    assert found.proved.moved["branch.0.width"] >= MOVES


# ------------------------------------------------------------ what is not the network's own error


class OutOfTime(Exception):
    """Raised by a signal's handler."""


@pytest.fixture
def alarm() -> Iterator[None]:
    def handler(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, handler)
    yield
    signal.signal(signal.SIGALRM, before)


def disturbed(disturb: Callable[[], None], always: bool = False) -> tuple[nn.Module, Tensor]:
    """A network in whose forward something happens where it is smaller."""

    def run(net: nn.Module, x: Tensor) -> Tensor:
        if always or net.a.weight.shape[0] < 16:
            disturb()
        return net.b(net.a(x).relu())

    return Net(run, a=nn.Linear(6, 16), b=nn.Linear(16, 4)), torch.randn(2, 6)


def ring() -> None:
    signal.raise_signal(signal.SIGALRM)


def fail(error: Exception) -> Callable[[], None]:
    def disturb() -> None:
        raise error

    return disturb


@pytest.mark.parametrize("proof", ["full", "off"])
def test_a_time_out_in_a_smaller_network_passes_through(alarm: None, proof: Any) -> None:
    with pytest.raises(OutOfTime):
        ofa.Supernet(*disturbed(ring), ofa.SpaceConfig(divisor=4, proof=proof))


def test_a_time_out_while_tracing_passes_through(alarm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutOfTime):
        ofa.Supernet(*disturbed(ring, always=True))
    monkeypatch.setitem(RULES, "addmm", lambda *_: ring())
    with pytest.raises(OutOfTime):
        ofa.Supernet(*disturbed(lambda: None))


@pytest.mark.parametrize("proof", ["full", "off"])
@pytest.mark.parametrize("error", [MemoryError("no"), torch.OutOfMemoryError("no")])
def test_want_of_memory_in_a_smaller_network_passes_through(error: Exception, proof: Any) -> None:
    with pytest.raises(type(error), match="no"):
        ofa.Supernet(*disturbed(fail(error)), ofa.SpaceConfig(divisor=4, proof=proof))


@pytest.mark.parametrize("proof", ["full", "off"])
def test_any_other_error_in_a_smaller_network_freezes(proof: Any) -> None:
    supernet = ofa.Supernet(*disturbed(fail(KeyError("odd"))), ofa.SpaceConfig(divisor=4, proof=proof))
    assert not supernet.space.choices
    assert any("does not run: KeyError: 'odd'" in layer.reason for layer in supernet.report.layers)


# ------------------------------------------------------------ what is left alone


@pytest.mark.parametrize("proof", ["full", "quick", "off"])
def test_a_network_in_training_mode_keeps_its_statistics_and_flags(proof: Any) -> None:
    model = small(in_chans=3).train()
    model[0][1].eval()
    flags, state = [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    supernet = ofa.Supernet(model, torch.randn(2, 3, 16, 16), ofa.SpaceConfig(proof=proof))
    for net in (model, supernet.model):
        assert [m.training for m in net.modules()] == flags
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


# ------------------------------------------------------------ attention and detection


class Grouped(nn.Module):
    """Attention in which two heads share each key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(6, 32), nn.Linear(32, 5)
        self.query, self.key, self.value = nn.Linear(32, 64), nn.Linear(32, 32), nn.Linear(32, 32)
        self.project = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        query, key, value = (
            layer(x).unflatten(-1, (-1, 8)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return self.out(x + self.project(mixed.transpose(1, 2).flatten(2)))


def test_attention_with_shared_keys_and_values_converts() -> None:
    model, x = Grouped().eval(), torch.randn(2, 7, 6)
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(divisor=4)).eval()
    rng = np.random.default_rng(0)
    assert {choice.name for choice in supernet.space.choices} == {"embed.width", "query.width"}
    assert supernet.space.largest["query.width"] == 4  # keys, each with two queries
    assert supernet.report.error < 1e-4
    with torch.no_grad():
        assert torch.equal(supernet(x), model(x))
        for subnet in (supernet.space.smallest, *(supernet.space.sample(rng) for _ in range(3))):
            supernet.activate(subnet)
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                expected = supernet.extract()(x)
            assert torch.allclose(supernet(x), expected, atol=1e-5)
            assert 2 * supernet.cost(subnet).macs * len(x) == counter.get_total_flops()
    net = supernet.extract(supernet.space.smallest)
    assert net.query.weight.shape[0] == 2 * net.key.weight.shape[0] < 64


@pytest.mark.slow
def test_detection_is_compared_before_boxes_are_selected() -> None:
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    proof = proof_of(model, ([torch.rand(3, 320, 320)],))
    assert all(bench.before_selection for _, bench, _ in proof.rounds)
    shown = {name: proof.moved[name] for name, way in proof.ways.items() if way != "not shown"}
    assert len(shown) > 30 and min(shown.values()) >= MOVES
    assert "not shown" not in proof.ways.values() and not proof.failures
