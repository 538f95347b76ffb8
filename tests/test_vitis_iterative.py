"""Vitis' iterative runner: analyse once, prune by ratio, threshold or specification."""

from __future__ import annotations

import inspect
import json
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from vitis_networks import Likeness, Plain, make, outputs

from ofa.search.vitis import IterativePruningRunner, UnreachableRatio, calibrate_bn, get_pruning_runner
from ofa.search.vitis.groups import find_groups


@cache
def runner(name: str = "plain") -> tuple[nn.Module, Any, IterativePruningRunner]:
    model, x = make(name)
    found = get_pruning_runner(model, x, "iterative")
    assert isinstance(found, IterativePruningRunner)
    return model, x, found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def macs_removed(name: str = "Plain", ratio: str = "_ratio_0.5") -> float:
    supernet = runner()[2].supernet(2)
    found = json.loads(Path(f".vai/{name}{ratio}_pruning_info.json").read_text())
    return 1 - found["macs"] / supernet.cost(supernet.space.largest).macs


def dying(score: Likeness, calls: int) -> Any:
    """A score that is interrupted after so many calls."""

    def dies(network: nn.Module) -> Any:
        if score.calls == calls:
            raise KeyboardInterrupt
        return score(network)

    return dies


def test_signatures_are_those_of_vitis() -> None:
    """Names, order and defaults."""
    ana, prune = (inspect.signature(getattr(IterativePruningRunner, name)).parameters for name in ("ana", "prune"))
    given = [p for p in ana.values() if p.kind is not p.KEYWORD_ONLY]
    assert [p.name for p in given] == ["self", "eval_fn", "args", "gpus", "excludes", "forced", "with_group_conv"]
    assert [p.default for p in given[2:]] == [(), None, None, False, False]
    assert [(p.name, p.default) for p in prune.values() if p.kind is not p.KEYWORD_ONLY][1:] == [
        ("removal_ratio", None),
        ("threshold", None),
        ("spec_path", None),
        ("excludes", None),
        ("mode", "sparse"),
        ("pruning_info_path", None),
        ("channel_divisible", 2),
    ]


def test_nine_points_a_group_and_the_whole_network(folder: Path) -> None:
    """9·G + 1 calls, without a GPU; 0-d tensors are scores."""
    model, x, found = runner()
    score = Likeness(model, x)
    found.ana(score, args=(2.0,))
    groups = find_groups(found.supernet(2))
    sizes = [int(group.choice.largest) for group in groups]
    assert sizes == [16, 32, 48]
    assert score.calls == 1 + 7 + 9 + 9  # 16 channels have only 7 widths, in twos, that are near a tenth
    content = json.loads((folder / ".vai/Plain.sens").read_text())
    assert [row["nodes"] for row in content["groups"]] == [["conv1"], ["conv2", "conv3"], ["conv4"]]
    assert [row["metrics"][0] for row in content["groups"]] == [[None, 100.0]] * 3
    assert [share for share, _ in content["groups"][2]["metrics"][1:]] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], abs=0.021
    )
    assert content["uncompleted_steps"] == []
    found.ana(score)
    assert score.calls == 26  # all is known
    found.ana(score, forced=True)
    assert score.calls == 52


def test_a_grid_of_ones_own_and_an_adaptive_one() -> None:
    """[.25, .5] gives 2·G + 1 calls; the adaptive grid needs fewer than the full one."""
    model, x, found = runner()
    score = Likeness(model, x)
    found.ana(score, grid=(0.25, 0.5))
    assert score.calls == 2 * 3 + 1
    found.ana(score, grid=(0.25, 0.5, 0.75))
    assert score.calls == 3 * 3 + 1
    few = Likeness(model, x)
    found.ana(few, forced=True, adaptive=True)
    assert few.calls <= 13


