"""Vitis' once-for-all pruner: subnets, settings and the evolutionary search."""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vitis_networks import Likeness, make

import ofa
from ofa.search.vitis import OFAPruner


@cache
def pruner(name: str = "plain") -> tuple[nn.Module, Tensor, OFAPruner, ofa.Supernet]:
    model, x = make(name)
    found = OFAPruner(model, x)
    divisor = 4 if name == "plain" else 2
    return model, x, found, found.ofa_model([0.25, 0.5, 0.75, 1], divisor, auto_add_excludes=False).eval()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calibrate(network: nn.Module, x: Tensor) -> None:
    """As in Vitis' examples: batch norms average over batches in evaluation mode."""
    network.eval()
    OFAPruner.reset_bn_running_stats_for_calibration(network)
    with torch.no_grad():
        for _ in range(2):
            network(x)


def searched(score: Any, low: float = 0.3, high: float = 1.2, **settings: Any) -> dict[str, dict[str, Any]]:
    _, x, found, supernet = pruner()
    small = {"macs_step": 0.2, "parent_popu_size": 5, "iteration": 3, "mutate_size": 3, "crossover_size": 2}
    return found.run_evolutionary_search(
        supernet, calibrate, (x,), score, (), "acc1", "max", low, high, **{**small, **settings}
    )


def test_signatures_are_those_of_vitis() -> None:
    """With both spellings of the divisor."""
    parameters = inspect.signature(OFAPruner.ofa_model).parameters
    assert [(p.name, p.default) for p in parameters.values() if p.kind is not p.KEYWORD_ONLY][1:] == [
        ("expand_ratio", (0.5, 0.75, 1)),
        ("channel_divisble", 8),
        ("excludes", None),
        ("auto_add_excludes", True),
        ("save_search_space", False),
    ]
    assert "channel_divisible" in parameters
    parameters = inspect.signature(OFAPruner.run_evolutionary_search).parameters
    assert [(p.name, p.default) for p in parameters.values() if p.kind is not p.KEYWORD_ONLY][10:] == [
        ("macs_step", 10),
        ("parent_popu_size", 16),
        ("iteration", 10),
        ("mutate_size", 8),
        ("mutate_prob", 0.2),
        ("crossover_size", 4),
    ]


def test_the_largest_subnet_is_the_network_and_sampling_is_seeded() -> None:
    model, x, found, supernet = pruner()
    same, setting = found.sample_subnet(supernet, "max")
    assert same is supernet and torch.equal(supernet(x), model(x))
    names = {entry["dynamic_conv_module_name"] for group in setting for entry in group}
    assert names == {"conv1", "conv2", "conv3", "conv4"}
    assert all(e["active_out_channel"] == max(e["candidate_out_channel_list"]) for group in setting for e in group)
    found.sample_subnet(nn.DataParallel(supernet), "min")
    assert supernet.active == supernet.space.smallest
    draws = [[OFAPruner(model, x, seed=seed).rng.random() for _ in range(2)] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    drawn = {json.dumps(found.sample_subnet(supernet, "random")[1]) for _ in range(8)}
    assert len(drawn) > 4
    with pytest.raises(ValueError, match="kind is max, min or random, got 'best'"):
        found.sample_subnet(supernet, "best")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"needs the elastic network that ofa_model\(\) gives, got Plain"):
        found.sample_subnet(model, "min")
    with pytest.raises(ValueError, match=r"no elastic network yet: call ofa_model\(\) first"):
        OFAPruner(model, x).get_static_subnet(supernet, [[]])


def test_kernels_are_chosen_a_layer_and_widths_a_group() -> None:
    _, _, found, supernet = pruner("depthwise")
    setting = found.sample_subnet(supernet, "min")[1]
    entries = {entry["dynamic_conv_module_name"]: (i, entry) for i, group in enumerate(setting) for entry in group}
    assert entries["expand.0"][0] == entries["depth.0"][0] == entries["gate"][0] != entries["squeeze"][0]
    assert entries["depth.0"][1]["candidate_kernel_size_list"] == [(3, 3), (5, 5)]
    assert entries["depth.0"][1]["active_kernel_size"] == (3, 3)
    assert entries["expand.0"][1]["candidate_kernel_size_list"] == [(1, 1)]
    static = found.get_static_subnet(supernet, setting)[0]
    assert static.depth[0].kernel_size == (3, 3) and static.depth[0].out_channels == min(
        entries["depth.0"][1]["candidate_out_channel_list"]
    )


