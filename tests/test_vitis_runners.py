"""What all pruners of the drop-in hold to: numbers that are counted, one syntax of excludes, networks that export."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from networks import build
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from vitis_networks import Likeness, Plain, make, outputs

import ofa
from ofa.export import export_onnx, export_program
from ofa.search.problem import Problem
from ofa.search.pruning import OneStep
from ofa.search.vitis import (
    IterativePruningRunner,
    OFAPruner,
    OneStepPruningRunner,
    SparsePruner,
)
from ofa.slicing import L1
from ofa.space import Genome

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def analysed(model: nn.Module, inputs: Any, **settings: Any) -> IterativePruningRunner:
    runner = IterativePruningRunner(model, inputs, **settings)
    runner.ana(Likeness(model, inputs), grid=(0.3, 0.6), with_group_conv=True)
    return runner


def chain() -> nn.Module:
    """Three groups of 20 channels and more: all nine sparsities are widths of their own in twos."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 40, 3), nn.ReLU(), nn.Conv2d(40, 60, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(60, 10)).eval()


def test_the_full_grid_takes_nine_evaluations_a_group_and_one() -> None:
    model, x = chain(), torch.randn(2, 1, 8, 8)
    score = Likeness(model, x)
    IterativePruningRunner(model, x).ana(score)
    assert score.calls == 9 * 3 + 1