def test_a_grid_for_some_layers_limits_them() -> None:
    """Other layers have the nine points; a layer loses at most the last sparsity of its own."""
    model, x, found = runner()
    score = Likeness(model, x)
    with pytest.raises(KeyboardInterrupt):
        found.ana(dying(score, 5), grid={"conv[24]": (0.1, 0.25), model.conv4: (0.5,)})
    assert len(json.loads(Path(".vai/Plain.sens").read_text())["uncompleted_steps"]) == 1 + 7 + 2 + 1 - 5
    found.ana(score, grid={"conv[24]": (0.1, 0.25), model.conv4: (0.5,)})
    assert score.calls == 1 + 7 + 2 + 1
    rows = json.loads(Path(".vai/Plain.sens").read_text())["groups"]
    assert [row.get("limit") for row in rows] == [None, 0.25, 0.5] and len(rows[1]["metrics"]) == 3
    slim = found.prune(threshold=100, mode="slim")
    assert (slim.conv1.out_channels, slim.conv2.out_channels, slim.conv4.out_channels) == (2, 24, 24)
    with pytest.raises(UnreachableRatio):
        found.prune(0.9, strict=True)
    found.ana(score)
    found.prune(0.9)
    with pytest.raises(ValueError, match="exclude 'conv9' matches no module"):
        found.ana(score, grid={"conv9": (0.5,)})


def test_every_point_may_be_calibrated() -> None:
    """Each network alone, the whole one too; curves of calibrated and other networks are not mixed."""
    model, x, found = runner()
    seen: list[float] = []

    def score(network: nn.Module) -> float:
        with torch.no_grad():
            seen.append(float((network.bn1.running_mean - network.conv1(x).mean((0, 2, 3))).abs().max()))
        return float(network.conv1.out_channels)

    found.ana(score, grid=(0.5,), calibration_fn=calibrate_bn, calib_args=([x],))
    assert len(seen) == 4 and max(seen) < 1e-6
    with pytest.raises(
        ValueError, match="was made with calibrated=True, asked is False: ana\\(forced=True\\) starts anew"
    ):
        found.ana(score, grid=(0.5,))
    assert not torch.allclose(model.bn1.running_mean, model.conv1(x).mean((0, 2, 3)), atol=1e-3)


def test_a_killed_analysis_makes_the_remaining_calls_only() -> None:
    """Each score is on disk before it counts."""
    model, x, found = runner()
    score = Likeness(model, x)
    with pytest.raises(KeyboardInterrupt):
        found.ana(dying(score, 11))
    content = json.loads(Path(".vai/Plain.sens").read_text())
    assert len(content["uncompleted_steps"]) == 26 - 11
    with pytest.raises(ValueError, match=r"Plain.sens is unfinished, 15 evaluations are missing: call ana\(\) again"):
        found.prune(0.5)
    found.ana(score)
    assert score.calls == 26
    whole = Likeness(model, x)
    found.ana(whole, forced=True)
    resumed, uninterrupted = content, json.loads(Path(".vai/Plain.sens").read_text())
    assert resumed["groups"][0] == uninterrupted["groups"][0]
    changed = Plain()
    Path(".vai/Plain.sens").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="unfinished analysis of other weights: ana\\(forced=True\\) starts anew"):
        get_pruning_runner(changed, x, "iterative").ana(score)


def test_the_file_belongs_to_its_network_and_to_matching_groups() -> None:
    """Another network of the same class is refused; other excludes reuse what is there."""
    model, x, found = runner()
    score = Likeness(model, x)
    found.ana(score, excludes=[model.conv4])
    assert score.calls == 1 + 7 + 9 and found._excludes == [model.conv4]
    sparse = found.prune(0.3)
    assert torch.equal(sparse.conv4.bias, model.conv4.bias)
    found.ana(score)
    assert score.calls == 26
    found.ana(score, excludes=["conv2"])
    assert score.calls == 26
    assert len(json.loads(Path(".vai/Plain.sens").read_text())["groups"]) == 3
    wider = get_pruning_runner(Plain(24).eval(), x, "iterative")
    with pytest.raises(ValueError, match=r"of another network called Plain .*: ana\(forced=True\) starts anew"):
        wider.ana(score)
    with pytest.raises(ValueError, match="of another network called Plain"):
        wider.prune(0.5)


