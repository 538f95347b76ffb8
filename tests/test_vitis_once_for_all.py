"""Vitis' once-for-all pruner: subnets, settings and the evolutionary search."""

from __future__ import annotations

import copy
import inspect
import json
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vitis_networks import Likeness, make

import ofa
from ofa.search.vitis import OFAPruner
from ofa.vitis import errors, load_dynamic_state_dict


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


def test_a_range_may_be_open_above() -> None:
    macs = [row["macs"] for row in searched(lambda network: 1.0, 0.9, float("inf"), macs_step=0.1).values()]
    assert min(macs) >= 0.9 and max(macs) > 1.2


def test_scores_that_are_all_no_numbers_have_no_best() -> None:
    """Of some, only those that are count."""
    with pytest.raises(errors.OptimizerSubnetError, match="acc1 of all 15 subnets is nan or infinite: look at eval_fn"):
        searched(lambda network: float("nan"))
    Path(".vai").rename("before")
    half = searched(lambda network: 1.0 if network.conv1.out_channels > 8 else float("nan"))
    assert half and all(row["acc1"] == 1.0 for row in half.values())


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


class Gated(nn.Module):
    """A stem with a large kernel, a gate of linear layers, a hidden linear layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 16, 7, padding=3), nn.Conv2d(16, 32, 5, padding=2)
        self.squeeze, self.gate = nn.Linear(32, 16), nn.Linear(16, 32)
        self.last, self.hidden, self.fc = nn.Conv2d(32, 48, 3), nn.Linear(48, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x).relu()).relu()
        x = x * self.gate(self.squeeze(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        return self.fc(self.hidden(self.last(x).relu().mean((2, 3))).relu())


def gated(**settings: Any) -> tuple[OFAPruner, ofa.Supernet, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 8, 8)
    found = OFAPruner(Gated(), x)
    return found, found.ofa_model([0.5, 1], **settings).eval(), x


def flat(setting: Any) -> list[dict[str, Any]]:
    return [entry for group in setting for entry in group]


def named(setting: Any) -> list[list[str]]:
    return [[entry["dynamic_conv_module_name"] for entry in group] for group in setting]


@pytest.mark.parametrize("linear", [False, True])
def test_linear_layers_are_elastic_only_where_asked(linear: bool) -> None:
    """But where their outputs go with a convolution's; a layer without a kernel has one of one place."""
    found, supernet, x = gated(auto_add_excludes=False, **({"linear": True} if linear else {}))
    dynamic, setting = found.sample_subnet(supernet, "min")
    static = found.get_static_subnet(supernet, setting)[0]
    assert (static.squeeze.out_features, static.hidden.out_features) == ((8, 32) if linear else (16, 64))
    assert static.gate.out_features == static.conv.out_channels == 16
    with torch.no_grad():
        assert torch.equal(static(x), dynamic(x))
    edges = {e["dynamic_conv_module_name"]: max(e["active_kernel_size"]) for group in setting for e in group}
    alone = {"squeeze": 1, "hidden": 1} if linear else {}
    assert edges == {"stem": 3, "conv": 3, "gate": 1, "last": 3, **alone}
    assert all(max(e["candidate_kernel_size_list"])[0] >= 1 for group in setting for e in group)
    with pytest.raises(ValueError, match=r"nothing of Sequential can be made elastic; ofa_model\(linear=True\) opens"):
        OFAPruner(nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 4)), torch.zeros(1, 4)).ofa_model()


def test_ends_keep_their_kernels_too() -> None:
    found, supernet, _ = gated()
    assert named(found.sample_subnet(supernet, "min")[1]) == [["conv", "gate"]]
    static = found.get_static_subnet(supernet)[0]
    assert static.stem.kernel_size == (7, 7) and static.conv.kernel_size == (3, 3)


