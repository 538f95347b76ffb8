"""What the drop-in says: which scores are better, how far it is, what it wrote, and why an argument makes no sense."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from vitis_networks import Likeness, Plain, make

from ofa.search.vitis import IterativePruningRunner, OneStepPruningRunner, calibrate_bn
from ofa.search.vitis import errors as room
from ofa.search.vitis.direction import direction
from ofa.vitis import UnreachableRatio, errors


@cache
def runners() -> tuple[nn.Module, Any, IterativePruningRunner, OneStepPruningRunner]:
    model, x = make("plain")
    return model, x, IterativePruningRunner(model, x), OneStepPruningRunner(model, x)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def widths(network: nn.Module) -> list[int]:
    return [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("adaptive", [False, True])
def test_losses_are_told_from_scores_by_an_analysis(adaptive: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a word about it the same network as with mode="min"; what is said wins."""
    model, x, found, _ = runners()
    likeness = Likeness(model, x)
    found.ana(lambda network: 200 - likeness(network, 1e5), adaptive=adaptive)
    assert "lower scores are better, as it seems (of " in capsys.readouterr().err
    inferred, file = widths(found.prune(0.5, mode="slim")), Path(".vai/Plain.sens").read_text()
    assert json.loads(file)["mode"] == ""
    calls = likeness.calls
    if not adaptive:
        found.ana(lambda network: 200 - likeness(network, 1e5), mode="max")  # which is wrong, and said
        assert likeness.calls == calls and "mode='max' is taken as said, though of 25" in capsys.readouterr().err
        assert widths(found.prune(0.5, mode="slim")) != inferred
    found.ana(lambda network: 200 - likeness(network, 1e5), mode="min", adaptive=adaptive)
    assert likeness.calls == calls and "mode=" not in capsys.readouterr().err
    assert widths(found.prune(0.5, mode="slim")) == inferred
    found.ana(lambda network: likeness(network, 1e5), forced=True, adaptive=adaptive)
    assert "higher scores are better, as it seems (of " in capsys.readouterr().err
    assert widths(found.prune(0.5, mode="slim")) == inferred


def test_losses_are_told_from_scores_by_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    model, x, _, found = runners()
    likeness = Likeness(model, x)
    settings: dict[str, Any] = {"calibration_fn": calibrate_bn, "calib_args": ([x],), "num_subnet": 6}
    found.search(eval_fn=likeness, **settings)
    assert "higher scores are better, as it seems (of 6 pruned networks 0 score above" in capsys.readouterr().err
    best = widths(found.prune())
    found.search(eval_fn=lambda network: 100 - likeness(network), forced=True, **settings)
    assert "lower scores are better, as it seems (of 6 pruned networks 6 score above" in capsys.readouterr().err
    assert widths(found.prune()) == widths(found.prune(index=0)) == best
    found.search(eval_fn=likeness, mode="max", **settings)
    assert "mode='max' is taken as said, though of 6" in capsys.readouterr().err
    assert widths(found.prune()) != best


def swinging(network: nn.Module) -> float:
    """Better and worse by as much."""
    change = network.conv1.out_channels - 16 or network.conv2.out_channels - 32
    return 50.0 + (change if network.conv1.out_channels != 16 else -change * 140 / 288)


def test_what_cannot_be_told_is_asked_for() -> None:
    """Once, in a line that names the call, which evaluates nothing; also from a file."""
    _, _, iterative, one_step = runners()
    message = (
        r"higher or lower scores are better cannot be told, of \d+ pruned .*: ana\(mode='max'\) or ana\(mode='min'\)"
    )
    for call in (lambda: iterative.ana(swinging, excludes=["conv4"]), lambda: iterative.prune(0.2)):
        with pytest.raises(errors.OptimizerInvalidArgumentError, match=message):
            call()
    iterative.ana(lambda network: 1 / 0, excludes=["conv4"], mode="max")
    iterative.prune(0.2)
    with pytest.raises(errors.OptimizerInvalidArgumentError, match=message):
        iterative.ana(swinging, adaptive=True, forced=True, excludes=["conv4"], grid=(0.3, 0.6))
    values = iter([50.0, 40.0, 60.0, 45.0, 55.0])
    for call in (lambda: one_step.search(num_subnet=4, eval_fn=lambda network: next(values)), lambda: one_step.prune()):
        with pytest.raises(ValueError, match=r"cannot be told, of 4 pruned networks 2 score above the whole one's 50"):
            call()
    one_step.prune(index=1)
    one_step.search(num_subnet=4, eval_fn=lambda network: 1 / 0, mode="min")
    one_step.prune()