def test_a_pickle_is_never_read() -> None:
    _, _, found = runner()
    Path(".vai").mkdir()
    Path(".vai/Plain.sens").write_bytes(pickle.dumps({"groups": []}))
    with pytest.raises(ValueError, match="is a pickle, which could run any code when read"):
        found.prune(0.5)
    Path(".vai/Plain.sens").write_text("[]")
    with pytest.raises(ValueError, match="is another file: it lacks groups"):
        found.prune(0.5)


def test_excludes_have_one_syntax_and_vitis_nodes() -> None:
    """A name, a glob, a module, a type, a predicate, a node of Vitis' graph."""
    model, _, found = runner()
    ways: list[Any] = ["conv4", "*4", model.conv4, lambda name, _: name == "conv4", "Plain::Plain/Conv2d[conv4]/ret.7"]
    opened = [found.open_groups(found.supernet(2), [way], True) for way in ways]
    assert all(groups == opened[0] for groups in opened) and [g.nodes[0] for g in opened[0]] == ["conv1", "conv2"]
    assert found.open_groups(found.supernet(2), "conv3", True)[1].nodes == ("conv4",)  # coupled with conv2
    with pytest.raises(ValueError, match="nothing of Plain can be pruned"):
        found.open_groups(found.supernet(2), [nn.Conv2d], True)
    with pytest.raises(ValueError, match="exclude 'conv9' matches no module; close names: conv"):
        found.ana(lambda network: 0.0, excludes=["conv9"])


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_the_ratio_is_met(ratio: float) -> None:
    """To within a hundredth, for curves and for flat ones."""
    model, x, found = runner()
    for score in (Likeness(model, x), lambda network: 1.0):
        found.ana(score, forced=True)
        found.prune(ratio)
        assert macs_removed(ratio=f"_ratio_{ratio}") == pytest.approx(ratio, abs=0.01)


@pytest.mark.parametrize("divisor", [1, 4, 8])
def test_widths_are_multiples_inside_the_search(divisor: int) -> None:
    """Widths are multiples, the ratio is met all the same, and nothing is pruned at ratio 0."""
    model, x, found = runner()
    found.ana(Likeness(model, x))
    slim = found.prune(0.5, mode="slim", channel_divisible=divisor)
    assert all(m.out_channels % divisor == 0 for m in slim.modules() if isinstance(m, nn.Conv2d))
    assert macs_removed() == pytest.approx(0.5, abs=0.01)
    found.prune(0, channel_divisible=divisor)
    whole = found.prune(spec_path=".vai/Plain_ratio_0.spec", mode="slim")
    assert sum(p.numel() for p in whole.parameters()) == sum(p.numel() for p in model.parameters())


def test_what_is_out_of_reach_names_the_closest() -> None:
    """Typed, with the closest ratio."""
    model, x, found = runner()
    found.ana(Likeness(model, x))
    with pytest.raises(
        UnreachableRatio, match=r"removal_ratio=0.3 cannot be met within 0.01: the closest is 0\."
    ) as error:
        found.prune(0.3, channel_divisible=16, strict=True)
    closest = error.value.closest
    assert abs(closest - 0.3) > 0.01
    with pytest.warns(
        UserWarning, match=f"removal_ratio=0.3 cannot be met .*: the closest is {closest:.4f}, which is taken"
    ):
        found.prune(0.3, channel_divisible=16)
    assert macs_removed(ratio="_ratio_0.3") == pytest.approx(closest, abs=1e-6)
    found.prune(round(closest, 4), channel_divisible=16, strict=True)


def test_a_threshold_works_alone_and_is_monotone() -> None:
    """And Vitis' way with a ratio of 0.0 beside it."""
    model, x, found = runner()
    found.ana(Likeness(model, x), args=(1e5,))
    nets = [found.prune(threshold=threshold, mode="slim") for threshold in (0.0, 0.01, 0.03, 0.2)]
    sizes = [sum(p.numel() for p in net.parameters()) for net in nets]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 2
    again = found.prune(removal_ratio=0.0, threshold=0.03, mode="slim")
    assert sum(p.numel() for p in again.parameters()) == sizes[2]