class Behind(nn.Module):
    """A depthwise convolution behind the first one, a sum with the last one's outputs, one between; large kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depth = nn.Conv2d(1, 16, 5, padding=2), nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.middle = nn.Conv2d(16, 24, 5, padding=2)
        self.side, self.last = nn.Conv2d(24, 32, 5, padding=2), nn.Conv2d(24, 32, 5, padding=2)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.depth(self.first(x)).relu()).relu()
        return self.fc((self.side(x) + self.last(x)).relu().mean((2, 3)))


def test_what_has_the_channels_of_an_end_keeps_its_kernel_too() -> None:
    """As in Vitis, where a group is excluded as a whole."""
    kernels = {}
    for ends in (True, False):
        found = OFAPruner(Behind(), torch.randn(1, 1, 8, 8))
        supernet = found.ofa_model([0.5, 1], 4, auto_add_excludes=ends)
        static = found.get_static_subnet(*found.sample_subnet(supernet, "min"))[0]
        kernels[ends] = {n: m.kernel_size[0] for n, m in static.named_modules() if isinstance(m, nn.Conv2d)}
    assert kernels[True] == {"first": 5, "depth": 5, "middle": 3, "side": 5, "last": 5}
    assert set(kernels[False].values()) == {3}


class Own(nn.Module):
    """A convolution of a user's own, whose kernel has one number."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size, self.bias = kernel_size, nn.Parameter(torch.zeros(outputs))
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel_size, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, self.bias, padding=self.kernel_size // 2)


def test_a_convolution_of_ones_own_has_the_kernel_of_its_weight() -> None:
    x = torch.randn(2, 1, 8, 8)
    found = OFAPruner(nn.Sequential(Own(1, 16, 3), nn.ReLU(), Own(16, 32, 5), nn.Conv2d(32, 4, 3)), x)
    supernet = found.ofa_model([0.5, 1], 4, auto_add_excludes=False).eval()
    dynamic, setting = found.sample_subnet(supernet, "min")
    assert [(e["active_out_channel"], e["active_kernel_size"]) for e in flat(setting)] == [(8, (3, 3)), (16, (5, 5))]
    with torch.no_grad():
        assert torch.equal(found.get_static_subnet(dynamic, json.loads(json.dumps(setting)))[0](x), dynamic(x))


@pytest.mark.parametrize("name", ["depthwise", "transposed"])
def test_the_list_of_a_static_subnet_has_what_its_layers_are_made_from(name: str) -> None:
    """All of it: the list makes every layer again."""
    _, _, found, supernet = pruner(name)
    static, config, _, _ = found.get_static_subnet(*found.sample_subnet(supernet, "min"))
    layers = {
        n: m for n, m in static.named_modules() if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear, nn.BatchNorm2d))
    }
    assert [row["module_name"] for row in config[1:]] == list(layers)
    for row in json.loads(json.dumps(config[1:])):
        kind, layer = getattr(nn, row.pop("module_type")), layers[row.pop("module_name")]
        made = kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})
        assert str(made) == str(layer)
        assert {n: t.shape for n, t in made.state_dict().items()} == {n: t.shape for n, t in layer.state_dict().items()}
        given = set(inspect.signature(kind).parameters) - {"device", "dtype"}
        assert given - set(row) <= ({"bias"} if isinstance(layer, nn.BatchNorm2d) else set())  # as wide as in Vitis


OF_ANOTHER: dict[str, Any] = {
    "sample_subnet": lambda f, n: f.sample_subnet(n, "max"),
    "within_range": lambda f, n: f.sample_random_subnet_within_range(n, 0.3, 1.2),
    "get_static_subnet": lambda f, n: f.get_static_subnet(n),
    "search": lambda f, n: search(f, n),
}


@pytest.mark.parametrize("name", OF_ANOTHER)
def test_the_network_is_that_of_the_last_call(name: str) -> None:
    """Or a copy of it; another is refused by everything that takes one."""
    _, _, found, supernet = pruner()
    found.sample_subnet(copy.deepcopy(supernet), "min")
    for other in (pruner("depthwise")[3], OFAPruner(*make("plain")).ofa_model([0.5, 1], 8)):
        with pytest.raises(ValueError, match=r"is not of the last ofa_model\(\) of this Plain's pruner"):
            OF_ANOTHER[name](found, other)