def test_directions() -> None:
    assert direction(50, [49, 40, 51]) == "max" and direction(0.1, [0.2, float("nan"), float("inf")]) == "min"
    assert direction(50, [49, 51]) == "" and direction(1, [1, 1]) == direction(1, []) == "max"


def test_a_fresh_network_is_pruned_to_the_shapes_of_finetuned_weights(capsys: pytest.CaptureFixture[str]) -> None:
    """After one step as after an analysis; another network is refused."""
    model, x, _, found = runners()
    settings: dict[str, Any] = {"calibration_fn": calibrate_bn, "calib_args": ([x],), "num_subnet": 3}
    found.search(eval_fn=Likeness(model, x), **settings)
    tuned, fresh = found.prune(mode="slim"), Plain().eval()
    capsys.readouterr()
    slim = OneStepPruningRunner(fresh, x).prune(removal_ratio=0.5, mode="slim")
    assert "has scores of other weights than this Plain's: it is pruned to the same shapes" in capsys.readouterr().err
    slim.load_state_dict(tuned.state_dict())
    assert torch.equal(slim(x), tuned(x))
    sparse = OneStepPruningRunner(fresh, x).prune(removal_ratio=0.5, mode="sparse")
    assert {n: t.shape for n, t in sparse.slim_state_dict().items()} == {
        n: t.shape for n, t in slim.state_dict().items()
    }
    with pytest.raises(ValueError, match="was made with graph_digest"):
        OneStepPruningRunner(Plain(24).eval(), x).prune(removal_ratio=0.5)


def test_a_log_has_a_line_at_each_tenth_and_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    model, x, iterative, one_step = runners()
    iterative.ana(Likeness(model, x))
    lines = capsys.readouterr().err.splitlines()
    done = [line for line in lines if line.startswith("analysis: ")]
    assert len(done) == 10 and done[-1] == "analysis: 26 of 26" and "wrote .vai/Plain.sens" in lines
    iterative.prune(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert "wrote .vai/Plain_ratio_0.3.spec" in lines and "wrote .vai/Plain_ratio_0.3_pruning_info.json" in lines
    one_step.search(eval_fn=Likeness(model, x), calibration_fn=calibrate_bn, calib_args=([x],), num_subnet=20)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "search: " in line] == [f"search: {2 * n} of 20" for n in range(1, 11)]
    assert "wrote .vai/Plain_ratio_0.5.search and .vai/Plain_ratio_0.5_statistics/" in lines
    one_step.prune()
    assert "wrote .vai/Plain_ratio_0.5_best.spec" in capsys.readouterr().err.splitlines()


def test_a_search_without_calibration_says_whose_statistics_score(capsys: pytest.CaptureFixture[str]) -> None:
    model, x, _, found = runners()
    words = "without calibration_fn scores candidates with the batch statistics of the large network"
    found.search(eval_fn=Likeness(model, x), num_subnet=1)
    assert words in capsys.readouterr().err
    found.search(eval_fn=Likeness(model, x), num_subnet=2, calibration_fn=calibrate_bn, calib_args=([x],))
    assert words not in capsys.readouterr().err