def test_a_specification_gives_the_same_network_without_the_analysis() -> None:
    model, x, found = runner()
    found.ana(Likeness(model, x))
    first = found.prune(0.5, channel_divisible=4)
    Path(".vai/Plain.sens").unlink()
    fresh = get_pruning_runner(model, x, "iterative")
    second = fresh.prune(spec_path=".vai/Plain_ratio_0.5.spec")
    assert all(torch.equal(a, second.state_dict()[k]) for k, a in first.state_dict().items())
    slim = fresh.transform(".vai/Plain_ratio_0.5.spec")
    assert (outputs(slim, x) - outputs(second, x)).abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"there is no analysis in .*Plain.sens: call ana\(\) before prune\(\)"):
        fresh.prune(0.5)


def test_what_costs_nothing_goes_first_and_a_gain_is_no_damage() -> None:
    """Theirs counts a better score as damage."""
    found = runner()[2]

    def score(network: nn.Module) -> float:
        return 50 + (48 - network.conv4.out_channels) - 20 * (32 - network.conv2.out_channels)

    found.ana(score)
    slim = found.prune(0.5, mode="slim")
    assert slim.conv4.out_channels <= 16 and slim.conv1.out_channels < 16 and slim.conv2.out_channels >= 30
    found.ana(lambda network: 20.0 * (32 - network.conv2.out_channels), mode="min", forced=True)
    assert found.prune(0.5, mode="slim").conv2.out_channels > 16


def test_rounds_go_on_from_finetuned_weights() -> None:
    """The analysis is kept, the ratio raised; what was removed is removed again."""
    model, x = make("plain")
    found = get_pruning_runner(model, x, "iterative")
    found.ana(Likeness(model, x))
    zeros: dict[str, torch.Tensor] = {}
    for ratio in (0.3, 0.5, 0.7):
        sparse = found.prune(ratio)
        state = sparse.state_dict()
        assert all(not state[name][gone].any() for name, gone in zeros.items())
        optimizer = torch.optim.SGD(sparse.parameters(), 0.01, momentum=0.9, weight_decay=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            sparse(x).square().mean().backward()
            optimizer.step()
        zeros = {name: tensor == 0 for name, tensor in sparse.state_dict().items() if tensor.ndim > 1}
        before = outputs(sparse, x)
        model.load_state_dict(sparse.state_dict())
        assert (outputs(model, x) - before).abs().max() < 1e-5
    assert macs_removed(ratio="_ratio_0.7") == pytest.approx(0.7, abs=0.01)


def test_evaluations_see_the_users_network_and_leave_it_alone() -> None:
    """Methods, attributes, class, moves; no statistics, flags or weights leak."""
    model, x, found = runner()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: list[tuple[int, ...]] = []

    def score(network: nn.Module) -> float:
        assert isinstance(network, Plain) and not network.training
        network = network.to("cpu")
        network.train()
        network.extra, network.bn1.momentum = 1, None
        seen.append((network.conv1.out_channels, *network.features(x).shape, len(network.state_dict()["bn1.weight"])))
        return network(x).sum().detach()

    found.ana(score)
    assert all(row[0] == row[2] == row[-1] for row in seen) and len({row[0] for row in seen}) == 8
    supernet = found.supernet(2)
    assert not hasattr(supernet.model, "extra") and supernet.model.bn1.momentum == 0.1 and not supernet.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.model.state_dict().items())


def test_grouped_convolutions_stay_unless_asked(folder: Path) -> None:
    """With the flag, every group of the convolution loses as much."""
    model, x, found = runner("grouped")
    score = Likeness(model, x)
    found.ana(score)
    slim = found.prune(threshold=10, mode="slim")
    assert slim.grouped.out_channels == 48 and slim.last.out_channels < 16
    found.ana(score, with_group_conv=True)
    slim = found.prune(0.6, mode="slim")
    assert slim.grouped.out_channels < 48 and slim.grouped.out_channels % 4 == 0 and slim.grouped.groups == 4