def test_the_list_of_candidates_knows_excludes_and_ends() -> None:
    """It is a space: what it lacks stays whole."""
    found, supernet, _ = gated(auto_add_excludes=False)
    whole = found.get_config_list(auto_add_excludes=False)
    found.save_search_space("searchspace.config")
    assert json.loads(json.dumps(whole)) == found.load_subnet_config("searchspace.config")
    assert named(whole) == [["stem"], ["conv", "gate"], ["last"]]
    assert named(found.get_config_list()) == [["conv", "gate"]]
    for excludes in ("conv", ["gate"], [nn.Linear]):
        part = found.get_config_list(excludes, False)
        assert [names for names in named(part) if "conv" not in names] == [["stem"], ["last"]]
    found.reset_search_space(found.get_config_list(["conv"]) or found.get_config_list("conv", False))
    static = found.get_static_subnet(found.sample_subnet(supernet, "min")[0])[0]
    assert (static.stem.out_channels, static.conv.out_channels, static.conv.kernel_size) == (8, 32, (5, 5))
    assert found.get_config_list(auto_add_excludes=False) == whole
    with pytest.raises(ValueError, match="exclude 'conv9' matches no module; close names: conv"):
        found.get_config_list(["conv9"])
    with pytest.raises(ValueError, match=r"no elastic network yet: call ofa_model\(\) first"):
        OFAPruner(Gated(), torch.zeros(1, 1, 8, 8)).get_config_list()


def test_random_subnets_are_within_a_range_of_macs() -> None:
    """The network runs what is given; seeds decide; what cannot be ends at once."""
    model, x, found, supernet = pruner()
    seen = set()
    for _ in range(20):
        macs, setting = found.sample_random_subnet_within_range(nn.DataParallel(supernet), 0.4, 0.7)
        counted = found.get_static_subnet(supernet)[2]
        assert 0.4 <= macs == counted <= 0.7 and found.get_static_subnet(supernet, setting)[2] == macs
        seen.add(json.dumps(setting))
    assert len(seen) > 5
    draws = []
    for seed in (1, 1, 2):
        one = OFAPruner(model, x, seed=seed)
        net = one.ofa_model([0.25, 0.5, 0.75, 1], 4, auto_add_excludes=False)
        draws.append([one.sample_random_subnet_within_range(net, 0.2, 1.5)[1] for _ in range(4)])
    assert draws[0] == draws[1] != draws[2]
    for low in (0, 0.9):
        macs = [found.sample_random_subnet_within_range(supernet, low, float("inf"))[0] for _ in range(20)]
        assert max(macs) > 1.2 and min(macs) >= low
    with pytest.raises(ValueError, match=r"this space reaches macs from .* to"):
        found.sample_random_subnet_within_range(supernet, 5.0, 6.0)


def test_mutants_have_other_widths_and_kernels_a_group() -> None:
    """The probability is a group's; a group that changes changes its width and each of its kernels."""
    _, _, found, supernet = pruner("depthwise")
    _, setting = found.sample_subnet(supernet, "random")
    before = json.dumps(setting)
    assert found.sample_random_subnet_mutate_and_reset(setting, prob=0) == setting
    shares = []
    for _ in range(40):
        for prob in (1.0, 0.3):
            child = found.sample_random_subnet_mutate_and_reset(json.loads(before), prob)
            assert found.check_dynamic_subnet_setting(child)
            changed = [old != new for old, new in zip(setting, child, strict=True)]
            if prob == 1:
                for old, new in zip(flat(setting), flat(child), strict=True):
                    assert old["active_out_channel"] != new["active_out_channel"]
                    assert (old["active_kernel_size"] != new["active_kernel_size"]) == (
                        len(old["candidate_kernel_size_list"]) > 1
                    )
            else:
                shares.append(sum(changed) / len(changed))
    assert 0.15 < sum(shares) / len(shares) < 0.45 and json.dumps(setting) == before
    one = [found.sample_random_subnet_mutate_and_reset(setting) != setting for _ in range(40)]
    assert 0 < sum(one) < 40  # 0.1 by default


def test_crossovers_take_each_width_and_kernel_from_one_parent() -> None:
    _, _, found, supernet = pruner("depthwise")
    small, large = (found.sample_subnet(supernet, kind)[1] for kind in ("min", "max"))  # type: ignore[arg-type]
    assert found.sample_random_subnet_crossover_and_reset(small, large, p=1) == small
    assert found.sample_random_subnet_crossover_and_reset(small, large, p=0.0) == large
    mixed = set()
    for _ in range(30):
        child = found.sample_random_subnet_crossover_and_reset(small, large)
        assert found.check_dynamic_subnet_setting(child)
        entries = {entry["dynamic_conv_module_name"]: entry for group in child for entry in group}
        depth = entries["depth.0"]
        mixed.add((depth["active_out_channel"], depth["active_kernel_size"]))
        assert depth["active_out_channel"] == entries["expand.0"]["active_out_channel"]
    assert len(mixed) == 4  # width and kernel do not go together


