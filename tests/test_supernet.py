"""What makes a supernet one: extracted = active, largest = original, sliced = zeroed, costs = counted."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import TIMM, build, small
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import ofa

FAMILIES = sorted(TIMM)


@cache
def converted(name: str) -> tuple[nn.Module, torch.Tensor, ofa.Supernet]:
    model, x = build(name)
    return model, x, ofa.Supernet(model, x, ofa.SpaceConfig()).eval()


def subnets(supernet: ofa.Supernet, n: int = 3) -> list[ofa.Subnet]:
    rng = np.random.default_rng(0)
    return [supernet.space.smallest, *(supernet.space.sample(rng) for _ in range(n))]


@pytest.mark.parametrize("name", FAMILIES)
def test_largest_is_the_original(name: str) -> None:
    model, x, supernet = converted(name)
    supernet.activate(supernet.space.largest)
    with torch.no_grad():
        assert torch.equal(supernet(x), model(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_extracted_is_active_bit_for_bit(name: str) -> None:
    model, x, supernet = converted(name)
    for subnet in subnets(supernet):
        supernet.activate(subnet)
        net = supernet.extract(subnet)
        assert type(net) is type(model)
        with torch.no_grad():
            assert torch.equal(net(x), supernet(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_costs_are_those_of_the_extracted_network(name: str) -> None:
    _, x, supernet = converted(name)
    for subnet in subnets(supernet):
        net = supernet.extract(subnet)
        with (
            FlopCounterMode(display=False) as counter,
            torch.no_grad(),
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            net(x)
        cost = supernet.cost(subnet)
        assert 2 * cost.macs * len(x) == counter.get_total_flops()
        assert cost.params == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_conversion_proves_sliced_equal_to_zeroed_and_makes_most_of_it_elastic(name: str) -> None:
    _, _, supernet = converted(name)
    assert supernet.report.error < 1e-4
    assert supernet.report.elastic_share > 0.9
    smallest = supernet.cost(supernet.space.smallest)
    assert smallest.macs < 0.5 * supernet.cost(supernet.space.largest).macs


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_slices_are_the_gradients_of_the_extracted_network(name: str) -> None:
    _, x, supernet = converted(name)
    subnet = subnets(supernet)[1]
    supernet.activate(subnet)  # another test may have left it active, with statistics of its own
    net = supernet.extract().eval()
    net(x).square().sum().backward()
    supernet.zero_grad()
    supernet(x).square().sum().backward()
    plan = supernet.plan(subnet)
    expected = dict(net.named_parameters())
    for path, parameter in supernet.model.named_parameters():
        if path not in expected or expected[path].grad is None:
            continue
        index = plan.indices.get(path, ())
        gradient = parameter.grad
        for dim, kept in enumerate(index):
            if isinstance(kept, slice):
                gradient = gradient.narrow(dim, kept.start, kept.stop - kept.start)
            elif kept is not None:
                gradient = gradient.index_select(dim, kept)
        assert torch.equal(gradient, expected[path].grad), path
        assert torch.count_nonzero(parameter.grad) == torch.count_nonzero(gradient), path


@pytest.mark.parametrize("name", FAMILIES)
def test_sorting_keeps_the_largest_subnets_function(name: str) -> None:
    model, x = build(name)
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="quick")).eval()
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    supernet.sort()
    assert any(not torch.equal(v, before[k]) for k, v in supernet.state_dict().items())
    with torch.no_grad():
        expected = model(x)
        assert (supernet(x) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_slices_follow_the_weights() -> None:
    _, x, supernet = converted("mobilenetv2")
    supernet = copy.deepcopy(supernet)
    supernet.activate(supernet.space.smallest)
    with torch.no_grad():
        before = supernet(x)
        for parameter in supernet.parameters():
            parameter.mul_(1.1)
        after = supernet(x)
        assert not torch.equal(before, after)
        assert torch.equal(after, supernet.extract()(x))


@pytest.mark.parametrize("fused", [False, True])
def test_remembered_slices_follow_every_optimiser(fused: bool) -> None:
    """Autograd does not count what a fused optimiser writes."""
    supernet = ofa.Supernet(small(), torch.randn(2, 1, 8, 8)).eval()
    supernet.activate(supernet.space.smallest)
    optimizer = torch.optim.SGD(supernet.parameters(), 0.5, fused=fused)
    x = torch.randn(4, 1, 8, 8)
    for _ in range(2):
        with torch.no_grad():
            assert torch.equal(supernet(x), supernet.extract()(x))
        supernet(x).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert torch.equal(supernet(x), supernet.extract()(x))


def test_training_goes_on_after_a_calibration_in_inference_mode() -> None:
    model, x = build("resnet")
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="off")).eval()
    supernet.activate(supernet.space.smallest)
    with torch.inference_mode():
        supernet.calibrate([x])
        expected = supernet(x)
    supernet(x).sum().backward()
    assert torch.equal(supernet(x).detach(), expected)


def test_calibration_is_cumulative_deterministic_and_leaves_the_shared_statistics() -> None:
    _, x, supernet = converted("mobilenetv3")
    batches = [torch.randn(8, 3, 64, 64) for _ in range(3)]
    subnet = subnets(supernet)[1]
    shared = {k: v.clone() for k, v in supernet.state_dict().items()}
    supernet.activate(subnet)
    reference = supernet.extract()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for batch in batches:
            reference(batch)
    supernet.calibrate(batches)
    with torch.no_grad():
        assert torch.equal(supernet(x), reference.eval()(x))
        assert torch.equal(supernet.extract()(x), supernet(x))
    assert all(torch.equal(v, shared[k]) for k, v in supernet.state_dict().items())
    with pytest.raises(ValueError, match="at least one batch"):
        supernet.calibrate([])


def test_training_passes_update_shared_statistics_where_slices_are_copies_too() -> None:
    model, x = build("densenet")
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="quick"))
    supernet.activate(supernet.space.smallest)
    net = supernet.extract().train()
    supernet.train()(x)
    net(x)
    plan = supernet.plan(supernet.active)
    names = [name for name in plan.indices if name.endswith("running_mean")]
    assert names
    for name in names:
        part = dict(supernet.model.named_buffers())[name]
        index = plan.indices[name][0]
        part = part[index] if isinstance(index, slice) else part.index_select(0, index)
        assert torch.equal(part, dict(net.named_buffers())[name])


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_copies_are_whole_and_independent(name: str, duplicate: Callable[[ofa.Supernet], ofa.Supernet]) -> None:
    _, x, supernet = converted(name)
    supernet.activate(supernet.space.smallest)
    supernet.calibrate([x])
    with torch.no_grad():
        expected = supernet(x)
        twin = duplicate(supernet)
        assert twin.active == supernet.active and twin.digest == supernet.digest
        assert torch.equal(twin(x), expected)  # with the statistics of its own
        for subnet in subnets(supernet, 1):
            for net in (supernet, twin):
                net.activate(subnet)
                net.calibrate([x])
            assert torch.equal(twin(x), supernet(x))
        expected = supernet(x)
        for parameter in twin.parameters():
            parameter.zero_()
        assert not torch.equal(twin(x), expected) and torch.equal(supernet(x), expected)
    twin.load_state_dict(supernet.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(twin(x), expected)


def test_a_pickle_holds_no_remembered_slices() -> None:
    _, x, supernet = converted("resnet")
    supernet.activate(supernet.space.smallest)
    before = len(pickle.dumps(supernet))
    with torch.no_grad():
        supernet(x)
    assert len(pickle.dumps(supernet)) == before


def test_attributes_follow_sizes() -> None:
    _, _, supernet = converted("vit")
    net = supernet.extract(supernet.space.smallest)
    attention = net.blocks[0].attn
    assert attention.num_heads == 1
    assert attention.qkv.out_features == attention.qkv.weight.shape[0]
    assert tuple(net.blocks[0].norm1.normalized_shape) == tuple(net.blocks[0].norm1.weight.shape)


def test_control_flow_functional_code_and_dictionaries_are_followed() -> None:
    class Free(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 5, padding=2)
            self.gate = nn.Parameter(torch.rand(16, 1, 1))
            self.head = nn.Linear(16 * 4, 5)

        def forward(self, image: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            x = self.first(image)
            for _ in range(2):
                x = (
                    x
                    + torch.nn.functional.conv2d(x, self.second.weight, self.second.bias, padding=2).relu() * self.gate
                )
            x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
            return {"logits": self.head(x) * scale}

    model, inputs = Free().eval(), {"image": torch.randn(2, 3, 8, 8), "scale": torch.ones(1)}
    supernet = ofa.Supernet(model, inputs, ofa.SpaceConfig(divisor=4)).eval()
    assert [c.name for c in supernet.space.choices if c.kind == "width"] == ["first.width"]
    supernet.activate(supernet.space.smallest)
    with torch.no_grad():
        assert torch.equal(supernet(**inputs)["logits"], supernet.extract()(**inputs)["logits"])
    assert supernet.extract().head.weight.shape == (5, 4 * 4)


def test_an_operator_that_nobody_knows_freezes_with_a_reason() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.linalg.matrix_exp(torch.diag_embed(self.a(x)))[:, :, 0]
            return self.c(self.b(x).relu())

    supernet = ofa.Supernet(Strange(), torch.randn(2, 8), ofa.SpaceConfig(divisor=1))
    assert [c.name for c in supernet.space.choices] == ["b.width"]
    reason = next(layer.reason for layer in supernet.report.layers if layer.name == "a")
    assert "not understood" in reason or "literal" in reason


def test_bad_input_is_said_clearly() -> None:
    model, x = build("resnet")
    with pytest.raises(ValueError, match=r"does not run on the example inputs .*\(2, 4, 64, 64\)"):
        ofa.Supernet(model, torch.randn(2, 4, 64, 64))
    with pytest.raises(ValueError, match=r"'layer1\.0\.conv9' matches no module; close names: layer1\.0\.conv"):
        ofa.Supernet(model, x, ofa.SpaceConfig(exclude=("layer1.0.conv9",)))
    with pytest.raises(ValueError, match=r"width ratios lie in \(0, 1\]"):
        ofa.SpaceConfig(width=(0.5, 1.5))
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        ofa.Supernet("resnet18", x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lazy"):
        ofa.Supernet(nn.Sequential(nn.LazyLinear(4)), torch.randn(1, 3))
    supernet = converted("resnet")[2]
    with pytest.raises(ValueError, match="is no option; allowed"):
        supernet.activate(supernet.space.largest.replace(**{"conv1.width": 63}))


def test_excluded_layers_stay_and_say_so() -> None:
    model, x = build("resnet")
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(exclude=("layer2.*", nn.MaxPool2d), proof="quick"))
    net = supernet.extract(supernet.space.smallest)
    kept, original = dict(net.layer2.named_parameters()), dict(model.layer2.named_parameters())
    assert all(kept[name].shape == original[name].shape for name in original)
    reasons = {layer.reason for layer in supernet.report.layers if layer.name.startswith("layer2.")}
    assert reasons == {"excluded by 'layer2.*'"}
    by_module = ofa.Supernet(model, x, ofa.SpaceConfig(exclude=(model.layer2,), proof="quick"))
    assert by_module.space == ofa.Supernet(model, x, ofa.SpaceConfig(exclude=("layer2",), proof="quick")).space


def test_the_proof_tells_how_far_it_is() -> None:
    heard: list[tuple[int, int]] = []
    model, x = build("resnet")
    ofa.Supernet(model, x, ofa.SpaceConfig(proof="full"), lambda done, total: heard.append((done, total)))
    alone = [row for row in heard if row[1] > 10]
    assert alone == [(i, alone[0][1]) for i in range(1, alone[0][1] + 1)]
    assert heard[-1][0] == heard[-1][1]


def test_threads_that_call_one_supernet_do_not_see_each_other_s_slices() -> None:
    """Slices are put into the modules for a forward pass, and taken out after it."""
    model, x = build("resnet")
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(proof="quick")).eval()
    supernet.activate(supernet.space.smallest)
    with torch.no_grad():
        expected = supernet(x)
        with ThreadPoolExecutor(4) as pool:
            outputs = list(pool.map(lambda _: supernet(x), range(32)))
    assert all(torch.equal(output, expected) for output in outputs)
    assert pickle.loads(pickle.dumps(supernet))(x).shape == expected.shape


class Activated(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(8, 16), nn.Linear(16, 4), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(self.function(self.a(x)))
        return out


def test_networks_of_the_same_shapes_and_other_operators_are_told_apart(tmp_path: Path) -> None:
    relu, gelu = (ofa.Supernet(Activated(f), torch.randn(2, 8)) for f in (F.relu, F.gelu))
    assert relu.space == gelu.space and relu.digest != gelu.digest
    assert relu.digest == ofa.Supernet(Activated(F.relu), torch.randn(3, 8)).digest
    relu.save(tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"operator relu is run 1 times there and missing here"):
        gelu.load(tmp_path / "net.pt")


def test_all_multiples_are_offered_however_many_there_are() -> None:
    """They were rounded from 128 shares."""
    net = nn.Sequential(nn.Linear(4, 2048), nn.ReLU(), nn.Linear(2048, 4))
    space = ofa.Supernet(net, torch.randn(2, 4), ofa.SpaceConfig("multiples")).space
    assert [choice.options for choice in space.choices] == [tuple(range(8, 2049, 8))]