def test_layers_that_stay_are_listed_once_with_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    """Operators that nobody knows, excludes and what they hold, convolutions in groups; the rest is pruned."""
    model, x = make("plain")
    model.conv4.register_forward_hook(lambda module, args, output: output.cummax(1).values)
    found = get_pruning_runner(model, x, "iterative")
    found.ana(Likeness(model, x), grid=(0.5,))
    assert found.reasons["fc"] == "the network's output"
    assert "operator cummax is not understood" in found.reasons["conv4"]
    assert found.prune(threshold=10, mode="slim").conv2.out_channels < 32
    text = " ".join(capsys.readouterr().err.split())
    assert text.count("Layers of Plain that stay as they are") == text.count("operator cummax") == 1
    found.open_groups(found.supernet(2), ["conv3"], True)
    assert found.reasons["conv2"] == "changes only together with conv3"
    assert found.reasons["conv3"] == "excluded by 'conv3'" and len(found.reasons) == 4
    grouped = runner("grouped")[2]
    grouped.open_groups(grouped.supernet(2), None, False)
    assert "ana(with_group_conv=True) prunes it" in grouped.reasons["grouped"] and "last" not in grouped.reasons
    grouped.open_groups(grouped.supernet(2), None, True)
    assert list(grouped.reasons) == ["fc"]