def test_a_reset_space_bounds_mutants() -> None:
    _, _, found, supernet = pruner()
    whole, setting = found.space, found.sample_subnet(supernet, "max")[1]
    try:
        for group in setting:
            for entry in group:
                entry["candidate_out_channel_list"] = entry["candidate_out_channel_list"][-2:]
        found.reset_search_space(setting)
        child = found.sample_random_subnet_mutate_and_reset(setting, 1)
        assert all(e["active_out_channel"] == e["candidate_out_channel_list"][0] for g in child for e in g)
    finally:
        found.space = whole


def test_settings_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """True or False as in Vitis, with a line that says what is wrong."""
    _, _, found, supernet = pruner()
    setting = found.sample_subnet(supernet, "random")[1]
    assert found.check_dynamic_subnet_setting(setting)
    assert found.check_dynamic_subnet_setting([*json.loads(json.dumps(setting)), {"net_id": "net_evo_0"}])
    assert not capsys.readouterr().err
    for layer, key, value, message in (
        (0, "active_out_channel", 999, "conv1: active_out_channel 999 is not offered; allowed: ["),
        (0, "active_kernel_size", -1, "conv1: active_kernel_size is not said"),
        (1, "active_out_channel", 8, "conv3: active_out_channel"),
    ):
        wrong = json.loads(json.dumps(found.sample_subnet(supernet, "max")[1]))
        wrong[layer][-1][key] = value
        assert not found.check_dynamic_subnet_setting(wrong)
        assert capsys.readouterr().err.startswith(message)
    assert not found.check_dynamic_subnet_setting(found.get_config_list(auto_add_excludes=False))
    assert not found.check_dynamic_subnet_setting(["nonsense"])
    capsys.readouterr()
    setting = found.sample_subnet(supernet, "max")[1]
    setting[0][0]["candidate_out_channel_list"] = [4, 8]  # the network has 16 as well, this list has not
    assert not found.check_dynamic_subnet_setting(setting)
    assert capsys.readouterr().err.startswith("conv1: active_out_channel 16 is not offered; allowed: [4, 8]")
    with pytest.raises(ValueError, match="conv1: active_out_channel 16 is not offered"):
        found.get_static_subnet(supernet, setting)