def test_static_subnets_are_plain_and_compute_the_same() -> None:
    """Bit for bit, with exact MACs and parameters in millions."""
    model, x, found, supernet = pruner("depthwise")
    for _ in range(4):
        dynamic, setting = found.sample_subnet(supernet, "random")
        static, config, macs, params = found.get_static_subnet(dynamic, setting)
        assert type(static) is type(model) and {type(m) for m in static.modules()} == {type(m) for m in model.modules()}
        with torch.no_grad():
            assert torch.equal(static(x), dynamic(x))
        assert params * 1e6 == pytest.approx(sum(p.numel() for p in static.parameters()))
        assert macs * 1e6 == pytest.approx(supernet.cost(supernet.active).macs)
        rows = {row["module_name"]: row for row in config[1:]}
        assert rows["expand.0"]["out_channels"] == static.expand[0].out_channels
        assert torch.equal(found.get_static_subnet(dynamic)[0](x), static(x))


def test_ends_and_excludes_stay() -> None:
    """First and last convolutions unless told otherwise; names, modules, globs and nodes of Vitis."""
    model, x = make("plain")
    for excludes in (["conv2"], [model.conv2], "conv2", ["Plain::Plain/Conv2d[conv2]/ret.4"]):
        found = OFAPruner(model, x)
        supernet = found.ofa_model(excludes=excludes, auto_add_excludes=False, channel_divisible=4)
        layers = [[layer.name for layer in group] for group in found.settings.groups]
        assert layers == [["conv1"], ["conv4"]]
        net = found.get_static_subnet(supernet, found.sample_subnet(supernet, "min")[1])[0]
        assert (net.conv1.out_channels, net.conv2.out_channels, net.conv4.out_channels) == (8, 32, 24)
    found = OFAPruner(model, x)
    found.ofa_model(channel_divisble=4)
    assert [[layer.name for layer in group] for group in found.settings.groups] == [["conv2", "conv3"]]
    with pytest.raises(ValueError, match="nothing of Plain can be made elastic"):
        found.ofa_model(excludes=[nn.Conv2d])


def test_settings_and_spaces_go_to_files_and_back() -> None:
    """JSON makes lists of tuples; what is not offered is refused."""
    _, x, found, supernet = pruner()
    dynamic, setting = found.sample_subnet(supernet, "random")
    found.save_subnet_config(setting, "subnet.json")
    again = found.load_subnet_config("subnet.json")
    assert torch.equal(found.get_static_subnet(supernet, again)[0](x), dynamic(x))
    again[0][0]["active_out_channel"] = 999
    with pytest.raises(ValueError, match=r"conv1: active_out_channel 999 is not offered; allowed: \["):
        found.get_static_subnet(supernet, again)
    found.save_search_space("searchspace.config")
    edited = found.load_subnet_config("searchspace.config")
    for group in edited:
        for entry in group:
            entry["candidate_out_channel_list"] = entry["candidate_out_channel_list"][-2:]
    whole = found.space
    try:
        found.reset_search_space(edited)
        assert all(len(c.options) == 2 for c in found.space.choices)
        smallest = found.sample_subnet(supernet, "min")[1]
        assert all(e["candidate_out_channel_list"] == e["candidate_out_channel_list"][-2:] for g in smallest for e in g)
        edited[0][0]["candidate_out_channel_list"] = [8, 999]
        with pytest.raises(ValueError, match="candidate_out_channel_list 999 is not offered"):
            found.reset_search_space(edited)
    finally:
        found.space = whole
    with pytest.raises(ValueError, match="a setting is a list of groups of layers"):
        found.get_static_subnet(supernet, ["nonsense"])
    with pytest.raises(ValueError, match="conv9 is no elastic layer of this network; elastic are conv1, conv2"):
        found.get_static_subnet(supernet, [[{"dynamic_conv_module_name": "conv9", "active_out_channel": 4}]])