def test_a_finetuned_sparse_network_and_its_slim_one_have_the_same_logits() -> None:
    model, x = make("plain")
    runner = analysed(model, x)
    sparse, slim = runner.prune(0.3), runner.prune(0.3, mode="slim")
    optimizer = torch.optim.SGD(sparse.train().parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    before = outputs(slim, x)
    for _ in range(8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(sparse(x), torch.arange(4)).backward()
        optimizer.step()
    slim.load_state_dict(sparse.slim_state_dict())
    with torch.no_grad():
        after = outputs(slim.eval(), x)
        assert (outputs(sparse.eval(), x) - after).abs().max() < 1e-5
        assert (after - before).abs().max() > 0.1


def test_wide_multiples_meet_the_ratio() -> None:
    torch.manual_seed(0)
    model, x = Plain(64).eval(), torch.randn(2, 1, 4, 4)
    runner = analysed(model, x)
    slim = runner.prune(0.5, mode="slim", channel_divisible=16)
    assert all(m.out_channels % 16 == 0 for m in slim.modules() if isinstance(m, nn.Conv2d))
    assert counted(slim, x)[0] / counted(model, x)[0] == pytest.approx(0.5, abs=0.01)


def counted(model: nn.Module, inputs: Any) -> tuple[int, int]:
    """MACs of one sample by torch's own counter, and parameters."""
    batch = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        outputs(model, inputs)
    return counter.get_total_flops() // 2 // batch, sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["plain", "depthwise", "grouped", "transposed", "two_inputs"])
def test_macs_of_the_table_and_the_file_are_counted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs = make(name)
    runner = analysed(model, inputs)
    capsys.readouterr()
    slim = runner.prune(0.5, mode="slim")
    facts = json.loads(next(Path(".vai").glob("*_pruning_info.json")).read_text())
    macs, params = counted(slim, inputs)
    assert (facts["macs"], facts["params"]) == (macs, params)
    text = capsys.readouterr().err
    whole = counted(model, inputs)
    for row, before, after in (("MACs", whole[0], macs), ("Params", whole[1], params)):
        line = next(line for line in text.splitlines() if row in line)
        assert f"{1 - after / before:.1%}" in line and f"{after / 1e3:#.4g} k" in line


@cache
def widths(name: str) -> ofa.Supernet:
    config = ofa.SpaceConfig("multiples", kernel=False, depth=False, divisor=2, proof="off")
    return ofa.Supernet(*build(name), config)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("name", ["resnet", "mobilenetv2"])
def test_nearly_all_proposals_are_accepted(name: str, ratio: float) -> None:
    """Nine of ten lie in the band as they are constructed, and at least 95 % once those nearby are moved."""
    supernet = widths(name)
    whole = supernet.cost(supernet.space.largest).macs
    band = [1 - ratio - 0.01, 1 - ratio + 0.01]
    search = OneStep(10, 10).start(Problem.parse(supernet.space, ["accuracy"], supernet.costs, {"macs": band}))
    proposed: Genome = search.proposer.propose(search.ledger, 100, search.rng)
    removed = 1 - supernet.costs(proposed)["macs"] / whole
    assert np.mean(np.abs(removed - ratio) <= 0.01) >= 0.9
    moved = search.problem.repaired(proposed, search.rng)
    assert len(moved) >= 95 and (np.abs(1 - supernet.costs(moved)["macs"] / whole - ratio) <= 0.01 + 1e-9).all()
    assert len(np.unique(proposed, axis=0)) == 100


def meddling(network: nn.Module) -> float:
    """A score that leaves nothing of its network as it was."""
    value = network(torch.ones(1, 1, 8, 8)).square().mean().item()
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.mul_(2)
    network.register_forward_hook(lambda module, inputs, output: output + 1)
    network[0].register_buffer("more", torch.zeros(1))
    network[3].weight = nn.Parameter(torch.zeros(1))
    network[1] = nn.Identity()
    del network[8]
    return value


def test_what_a_score_does_to_its_network_is_undone() -> None:
    """Scores are those of a copy; the next analysis finds the network whole."""
    model = chain()
    x, alone, shared = torch.randn(2, 1, 8, 8), Path("alone"), Path("shared")
    for folder, score in ((alone, lambda network: meddling(copy.deepcopy(network))), (shared, meddling)):
        runner = IterativePruningRunner(model, x)
        for _ in range(2):
            runner.ana(score, grid=(0.3, 0.6), forced=True)
        Path(".vai/Sequential.sens").rename(folder)
    assert alone.read_text() == shared.read_text()


class Special(nn.Conv2d):
    """A type of which a network has one."""


WAYS = {
    "name": "conv4",
    "glob": "*v4",
    "module": lambda model: model.conv4,
    "type": Special,
    "predicate": lambda name, module: name.endswith("4") and isinstance(module, nn.Conv2d),
    "node": "Plain::Plain/Special[conv4]/ret.7",
}


@cache
def plain_with_a_special_layer() -> tuple[nn.Module, Any, dict[str, Any]]:
    model, x = make("plain")
    model.conv4 = Special(32, 48, 3, padding=1)
    return model, x, {kind: kind(model, x) for kind in (IterativePruningRunner, OneStepPruningRunner)}


def reached(pruner: str, excludes: Any) -> set[str]:
    """The layers whose outputs, or weights, a pruner changes."""
    model, x, runners = plain_with_a_special_layer()
    if pruner in ("iterative", "one_step"):
        kind = IterativePruningRunner if pruner == "iterative" else OneStepPruningRunner
        return {n for g in runners[kind].open_groups(runners[kind].supernet(2), excludes, True) for n in g.nodes}
    if pruner == "once_for_all":
        found = OFAPruner(model, x)
        supernet = found.ofa_model(auto_add_excludes=False, excludes=excludes)
        smallest = found.get_static_subnet(supernet, found.sample_subnet(supernet, "min")[1])[0]
        wide, narrow = (dict(net.named_modules()) for net in (model, smallest))
        return {n for n, m in wide.items() if getattr(m, "out_channels", 0) > getattr(narrow[n], "out_channels", 0)}
    sparse = SparsePruner(model).sparse_model(block_size=8, excludes=excludes)
    exported = dict(SparsePruner.export_sparse_model(sparse).named_parameters())
    return {n.removesuffix(".weight") for n, p in model.named_parameters() if not torch.equal(p, exported[n])}


@pytest.mark.parametrize("pruner", ["iterative", "one_step", "once_for_all", "sparse"])
def test_one_exclude_means_the_same_layer_to_every_pruner(pruner: str) -> None:
    model = plain_with_a_special_layer()[0]
    everything = reached(pruner, None)
    assert {"conv2", "conv3", "conv4"} <= everything
    for way, value in WAYS.items():
        selector = value(model) if way == "module" else value  # type: ignore[operator]
        assert reached(pruner, [selector]) == reached(pruner, selector) == everything - {"conv4"}, way
    with pytest.raises(ValueError, match="exclude 'conv9' matches no module"):
        reached(pruner, ["conv9"])


@pytest.mark.parametrize("pruner", ["iterative", "one_step", "once_for_all"])
def test_an_excluded_normalisation_keeps_the_layers_before_it(pruner: str) -> None:
    model = plain_with_a_special_layer()[0]
    assert reached(pruner, ["bn2"]) == reached(pruner, model.bn2) == reached(pruner, None) - {"conv2", "conv3"}
    assert not reached(pruner, nn.BatchNorm2d) & {"conv1", "conv2", "conv3"}


@pytest.mark.parametrize("name", ["depthwise", "transposed", "two_inputs"])
def test_slim_networks_export(name: str, folder: Path) -> None:
    """To ONNX, run by onnxruntime, and by torch.export."""
    model, inputs = make(name)
    slim = analysed(model, inputs).prune(0.5, mode="slim")
    wanted = outputs(slim, inputs).detach()
    export_onnx(slim, inputs, folder / "net.onnx")
    session = onnxruntime.InferenceSession(folder / "net.onnx", providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    tensors = [inputs[n] for n in names] if isinstance(inputs, dict) else [inputs]
    found = session.run(None, {n: t.numpy() for n, t in zip(names, tensors, strict=True)})
    assert np.allclose(np.concatenate([a.ravel() for a in found]), wanted.numpy(), atol=1e-5)
    export_program(slim, inputs, folder / "net.pt2")
    again = torch.export.load(folder / "net.pt2").module()
    assert torch.allclose(outputs(again, inputs), wanted, atol=1e-6)


FRESH = """
import os, sys, torch
sys.path.insert(0, "tests")
from vitis_networks import Depthwise, Likeness
from ofa.vitis import IterativePruningRunner, OneStepPruningRunner, slim_model_from_state_dict, transform_to_slim_model
from ofa.search.problem import Problem
os.chdir(sys.argv[1])
assert not torch.cuda.is_available()
saved = torch.load("saved.pt")
info = ".vai/Depthwise_ratio_0.5_pruning_info.json"
for net in (transform_to_slim_model(Depthwise().eval(), saved["state"], info),
            slim_model_from_state_dict(Depthwise().eval(), saved["state"])):
    torch.testing.assert_close(net(saved["x"]), saved["y"])
model = Depthwise().eval()
model.load_state_dict(saved["whole"])
score = Likeness(model, saved["x"])
runner = IterativePruningRunner(model, saved["x"])
runner.ana(score, grid=(0.3, 0.6), with_group_conv=True, gpus=["0"])
assert score.calls == 0
again = runner.prune(0.5, mode="slim")
torch.testing.assert_close(again(saved["x"]), saved["y"])
one = OneStepPruningRunner(model, saved["x"])
one.search(num_subnet=2, eval_fn=score)
assert score.calls == 3
"""


def test_a_process_without_a_gpu_goes_on_from_the_files(folder: Path) -> None:
    """It rebuilds the slim network from the file that `prune` left, and prunes from the analysis, to the same one."""
    model, x = make("depthwise")
    slim = analysed(model, x).prune(0.5, mode="slim")
    saved = {"x": x, "y": slim(x).detach(), "state": slim.state_dict(), "whole": model.state_dict()}
    torch.save(saved, folder / "saved.pt")
    place = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FRESH, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("importance", ["taylor", "fisher"])
def test_gradients_of_the_users_network_rank(importance: str) -> None:
    """What a loss does not feel goes first; without a backward pass before each call there is nothing to rank by."""
    model, x = make("plain")
    runner = IterativePruningRunner(model, x, importance=importance)
    with pytest.raises(ValueError, match="this importance needs gradients: run a loss backward"):
        runner.ana(Likeness(model, x))
    model(x).square().mean().backward()
    unfelt = torch.zeros(48, dtype=torch.bool)
    unfelt[torch.randperm(48, generator=torch.Generator().manual_seed(2))[:24]] = True
    for parameter in (model.conv4.weight, model.conv4.bias):
        parameter.grad[unfelt] = 0
    model.fc.weight.grad[:, unfelt] = 0
    runner.ana(lambda network: float(network.conv4.out_channels < 24), mode="min", grid=(0.25, 0.5))
    slim = runner.prune(threshold=0, mode="slim")
    kept = slim.conv4.out_channels
    rows = {tuple(row.tolist()) for row in model.conv4.bias.detach()[~unfelt, None]}
    assert kept < 48 and rows <= {tuple(row.tolist()) for row in slim.conv4.bias.detach()[:, None]}


def flat(parameter: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.ones(parameter.shape[dim])


def test_scores_by_one_importance_are_not_taken_for_anothers() -> None:
    """Files name it; those of Vitis' own, which do not, are accepted."""
    model, x = make("plain")
    search = Path(".vai/Plain_ratio_0.5.search")
    OneStepPruningRunner(model, x).search(num_subnet=2, eval_fn=Likeness(model, x))
    analysed(model, x)
    assert {json.loads(path.read_text())["importance"] for path in (search, Path(".vai/Plain.sens"))} == {"l1"}
    for other, name in (("random", "random"), (flat, f"{__name__}.flat")):
        one = OneStepPruningRunner(model, x, importance=other)
        with pytest.raises(ValueError, match=f"was made with importance 'l1', here '{name}'"):
            one.prune(removal_ratio=0.5)
        with pytest.raises(ValueError, match=f"was made with importance 'l1', here '{name}'"):
            one.search(num_subnet=3, eval_fn=Likeness(model, x))
        two = IterativePruningRunner(model, x, importance=other)
        with pytest.raises(ValueError, match=f"was made with importance='l1', asked is '{name}'"):
            two.ana(Likeness(model, x))
        with pytest.raises(ValueError, match=f"importance='l1', that of this runner is '{name}'"):
            two.prune(0.5)
    OneStepPruningRunner(model, x, importance=L1()).prune(removal_ratio=0.5)
    for path in (search, Path(".vai/Plain.sens")):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "importance"}))
    one.prune(removal_ratio=0.5)
    two.prune(0.5)


def test_scores_by_some_gradients_are_not_taken_for_others() -> None:
    model, x = make("plain")
    model(x).square().mean().backward()
    one, two = (
        OneStepPruningRunner(model, x, importance="taylor"),
        IterativePruningRunner(model, x, importance="fisher"),
    )
    one.search(num_subnet=2, eval_fn=Likeness(model, x))
    one.prune()
    calls: list[int] = []

    def dying(network: nn.Module) -> float:
        calls.append(0)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        two.ana(dying)
    model(x).square().mean().backward()
    with pytest.raises(ValueError, match="was made with gradients_digest"):
        one.prune()
    with pytest.raises(ValueError, match="unfinished analysis of other gradients"):
        two.ana(dying)


@pytest.mark.parametrize("kind", [IterativePruningRunner, OneStepPruningRunner, OFAPruner])
def test_a_sparse_network_is_pruned_on_from_its_weights_alone(kind: Any) -> None:
    model, x = make("plain")
    sparse = analysed(model, x).prune(0.3)
    for given in (sparse, copy.deepcopy(sparse), nn.DataParallel(sparse)):
        with pytest.raises(ValueError, match=r"this Plain is the sparse result of prune\(\), asked is the network"):
            kind(given, x)
    model.load_state_dict(sparse.state_dict())
    kind(model, x)