class Wrapped(nn.Module):
    """A layer inside another module, as Vitis' elastic layers are."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.add_module("bn" if isinstance(layer, nn.BatchNorm2d) else "conv", layer)

    def forward(self, x: Tensor) -> Tensor:
        return next(self.children())(x)  # type: ignore[no-any-return]


def wrapped(name: str) -> tuple[nn.Module, Tensor]:
    """A network of other weights whose convolutions and batch norms are wrapped."""
    model, x = make(name)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(tensor + 0.1 * torch.rand(tensor.shape) if tensor.is_floating_point() else tensor + 7)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d))}
    for path, layer in layers.items():
        parent, _, local = path.rpartition(".")
        setattr(model.get_submodule(parent), local, Wrapped(layer))
    return model, x


@pytest.mark.parametrize("name", ["plain", "depthwise", "transposed"])
def test_weights_of_vitis_own_elastic_network_load(name: str) -> None:
    """Into the elastic network and a plain one; the largest subnet computes what they were trained to."""
    theirs, x = wrapped(name)
    state = theirs.state_dict()
    first = next(name for name in state if name.endswith(".conv.weight"))
    supernet = OFAPruner(make(name)[0], x).ofa_model(channel_divisible=2, auto_add_excludes=False).eval()
    with pytest.raises(RuntimeError, match="Missing key"):
        supernet.model.load_state_dict(state)
    for net in (supernet, nn.DataParallel(supernet), make(name)[0]):
        plain = dict(ofa.backbone.unwrapped(net).state_dict())
        for given in (state, {f"module.{n}": t for n, t in state.items()}):
            for tensor in plain.values():
                tensor.zero_()
            assert load_dynamic_state_dict(net, given) is net
            with torch.no_grad():
                assert torch.equal(ofa.backbone.unwrapped(net)(x), theirs(x))
    other = {n: t for n, t in state.items() if n != first}
    message = rf"1 missing \({first}\); 1 unknown \(conv9.conv.weight\)$"
    with pytest.raises(errors.OptimizerError, match=message):
        load_dynamic_state_dict(supernet, {**other, "conv9.conv.weight": torch.zeros(1)})
    with pytest.raises(errors.OptimizerError, match=r"elastic network: 1 unknown \(conv9.conv.weight\)$"):
        load_dynamic_state_dict(supernet, {**state, "conv9.conv.weight": torch.zeros(1)})
    with pytest.raises(errors.OptimizerError, match=rf"{first} is \(1, 2\), here \("):
        load_dynamic_state_dict(supernet, {**state, first: torch.zeros(1, 2)})
    with pytest.raises(errors.OptimizerError, match="by their names, got dict with epoch, state_dict"):
        load_dynamic_state_dict(supernet, {"epoch": 3, "state_dict": state})  # type: ignore[dict-item]
    with torch.no_grad():
        assert torch.equal(supernet(x), theirs(x))  # what is refused changes nothing


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_that_vitis_adds_may_be_a_networks_own(prefix: str) -> None:
    """Layers called conv and bn, everything in one called module."""
    net = nn.Module()
    net.module = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 4, 3), bn=nn.BatchNorm2d(4)))
    theirs = {n: prefix + n.replace("conv.", "conv.conv.").replace("bn.", "bn.bn.") for n in net.state_dict()}
    state = {theirs[name]: tensor + 1 for name, tensor in net.state_dict().items()}
    load_dynamic_state_dict(net, state)
    assert all(torch.equal(tensor, state[theirs[name]]) for name, tensor in net.state_dict().items())


def no_score(network: nn.Module) -> float:
    raise AssertionError("nothing is evaluated")


def search(found: OFAPruner, net: nn.Module, **settings: Any) -> Any:
    ours: dict[str, Any] = {
        **{"calibration_fn": None, "calib_args": (), "eval_fn": no_score, "eval_args": ()},
        **{"evaluation_metric": "acc", "min_or_max_metric": "max", "min_macs": 0.3, "max_macs": 1.2},
    }
    return found.run_evolutionary_search(net, **{**ours, **settings})


REFUSED: dict[str, tuple[Any, str]] = {
    "a ratio": (lambda f, n: f.ofa_model(0.5), r"expand_ratio is a list of the shares .* \[0.5, 0.75, 1\], got 0.5"),
    "no ratio": (lambda f, n: f.ofa_model([]), r"expand_ratio is a list of .*, got \[\]"),
    "a text": (lambda f, n: f.ofa_model("0.5"), r"expand_ratio is a list of .*, got '0.5'"),
    "letters": (lambda f, n: f.ofa_model(list("0.5")), r"expand_ratio is a list of .*, got \['0', '.', '5'\]"),
    "a ratio above 1": (lambda f, n: f.ofa_model([0.5, 2]), r"expand_ratio is a list of .*, got \[0.5, 2\]"),
    "no number": (lambda f, n: f.ofa_model([float("nan")]), r"expand_ratio is a list of .*, got \[nan\]"),
    "an order": (lambda f, n: f.ofa_model([0.5], 8, None, ["fc"]), r"auto_add_excludes is True or False, got \['fc'\]"),
    "a path": (lambda f, n: f.ofa_model(save_search_space="s.config"), r"save_search_space is True or False, got 's"),
    "a divisor": (lambda f, n: f.ofa_model(channel_divisble=0.5), r"channel_divisible is a whole number .*, got 0.5"),
    "no divisor": (lambda f, n: f.ofa_model(channel_divisible=True), r"channel_divisible is a whole .*, got True"),
    "an importance": (lambda f, n: f.ofa_model(importance="l9"), r"unknown importance 'l9'; allowed: l1"),
    "no importance": (lambda f, n: f.ofa_model(importance=5), r"unknown importance 5; allowed: l1"),
    "excludes": (
        lambda f, n: f.ofa_model(excludes=[nn.Conv2d]),
        r"^nothing of Plain can be made elastic: excluded by Conv2d bars everything$",
    ),
    "a seed": (lambda f, n: OFAPruner(f.model, f.inputs, seed=True), r"seed is a whole number .* 0, got True"),
    "a model": (lambda f, n: f.sample_subnet("max", n), r"a model is a torch.nn.Module, got str"),
    "a kind": (lambda f, n: f.sample_subnet(n, "best"), r"kind is max, min or random, got 'best'"),
    "a probability": (
        lambda f, n: f.sample_random_subnet_mutate_and_reset([], prob=2),
        r"prob is a probability from 0 to 1, got 2",
    ),
    "another": (
        lambda f, n: f.sample_random_subnet_crossover_and_reset([], [], p="x"),
        r"p is a probability .* got 'x'",
    ),
    "a range": (
        lambda f, n: f.sample_random_subnet_within_range(n, 300, 200),
        r"min_macs and max_macs are millions of MACs, the smaller first, got 300 and 200",
    ),
    "an open range": (
        lambda f, n: search(f, n, min_macs=float("inf"), max_macs=float("inf")),
        r"smaller first, got inf",
    ),
    "no range": (lambda f, n: search(f, n, min_macs=None), r"min_macs and max_macs are millions .*, got None and 1.2"),
    "no function": (lambda f, n: search(f, n, eval_fn=None), r"eval_fn is a function of a network .*, got None"),
    "no tuple": (lambda f, n: search(f, n, eval_args=5), r"eval_args is a tuple of what eval_fn takes .*, got int"),
    "no calibration": (lambda f, n: search(f, n, calibration_fn=3), r"calibration_fn is a function of a .*, got 3"),
    "calib_args": (lambda f, n: search(f, n, calib_args={}), r"calib_args is a tuple of what .*, got dict"),
    "a metric": (lambda f, n: search(f, n, min_or_max_metric="acc"), r"min_or_max_metric is 'max' or .*, got 'acc'"),
    "a name": (
        lambda f, n: search(f, n, evaluation_metric="macs"),
        r"evaluation_metric is a name for the scores beside net_id, mode, macs, .* in the result, got 'macs'",
    ),
    "a wide step": (lambda f, n: search(f, n, macs_step=float("inf")), r"macs_step, the width of .* above 0, got inf"),
    "a seed of a search": (lambda f, n: search(f, n, seed=-1), r"seed is a whole number of at least 0, got -1"),
    "a step": (lambda f, n: search(f, n, macs_step=None), r"macs_step, the width of a bin in .* above 0, got None"),
    "a population": (
        lambda f, n: search(f, n, parent_popu_size=0),
        r"parent_popu_size is a whole number of at least 1, got 0",
    ),
    "iterations": (lambda f, n: search(f, n, iteration=2.5), r"iteration is a whole number of at least 1, got 2.5"),
    "mutants": (lambda f, n: search(f, n, mutate_size=-1), r"mutate_size is a whole number of at least 0, got -1"),
    "crossovers": (lambda f, n: search(f, n, crossover_size="4"), r"crossover_size is a whole number .*, got '4'"),
    "a mutation": (lambda f, n: search(f, n, mutate_prob=20), r"mutate_prob is a probability from 0 to 1, got 20"),
    "gpus": (lambda f, n: search(f, n, gpus="0,1"), r"gpus is a list of .*, got '0,1'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_gets_one_clear_line(name: str) -> None:
    _, _, found, supernet = pruner()
    call, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        call(found, supernet)
    assert "\n" not in str(error.value) and not Path(".vai").exists()


@pytest.mark.parametrize("call", ["sample_subnet", "sample_random_subnet_within_range", "run_evolutionary_search"])
def test_a_pruner_without_an_elastic_network_says_so(call: str) -> None:
    model, x, _, supernet = pruner()
    fresh = OFAPruner(model, x)
    calls = {
        "sample_subnet": lambda: fresh.sample_subnet(supernet, "min"),
        "sample_random_subnet_within_range": lambda: fresh.sample_random_subnet_within_range(supernet, 0.1, 1),
        "run_evolutionary_search": lambda: search(fresh, supernet),
    }
    with pytest.raises(ValueError, match=r"no elastic network yet: call ofa_model\(\) first"):
        calls[call]()


def test_a_search_without_children_evaluates_the_parents_alone() -> None:
    model, x, _, _ = pruner()
    score = Likeness(model, x)
    searched(score, mutate_size=0, crossover_size=0)
    assert score.calls == 5


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