def test_batch_norms_average_anew() -> None:
    """The cumulative mean over all batches, in evaluation mode."""
    model, x, found, _ = pruner()
    static = found.get_static_subnet(pruner()[3], found.sample_subnet(pruner()[3], "max")[1])[0]
    static.eval()
    found.reset_bn_running_stats_for_calibration(static)
    batches = [x + i for i in range(16)]
    with torch.no_grad():
        means = torch.stack([model.conv1(batch).mean((0, 2, 3)) for batch in batches])
        for batch in batches:
            static(batch)
    assert torch.allclose(static.bn1.running_mean, means.mean(0), atol=1e-5)


def test_the_search_gives_the_best_of_every_bin() -> None:
    """Vitis' number of evaluations, none twice, everything in the range; keys are bins of MACs."""
    model, x, found, supernet = pruner()
    score = Likeness(model, x)
    seen: list[tuple[int, ...]] = []

    def watched(network: nn.Module) -> Tensor:
        seen.append(
            tuple(m.out_channels + 100 * m.kernel_size[0] for m in network.modules() if isinstance(m, nn.Conv2d))
        )
        return score(network)

    pareto = searched(watched)
    assert len(seen) == len(set(seen)) == 5 + 2 * 5
    assert list(pareto) == sorted(pareto, key=float) and len(pareto) > 1
    for key, row in pareto.items():
        assert 0.3 <= row["macs"] <= 1.2 and str(round(row["macs"] / 0.2) * 0.2) == key
        assert row["mode"] == "evaluate" and row["net_id"].startswith("net_evo_")
        static, _, macs, params = found.get_static_subnet(supernet, row["subnet_setting"])
        assert (macs, params) == (row["macs"], row["params"])
        calibrate(static, x)
        assert float(score(static.eval())) == pytest.approx(row["acc1"], abs=1e-6)
    found.save_subnet_config(pareto, "pareto_global.txt")
    assert found.load_subnet_config("pareto_global.txt").keys() == pareto.keys()
    assert all(m.momentum == 0.1 and not m.training for m in supernet.modules() if isinstance(m, nn.BatchNorm2d))


def test_the_metric_may_be_best_when_small() -> None:
    _, _, found, supernet = pruner()
    small = {"macs_step": 10, "parent_popu_size": 5, "iteration": 2, "mutate_size": 3, "crossover_size": 2}
    width = lambda network: float(network.conv1.out_channels)  # noqa: E731
    best = found.run_evolutionary_search(supernet, None, (), width, (), "loss", "min", 0.3, 1.2, **small)  # type: ignore[arg-type]
    (row,) = best.values()
    assert row["loss"] == 4.0


def test_an_infeasible_range_fails_at_once() -> None:
    with pytest.raises(ValueError, match=r"this space reaches macs from .* to"):
        searched(lambda network: pytest.fail("nothing is evaluated"), 5.0, 6.0)


def test_steps_and_divisors_are_above_zero() -> None:
    model, x, found, supernet = pruner()
    with pytest.raises(ValueError, match=r"macs_step, the width of a bin in million MACs, is above 0, got 0"):
        found.run_evolutionary_search(supernet, None, (), len, (), "loss", "min", 0.3, 1.2, macs_step=0)
    with pytest.raises(ValueError, match="channel_divisible is a whole number of at least 1, got 0"):
        OFAPruner(model, x).ofa_model(channel_divisible=0)


def test_a_killed_search_goes_on_to_the_same_end() -> None:
    """Nothing is evaluated again; the result is that of an uninterrupted search."""
    model, x, _, _ = pruner()
    score = Likeness(model, x)

    def dies(network: nn.Module) -> Tensor:
        if score.calls == 7:
            raise KeyboardInterrupt
        return score(network)

    with pytest.raises(KeyboardInterrupt):
        searched(dies)
    resumed = searched(score)
    assert score.calls == 15
    Path(".vai").rename("before")
    assert searched(Likeness(model, x)) == resumed