def test_training_flags_and_everything_else_of_modules_stay(folder: Path) -> None:
    """Flags, types, borders, frozen weights and hooks; the table's numbers are counted."""
    model, x = make("depthwise")
    model.double()
    model.expand.train()
    model.stem[0].weight.requires_grad_(False)
    called: list[int] = []
    model.project.register_forward_hook(lambda module, args, output: called.append(output.shape[1]))
    found = get_pruning_runner(model, x.double(), "iterative")
    found.ana(Likeness(model, x.double()))
    for mode in ("sparse", "slim"):
        net = found.prune(0.5, mode=mode)  # type: ignore[arg-type]
        assert [m.training for m in net.modules()] == [m.training for m in model.modules()]
        assert net.stem[0].padding_mode == "reflect" and net.stem[0].weight.dtype == torch.float64
        assert not net.stem[0].weight.requires_grad and net.expand[0].weight.requires_grad
        called.clear()
        net(x.double())
        facts = json.loads(Path(".vai/Depthwise_ratio_0.5_pruning_info.json").read_text())
        assert called == [facts["modules"]["project"]["out_dim"]] and called[0] < model.project.out_channels
    assert facts["params"] == sum(p.numel() for p in net.parameters() if p.requires_grad) + net.stem[0].weight.numel()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "exactly one of removal_ratio, threshold and spec_path, got none"),
        ({"removal_ratio": 0.5, "threshold": 0.1}, ValueError, "exactly one of .*, got ratio, threshold"),
        ({"removal_ratio": 1}, ValueError, r"removal_ratio lies in \[0, 1\)"),
        ({"removal_ratio": "half"}, ValueError, "removal_ratio is a number, got 'half'"),
        ({"removal_ratio": False}, ValueError, "removal_ratio is a number, got False"),
        ({"threshold": True}, ValueError, "threshold is a number, got True"),
        ({"removal_ratio": 0.5, "channel_divisible": True}, ValueError, "channel_divisible is a whole .*, got True"),
        ({"removal_ratio": float("nan")}, ValueError, "got ratio=nan"),
        ({"threshold": float("nan")}, ValueError, "got threshold=nan"),
        ({"threshold": -1}, ValueError, "threshold is at least 0"),
        ({"removal_ratio": 0.5, "mode": "dense"}, ValueError, "mode is 'sparse' or 'slim', got 'dense'"),
        ({"spec_path": "nowhere.spec"}, ValueError, r"cannot read nowhere\.spec: No such file"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        runner()[2].prune(**arguments)


def test_scores_that_are_none_are_refused() -> None:
    model, x, found = runner()
    with pytest.raises(TypeError, match="eval_fn returns a number or a tensor of one element, got tuple"):
        found.ana(lambda network: (1.0, 2.0))
    with pytest.raises(ValueError, match="method is iterative or one_step, got 'magic'"):
        get_pruning_runner(model, x, "magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown importance 'best'; allowed: l1"):
        IterativePruningRunner(model, x, importance="best")


def test_two_processes_find_what_one_finds() -> None:
    """The same file; an exception surfaces."""
    model, x, found = runner()
    found.ana(Likeness(model, x), grid=(0.25, 0.5))
    serial = json.loads(Path(".vai/Plain.sens").read_text())
    found.ana(Likeness(model, x), grid=(0.25, 0.5), gpus=["0", "1"], forced=True)
    assert json.loads(Path(".vai/Plain.sens").read_text()) == serial
    with pytest.raises(TypeError, match="takes from 2 to 3 positional arguments but 4 were given"):
        found.ana(Likeness(model, x), args=(1.0, 2.0), grid=(0.1,), gpus=["0", "1"], forced=True)


def test_scores_that_are_no_numbers() -> None:
    """Of the whole network: an error at once. Of a part: the worst there is, by either way of pruning."""
    found = runner()[2]
    calls = []

    def score(network: nn.Module, sign: float) -> float:
        calls.append(network.conv1.out_channels)
        if network.conv1.out_channels < 8:
            return float("nan")
        return sign * network.conv1.out_channels + sign * network.conv2.out_channels / 10 + sign * 100

    with pytest.raises(ValueError, match="the score of the whole network is a finite number, got nan"):
        found.ana(lambda network: calls.append(0) or float("nan"))
    assert calls == [0] and not Path(".vai").exists()
    for mode, sign in (("max", 1.0), ("min", -1.0)):
        found.ana(score, args=(sign,), mode=mode, forced=True)
        assert found.prune(0.6, mode="slim").conv1.out_channels >= 8
        assert found.prune(threshold=100, mode="slim").conv1.out_channels >= 8


def stages() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 1
    for width in (16, 16, 32, 32, 64, 64):
        stride = 2 if 1 < before != width else 1
        layers += [nn.Conv2d(before, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


SLOPES = {"0": (38.9, 2.17), "3": (4.4, 1.54), "6": (49.2, 3.78), "9": (37.2, 3.32), "12": (33.5, 3.84),
          "15": (49.3, 1.51)}  # fmt: skip


@pytest.mark.parametrize("kind", ["iterative", "one_step"])
def test_rounds_are_nested(kind: str) -> None:
    """From sparse weights in the baseline no channel of zeros is kept, though the search itself is not nested."""
    groups = [
        {"nodes": [n], "metrics": [[None, 90.0], *([s / 10, 90 - a * (s / 10) ** p] for s in range(1, 10))]}
        for n, (a, p) in SLOPES.items()
    ]
    Path(".vai").mkdir()
    Path(".vai/Sequential.sens").write_text(json.dumps({"groups": groups, "uncompleted_steps": []}))
    model, x, before = stages(), torch.randn(2, 1, 28, 28), [64] * 6
    for ratio in (0.2, 0.4, 0.6, 0.8):
        found: Any = get_pruning_runner(model, x, kind)
        settings: dict[str, Any] = {"removal_ratio": ratio, "channel_divisible": 8}
        if kind == "one_step":
            found.search(num_subnet=2, eval_fn=lambda network: 0.0, **settings)
        sparse, slim = found.prune(mode="sparse", **settings), found.prune(mode="slim", **settings)
        filters = [weight for weight in slim.state_dict().values() if weight.ndim == 4]
        assert all(weight.flatten(1).any(1).all() for weight in filters)
        widths = [len(weight) for weight in filters]
        assert all(now <= then for now, then in zip(widths, before, strict=True)) and sum(widths) < sum(before)
        before, model = widths, stages()
        model.load_state_dict(sparse.state_dict())
    if kind == "iterative":
        again = get_pruning_runner(model, x, kind)
        for way in ("removal_ratio", "threshold"):
            state = again.prune(**{way: 0.0}, mode="slim").state_dict()
            assert [len(weight) for weight in state.values() if weight.ndim == 4] == before
        with pytest.raises(UnreachableRatio, match=r"earlier rounds removed 0\.[78]\d+ already"):
            again.prune(0.3, strict=True)


def test_a_new_process_knows_what_the_analysis_excluded() -> None:
    """From the file; until excludes are given, or an analysis without them is made."""
    model, x = make("plain")
    IterativePruningRunner(model, x).ana(lambda network: 1.0)
    IterativePruningRunner(model, x).ana(lambda network: 1.0, excludes=[model.conv2])
    content = json.loads(Path(".vai/Plain.sens").read_text())
    assert (content["excludes"], content["with_group_conv"]) == (["conv2"], False)
    assert IterativePruningRunner(model, x).prune(0.4, mode="slim").conv2.out_channels == 32
    assert IterativePruningRunner(model, x).prune(0.7, excludes=(), mode="slim").conv2.out_channels < 32
    IterativePruningRunner(model, x).ana(lambda network: 1.0)
    assert IterativePruningRunner(model, x).prune(0.7, mode="slim").conv2.out_channels < 32
    grouped, x = make("grouped")
    for flag in (True, False):
        IterativePruningRunner(grouped, x).ana(lambda network: 1.0, with_group_conv=flag)
        slim = IterativePruningRunner(grouped, x).prune(threshold=0.0, mode="slim")
        assert (slim.grouped.out_channels < 48) == flag


def test_messages_name_the_way_out() -> None:
    model, x, found = runner()
    layers = [nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    with pytest.raises(ValueError, match=r"can be pruned; ana\(with_group_conv=True\) opens convolutions in groups"):
        IterativePruningRunner(nn.Sequential(*layers).eval(), x).ana(lambda network: 0.0)
    for grid in ([1.5], [], {"conv1": [0.0, 0.5]}, [float("nan")], 0.5, ["0.5"], [True]):
        with pytest.raises(ValueError, match=r"grid is a list of shares that are removed, between 0 and 1, got "):
            found.ana(lambda network: 0.0, grid=grid)
    found.ana(lambda network: 1.0)
    found.prune(np.float32(0.3))
    assert Path(".vai/Plain_ratio_0.3.spec").exists()
    with pytest.raises(ValueError, match="channel_divisible is a whole number of at least 1, got 0"):
        found.prune(0.3, channel_divisible=0)
    model.conv1.weight.requires_grad_(False)  # does not count
    model(x).square().mean().backward()
    IterativePruningRunner(model, x, importance="taylor").ana(lambda network: 1.0, forced=True)
    model.conv4.weight.grad = None
    with pytest.raises(ValueError, match=r"^conv4\.weight: this importance needs gradients: run"):
        IterativePruningRunner(model, x, importance="taylor").ana(lambda network: 0.0, forced=True)
    model.conv1.weight.requires_grad_(True)
    model.zero_grad()


def test_damaged_analyses_are_refused() -> None:
    found = runner()[2]
    found.ana(lambda network: 1.0)
    path = Path(".vai/Plain.sens")
    content = json.loads(path.read_text())
    for metrics, message in (
        ([[None, 1.0], [0.5, "much"]], "is no sensitivity analysis"),
        ([[None, 1.0], ["half", 0.5]], "is no sensitivity analysis"),
        ("none", "is no sensitivity analysis"),
        ([[0.5, 0.5]], r"has no score of the whole network, a row \[null, score\]"),
        ([[None, float("nan")], [0.5, 0.5]], "the score of the whole network is a finite number"),
    ):
        path.write_text(json.dumps({**content, "groups": [{**row, "metrics": metrics} for row in content["groups"]]}))
        with pytest.raises(ValueError, match=message):
            found.prune(0.5)
