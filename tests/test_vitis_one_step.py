"""Vitis' one-step runner: calibrated candidates of one cost, the best as a network."""

from __future__ import annotations

import copy
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
from ofa.search.vitis import OneStepPruningRunner, calibrate_bn, get_pruning_runner
from ofa.search.vitis.drawing import candidates
from ofa.search.vitis.groups import find_groups
from ofa.search.vitis.sparse_and_slim import slim_network, sparse_network


@cache
def runner() -> tuple[nn.Module, Tensor, OneStepPruningRunner]:
    model, x = make("plain")
    found = get_pruning_runner(model, x, "one_step")
    assert isinstance(found, OneStepPruningRunner)
    return model, x, found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calibrate(network: nn.Module, x: Tensor) -> None:
    """Adaptive batch norm as Vitis' examples have it."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(x + 0.1 * torch.randn_like(x))


def searched(number: int = 6, **settings: Any) -> dict[str, Any]:
    model, x, found = runner()
    settings = {"eval_fn": Likeness(model, x), "calibration_fn": calibrate, "calib_args": (x,), **settings}
    found.search(num_subnet=number, **settings)
    content: dict[str, Any] = json.loads(
        Path(f".vai/Plain_ratio_{settings.get('removal_ratio', 0.5)}.search").read_text()
    )
    return content


def test_signatures_are_those_of_vitis() -> None:
    search, prune = (inspect.signature(getattr(OneStepPruningRunner, name)).parameters for name in ("search", "prune"))
    assert [(p.name, p.default) for p in search.values() if p.kind is not p.KEYWORD_ONLY][1:] == [
        ("gpus", ("0",)),
        ("calibration_fn", None),
        ("calib_args", ()),
        ("num_subnet", 200),
        ("removal_ratio", 0.5),
        ("excludes", ()),
        ("eval_fn", None),
        ("eval_args", ()),
        ("forced", False),
        ("with_group_conv", False),
    ]
    assert [(p.name, p.default) for p in prune.values()][1:] == [
        ("mode", "slim"),
        ("removal_ratio", None),
        ("index", None),
        ("pruning_info_path", None),
        ("channel_divisible", 2),
    ]


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_candidates_are_constructed_in_the_band(ratio: float) -> None:
    """As many as asked, distinct, within a hundredth; at least 95 % of the proposals are in it."""
    supernet = runner()[2].supernet(2)
    listed = candidates(supernet, find_groups(supernet), "accuracy", ratio, 30, 0)
    subnets = listed.ask()
    whole = supernet.cost(supernet.space.largest).macs
    assert len(set(subnets)) == 30
    assert all(abs(1 - supernet.cost(s).macs / whole - ratio) <= 0.01 for s in subnets)
    assert candidates(supernet, find_groups(supernet), "accuracy", ratio, 12, 0).ask() == subnets[:12]
    content = searched(3, removal_ratio=ratio)
    assert all(abs(1 - macs - ratio) <= 0.01 for macs in content["macs"])


def test_the_network_scores_what_was_recorded() -> None:
    """With the statistics of its calibration, which is random here; by index from worst to best."""
    model, x, found = runner()
    content = searched(6)
    scores = list(content["scores"].values())
    assert scores == sorted(scores) and content["supernet"]["score"] == 100.0 and len(set(scores)) == 6
    score = Likeness(model, x)
    for index, wanted in ((None, scores[-1]), (0, scores[-1]), (1, scores[1]), (-1, scores[-1]), (2, scores[2])):
        for mode in ("slim", "sparse"):
            network = found.prune(mode=mode, index=index).eval()  # type: ignore[arg-type]
            assert float(score(network)) == pytest.approx(wanted, abs=1e-6), (index, mode)
    assert float(score(found.prune(index=-1))) == scores[-1]
    assert not torch.equal(found.prune().bn1.running_mean, model.bn1.running_mean[:8])
    assert {path.name for path in Path(".vai").glob("*.spec")} == {
        f"Plain_ratio_0.5_{n}.spec" for n in ("best", "1", "-1", "2")
    }
    with pytest.raises(
        ValueError, match=r"index lies in 1 \(.*\) to 5 \(the highest, also -1\), or is 0 \(the best\), got 6"
    ):
        found.prune(index=6)
    fresh = get_pruning_runner(model, x, "one_step")
    assert float(score(fresh.prune(removal_ratio=0.5))) == scores[-1]
    with pytest.raises(
        ValueError, match=r"call search\(removal_ratio=…, eval_fn=…\) before prune\(\), or give .*: 0.5$"
    ):
        get_pruning_runner(model, x, "one_step").prune()


@pytest.mark.parametrize("form", ["whole", "slim", "sparse"])
def test_calibration_gives_the_cumulative_statistics(form: str) -> None:
    """As torch itself keeps them from a reset on, with everything else in evaluation mode."""
    model, x = make("depthwise")
    supernet = ofa.Supernet(model, x, ofa.SpaceConfig(kernel=False))
    plan = supernet.plan(supernet.space.smallest)
    found = {"whole": model, "slim": slim_network(model, plan), "sparse": sparse_network(model, plan)}[form]
    batches = [x, 2 * x + 1, x[:2] - 1]
    reference, flags = copy.deepcopy(found), [m.training for m in found.modules()]
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # type: ignore[assignment]
            module.train()
    with torch.no_grad():
        for batch in batches:
            reference(batch)
    calibrate_bn(found, batches)
    assert [m.training for m in found.modules()] == flags
    for (name, mine), (_, theirs) in zip(found.named_buffers(), reference.named_buffers(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6), name
    with pytest.raises(ValueError, match="calibration needs at least one batch, got none"):
        calibrate_bn(found, [])


def test_batches_do_for_a_calibration() -> None:
    """Where the user has no function; the network scores what was recorded."""
    model, x, found = runner()
    content = searched(3, calibration_fn=calibrate_bn, calib_args=([x, x + 1],))
    slim = found.prune()
    assert float(Likeness(model, x)(slim)) == content["scores"]["2"]
    assert not torch.equal(slim.bn1.running_mean, model.bn1.running_mean[: slim.conv1.out_channels])


def test_a_search_goes_on_and_adds_what_is_missing() -> None:
    """After a kill, and with a larger number."""
    model, x, _ = runner()
    score = Likeness(model, x)

    def dies(network: nn.Module) -> Any:
        if score.calls == 4:
            raise KeyboardInterrupt
        return score(network)

    with pytest.raises(KeyboardInterrupt):
        searched(6, eval_fn=dies)
    assert len(json.loads(Path(".vai/Plain_ratio_0.5.search").read_text())["scores"]) == 3
    searched(6, eval_fn=score)
    assert score.calls == 1 + 6
    content = searched(11, eval_fn=score)
    assert score.calls == 1 + 11 and len(content["scores"]) == 11
    searched(11, eval_fn=score, forced=True)
    assert score.calls == 2 * (1 + 11)


def test_lower_is_better_when_said() -> None:
    _, _, found = runner()
    content = searched(5, eval_fn=lambda network: float(network.conv1.out_channels), mode="min")
    scores = list(content["scores"].values())
    assert scores == sorted(scores)
    assert found.prune().conv1.out_channels == found.prune(index=0).conv1.out_channels == scores[0]
    searched(5, eval_fn=lambda network: 1 / 0, mode="max")  # evaluates nothing anew
    assert found.prune().conv1.out_channels == scores[-1] > scores[0]


def test_the_divisor_and_the_excludes_hold_inside_the_search() -> None:
    model, _, found = runner()
    searched(2, channel_divisible=4, excludes=["Plain::Plain/Conv2d[conv1]/ret.1", model.bn1])
    slim = found.prune()
    assert slim.conv1.out_channels == 16 and slim.conv2.out_channels < 32
    assert slim.conv2.out_channels % 4 == slim.conv4.out_channels % 4 == 0
    with pytest.raises(ValueError, match=r"has multiples of 4, asked are 8: .*search\(channel_divisible=8"):
        found.prune(channel_divisible=8)


def test_scores_of_other_excludes_are_not_taken_over() -> None:
    """Without an excluded group a row of the file is another subnet; the same layers named otherwise are the same."""
    model, x, found = runner()
    score = Likeness(model, x)
    searched(3, eval_fn=score)
    with pytest.raises(ValueError, match=r"was made with excludes \[\], here \['conv2'\]; search\(forced=True\)"):
        searched(4, eval_fn=score, excludes=["conv2"])
    with pytest.raises(ValueError, match="was made with with_group_conv False, here True"):
        searched(4, eval_fn=score, with_group_conv=True)
    searched(3, eval_fn=score, excludes=["conv2"], forced=True)
    searched(3, eval_fn=score, excludes=[model.conv2])
    assert score.calls == 2 * (1 + 3)
    assert found.prune().conv2.out_channels == 32


def test_other_weights_are_not_scored_by_an_old_search() -> None:
    model, x = make("plain")
    found = get_pruning_runner(model, x, "one_step")
    arguments = {"eval_fn": Likeness(model, x), "num_subnet": 2}
    found.search(**arguments)  # type: ignore[arg-type]
    with torch.no_grad():
        model.conv1.weight.add_(1)
    with pytest.raises(ValueError, match="was made with weights_digest"):
        found.search(**arguments)  # type: ignore[arg-type]


def test_what_cannot_be_is_said_at_once() -> None:
    model, x, found = runner()
    with pytest.raises(ValueError, match="eval_fn is a function of a network that gives its score, got None"):
        found.search()
    with pytest.raises(ValueError, match=r"removal_ratio is a share between 0 and 1, got 1.5"):
        found.search(eval_fn=Likeness(model, x), removal_ratio=1.5)
    with pytest.raises(ValueError, match="this space reaches macs from"):
        found.search(eval_fn=Likeness(model, x), removal_ratio=0.999)
    with pytest.warns(UserWarning, match=r"500 candidates asked, the band has \d+ distinct ones"):
        only = ["conv2", "conv4"]
        found.search(eval_fn=lambda network: 1.0, num_subnet=500, removal_ratio=0.05, excludes=only)


def test_two_processes_find_what_one_finds() -> None:
    """The same candidates with the same statistics."""
    serial = searched(4, calibration_fn=steady)
    names = sorted(path.name for path in Path(".vai/Plain_ratio_0.5_statistics").iterdir())
    Path(".vai").rename("before")
    assert searched(4, calibration_fn=steady, gpus=["0", "1"]) == serial
    assert sorted(path.name for path in Path(".vai/Plain_ratio_0.5_statistics").iterdir()) == names


def steady(network: nn.Module, x: Tensor) -> None:
    """A calibration that is the same in every process."""
    network.train()
    with torch.no_grad():
        network(x)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_score_that_is_no_number_is_the_worst(mode: str) -> None:
    values = iter([0.5, 3.0, float("nan"), 1.0, float("nan"), 2.0, 0.25])
    found = list(searched(6, mode=mode, eval_fn=lambda network: next(values))["scores"].values())
    assert [value != value for value in found] == [True, True, False, False, False, False]
    assert found[2:] == sorted(found[2:])
    assert (
        runner()[2].prune().conv1.out_channels == runner()[2].prune(index=-1 if mode == "max" else 2).conv1.out_channels
    )
    searched(3, forced=True, eval_fn=lambda network: float("nan"))
    with pytest.raises(ValueError, match="all 3 candidates scored nan"):
        runner()[2].prune()