def test_the_elastic_network_trains_by_the_sandwich_rule_as_in_vitis_examples() -> None:
    """Largest, smallest, two at random; weights load into a fresh elastic network; important channels come first."""
    model, x = make("depthwise")
    found = OFAPruner(model, x)
    supernet = found.ofa_model(auto_add_excludes=False, importance="l1").train()
    target = model(x).detach()
    optimizer = torch.optim.SGD(supernet.parameters(), 0.05, momentum=0.9)

    def loss(kind: str) -> Tensor:
        net, _ = found.sample_subnet(supernet, kind)  # type: ignore[arg-type]
        return (net(x) - target).square().mean()

    first = loss("min").item()
    for _ in range(15):
        optimizer.zero_grad()
        for kind in ("max", "min", "random", "random"):
            loss(kind).backward()
        torch.nn.utils.clip_grad_value_(supernet.parameters(), 1.0)
        optimizer.step()
    assert loss("min").item() < 0.5 * first
    other = OFAPruner(make("depthwise")[0], x)
    fresh = other.ofa_model(auto_add_excludes=False)
    for name, tensor in fresh.state_dict().items():
        tensor.copy_(supernet.state_dict()[name])
    for net, by in ((supernet.eval(), found), (fresh.eval(), other)):
        by.sample_subnet(net, "min")
    assert torch.equal(fresh(x), supernet(x))


class Squeezed(nn.Module):
    """A convolution of 5×5, and linear layers that scale its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.bn1 = nn.BatchNorm2d(16)
        self.down = nn.Linear(16, 8)
        self.up = nn.Linear(8, 16)
        self.conv2 = nn.Conv2d(16, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        gate = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
        return self.conv2(x * gate[:, :, None, None]).mean((2, 3))


def squeezed(**settings: Any) -> tuple[OFAPruner, ofa.Supernet]:
    found = OFAPruner(Squeezed(), torch.randn(2, 1, 8, 8))
    return found, found.ofa_model([0.5, 1], 4, auto_add_excludes=False, **settings).eval()


def test_linear_layers_keep_their_outputs_unless_asked() -> None:
    """`up` has conv1's channels, so that with linear layers conv1 is elastic, and without it is not."""
    found, supernet = squeezed(linear=True)
    setting = found.sample_subnet(supernet, "min")[1]
    assert {entry["dynamic_conv_module_name"] for group in setting for entry in group} == {"conv1", "up", "down"}
    assert max(max(entry["active_kernel_size"]) for group in setting for entry in group) == 3
    assert all(max(kernel) > 0 for g in setting for entry in g for kernel in entry["candidate_kernel_size_list"])
    found, supernet = squeezed()
    setting = found.sample_subnet(supernet, "min")[1]
    assert [[entry["dynamic_conv_module_name"] for entry in group] for group in setting] == [["conv1"]]
    net = found.get_static_subnet(supernet, setting)[0]
    assert (net.down.out_features, net.conv1.out_channels, net.conv1.kernel_size) == (8, 16, (3, 3))


def test_random_subnets_in_a_range_of_macs() -> None:
    _, _, found, supernet = pruner()
    low, high = (found.get_static_subnet(*found.sample_subnet(supernet, kind))[2] for kind in ("min", "max"))
    band = (low + 0.3 * (high - low), low + 0.5 * (high - low))
    drawn = [found.sample_random_subnet_within_range(supernet, *band) for _ in range(8)]
    assert all(band[0] <= macs <= band[1] for macs, _ in drawn) and len({json.dumps(s) for _, s in drawn}) > 2
    macs, setting = drawn[-1]
    assert found.get_static_subnet(supernet, setting)[2] == found.get_static_subnet(supernet)[2] == macs
    with pytest.raises(ValueError, match="no subnet was found in the budget of macs"):
        found.sample_random_subnet_within_range(supernet, 2 * high, 3 * high)
    with pytest.raises(ValueError, match="min_macs and max_macs are million MACs in this order, got 3 and 2"):
        found.sample_random_subnet_within_range(supernet, 3, 2)