def score(network: nn.Module) -> float:
    raise AssertionError("nothing is evaluated")


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "index": (lambda i, o: o.prune(index="2"), r"index is a whole number, or None for the best, got '2'"),
    "gpus in a string": (lambda i, o: i.ana(score, gpus="0,1"), r"gpus is a list of .* \['0', '1'\], got '0,1'"),
    "gpus in a string of a search": (lambda i, o: o.search(gpus="0,1", eval_fn=score), r"gpus is a list .* got '0,1'"),
    "one gpu": (lambda i, o: i.ana(score, gpus=1), r"gpus is a list of their numbers, such as .*, got 1$"),
    "gpus of words": (lambda i, o: i.ana(score, gpus=["first"]), r"gpus is a list of .*, got \['first'\]"),
    "args": (
        lambda i, o: i.ana(score, 5),
        r"args is a tuple of what eval_fn takes .*, got int: args=\(…,\) with a comma",
    ),
    "eval_args": (
        lambda i, o: o.search(eval_fn=score, eval_args="xy"),
        r"eval_args is a tuple of .*, got str: eval_args=",
    ),
    "calib_args": (
        lambda i, o: o.search(eval_fn=score, calibration_fn=calibrate_bn, calib_args={}),
        r"calib_args is a tuple of what calibration_fn takes besides the network, got dict: calib_args=",
    ),
    "no eval_fn": (lambda i, o: i.ana(None), r"eval_fn is a function of a network that gives its score, got None"),
    "no eval_fn of a search": (lambda i, o: o.search(), r"eval_fn is a function of a network that .*, got None"),
    "no calibration": (lambda i, o: i.ana(score, calibration_fn=3), r"calibration_fn is a function of a .*, got 3"),
    "a mode": (
        lambda i, o: i.ana(score, mode="best"),
        r"mode is 'max' or 'min', for what a better score is, got 'best'",
    ),
    "a divisor": (
        lambda i, o: i.prune(0.5, channel_divisible=True),
        r"channel_divisible is a whole number .*, got True",
    ),
    "a divisor of a search": (
        lambda i, o: o.search(eval_fn=score, channel_divisible=True),
        r"channel_divisible is a whole number of at least 1, got True",
    ),
    "a divisor after a search": (lambda i, o: o.prune(channel_divisible=True), r"channel_divisible is .*, got True"),
    "a share": (lambda i, o: o.search(eval_fn=score, removal_ratio=True), r"removal_ratio is a share .*, got True"),
    "a share in words": (lambda i, o: o.search(eval_fn=score, removal_ratio="0.5"), r"removal_ratio .*, got '0.5'"),
    "candidates": (lambda i, o: o.search(eval_fn=score, num_subnet=True), r"num_subnet is a whole .* 1, got True"),
    "half a candidate": (lambda i, o: o.search(eval_fn=score, num_subnet=2.5), r"num_subnet is .*, got 2.5"),
    "a seed": (lambda i, o: o.search(eval_fn=score, seed=True), r"seed is a whole number of at least 0, got True"),
    "prune before search": (
        lambda i, o: o.prune(removal_ratio=0.5),
        r"^there is no search to prune from: call search\(removal_ratio=0.5, eval_fn=…\) before prune\(\)$",
    ),
    "prune before ana": (lambda i, o: i.prune(0.5), r"call ana\(\) before prune\(\)"),
    "excludes": (
        lambda i, o: i.ana(score, excludes=["conv*"]),
        r"^nothing of Plain can be pruned: excluded by 'conv\*' bars all 3 groups$",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_gets_one_clear_line(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(errors.OptimizerError, match=message) as error:
        call(*runners()[2:])
    assert "\n" not in str(error.value) and error.value.message == str(error.value)
    assert not Path(".vai").exists()


def test_prune_advises_no_argument_that_it_lacks() -> None:
    """What helps is a call by its name."""
    model, x, found, one_step = runners()
    found.ana(Likeness(model, x))
    found.prune(0.3)
    one_step.search(eval_fn=Likeness(model, x), num_subnet=1)
    wider, messages = Plain(24).eval(), []
    for kind, arguments in (
        (IterativePruningRunner, {"removal_ratio": 0.3}),
        (IterativePruningRunner, {"spec_path": ".vai/Plain_ratio_0.3.spec"}),
        (OneStepPruningRunner, {"removal_ratio": 0.5}),
    ):
        with pytest.raises(ValueError, match=r"Plain") as error:
            kind(wider, x).prune(**arguments)
        messages.append(str(error.value))
    lacking = {"forced", "with_group_conv"} - set(inspect.signature(IterativePruningRunner.prune).parameters)
    for message in messages:
        for name in lacking:
            assert f"{name}=" not in message.replace("ana(forced=True)", "").replace("search(forced=True)", "")


def test_errors_have_vitis_names_and_are_value_errors() -> None:
    assert all(issubclass(getattr(errors, name), ValueError) for name in errors.__all__)
    own = [name for name, value in vars(room).items() if inspect.isclass(value)]
    assert sorted(own) == errors.__all__ and issubclass(UnreachableRatio, errors.OptimizerError)
    with pytest.raises(errors.OptimizerNoAnaResultsError):
        runners()[2].prune(0.5)
    with pytest.raises(errors.OptimizerNoAnaResultsError):
        runners()[3].prune(removal_ratio=0.9)
    Path(".vai").mkdir()
    Path(".vai/Plain.sens").write_text(json.dumps({"groups": [{}]}))
    with pytest.raises(errors.OptimizerInvalidAnaResultError):
        runners()[2].prune(0.5)


def test_pruning_information_is_written_where_asked() -> None:
    model, x, _, _ = runners()
    found = IterativePruningRunner(model, x)
    with pytest.raises(errors.OptimizerError, match=r"call prune\(\) before generate_pruning_info\(\)"):
        found.generate_pruning_info("info.json")
    found.ana(lambda network: 1.0, mode="max", grid=(0.5,))
    found.prune(0.5)
    found.generate_pruning_info("info.json")
    content = Path(".vai/Plain_ratio_0.5_pruning_info.json").read_text()
    assert Path("info.json").read_text() == content
    found.generate_pruning_info("again.json", json.loads(content))
    assert json.loads(Path("again.json").read_text()) == json.loads(content)