def active(setting: Any) -> list[tuple[int, ...]]:
    """The width and the kernels of each group."""
    return [(g[0]["active_out_channel"], *(k for e in g for k in e["active_kernel_size"])) for g in setting]


def test_mutants_change_whole_groups_and_crossovers_mix_two() -> None:
    _, _, found, supernet = pruner("depthwise")
    largest, smallest = (found.sample_subnet(supernet, kind)[1] for kind in ("max", "min"))
    assert found.sample_random_subnet_mutate_and_reset(largest, prob=0) == largest
    mutants = [found.sample_random_subnet_mutate_and_reset(largest, prob=1) for _ in range(4)]
    wide = [i for i, g in enumerate(largest) if len(g[0]["candidate_out_channel_list"]) > 1]
    assert all(active(mutant)[i][0] != active(largest)[i][0] for mutant in mutants for i in wide)
    few = [found.sample_random_subnet_mutate_and_reset(json.loads(json.dumps(largest))) for _ in range(20)]
    changed = sum(a != b for mutant in few for a, b in zip(active(mutant), active(largest), strict=True))
    assert 0 < changed < 0.5 * 20 * len(largest)
    children = [found.sample_random_subnet_crossover_and_reset(largest, smallest) for _ in range(8)]
    for child in children:
        for a, b, c in zip(active(child), active(largest), active(smallest), strict=True):
            assert all(x in (y, z) for x, y, z in zip(a, b, c, strict=True))
    assert len({json.dumps(child) for child in children}) > 2
    assert found.sample_random_subnet_crossover_and_reset(largest, smallest, p=1) == largest
    assert all(found.check_dynamic_subnet_setting(child) for child in (*children, *mutants))


def test_settings_are_checked_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, found, supernet = pruner()
    setting = found.sample_subnet(supernet, "min")[1]
    assert found.check_dynamic_subnet_setting(json.loads(json.dumps(setting)))
    setting[1][0]["active_out_channel"] = 24  # the group's other layer has 8
    assert not found.check_dynamic_subnet_setting(setting)
    assert "differs from the other layers" in " ".join(capsys.readouterr().err.split())
    listed = found.get_config_list()
    found.save_search_space("space.json")
    assert json.loads(json.dumps(listed)) == json.loads(Path("space.json").read_text())
    assert [g[0]["dynamic_conv_module_name"] for g in found.get_config_list(excludes=["conv2"])] == ["conv1", "conv4"]
    with pytest.raises(ValueError, match=r"expand_ratio is a list of fractions such as \[0.5, 0.75, 1\], got 0.5"):
        OFAPruner(*make("plain")).ofa_model(expand_ratio=0.5)  # type: ignore[arg-type]


def test_weights_of_vitis_own_elastic_network_load() -> None:
    found, supernet = squeezed()
    trained = Squeezed()
    theirs = {}
    for name, tensor in trained.state_dict().items():
        module, _, last = name.rpartition(".")
        inner = {"conv": ".conv", "bn": ".bn"}.get(module[:-1], "")
        theirs[f"module.{module}{inner}.{last}"] = tensor + 1
    assert "module.conv1.conv.weight" in theirs and "module.bn1.bn.running_mean" in theirs
    assert found.load_dynamic_state_dict(supernet, theirs) is supernet
    assert all(torch.equal(supernet.model.state_dict()[name], t + 1) for name, t in trained.state_dict().items())
    with pytest.raises(ValueError, match=r"the weights lack 2 of Squeezed: conv2.weight, conv2.bias"):
        found.load_dynamic_state_dict(supernet, {n: t for n, t in theirs.items() if "conv2" not in n})
    with pytest.raises(ValueError, match=r"the weights are of another network: size mismatch for conv2.bias"):
        found.load_dynamic_state_dict(supernet, {**theirs, "module.conv2.conv.bias": torch.zeros(3)})
