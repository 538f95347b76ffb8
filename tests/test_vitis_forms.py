"""Sparse and slim forms of pruned networks, and their state dicts."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from vitis_networks import NETWORKS, make, outputs

import ofa
from ofa.persistence import plan_to_json
from ofa.search.vitis import slim_model_from_state_dict, slim_state_dict, sparse_state_dict, transform_to_slim_model
from ofa.search.vitis.information import write_information
from ofa.search.vitis.sparse_and_slim import slim_network, sparse_network
from ofa.search.vitis.unpruned import Remaining
from ofa.slicing import Plan
from ofa.vitis.utils import module_util
from ofa.vitis.utils import slim as slim_utility

each_network = pytest.mark.parametrize("name", NETWORKS)


@cache
def planned(name: str) -> tuple[nn.Module, Any, Plan]:
    """A network, its inputs, and the plan of a subnet whose units are scattered."""
    model, x = make(name)
    config = ofa.SpaceConfig("multiples", kernel=False, depth=False, divisor=2)
    supernet = ofa.Supernet(model, x, config)
    supernet.sort(Remaining("l1"), move=False)
    half = {c.name: c.options[len(c.options) // 2 - 1] for c in supernet.space.choices}
    plan = supernet.plan(ofa.Subnet(half))
    assert any(isinstance(i, torch.Tensor) for index in plan.indices.values() for i in index)
    return model, x, plan


def removed(model: nn.Module, plan: Plan) -> dict[str, torch.Tensor]:
    """Where something is removed from each tensor."""
    ones = {name: torch.ones_like(t, dtype=torch.float32) for name, t in model.state_dict().items()}
    kept = slim_network(model, plan)
    whole = copy.deepcopy(model).float()
    state = {n: torch.ones_like(t, dtype=whole.state_dict()[n].dtype) for n, t in kept.state_dict().items()}
    kept.float().load_state_dict(state)
    return {name: (tensor == 0) & (ones[name] == 1) for name, tensor in kept.sparse_state_dict().items()}


@each_network
def test_sparse_and_slim_compute_the_same(name: str) -> None:
    """For every kind of convolution, for several inputs and outputs in a dict."""
    model, x, plan = planned(name)
    sparse, slim = sparse_network(model, plan), slim_network(model, plan)
    assert type(sparse) is type(slim) is type(model)
    with torch.no_grad():
        assert (outputs(sparse, x) - outputs(slim, x)).abs().max() < 1e-6
    assert sum(p.numel() for p in slim.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
    assert {n: t.shape for n, t in sparse.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}


@each_network
def test_what_is_removed_stays_zero_in_training(name: str) -> None:
    """SGD with momentum and weight decay; the slim network learns the same."""
    model, x, plan = planned(name)
    sparse, slim, gone = sparse_network(model, plan), slim_network(model, plan), removed(model, plan)
    for net in (sparse, slim):
        net.train()
        optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            outputs(net, x).square().mean().backward()
            optimizer.step()
    state = sparse.state_dict()
    assert any(where.any() for where in gone.values())
    assert all(not state[name][where].any() for name, where in gone.items())
    for name, tensor in slim.state_dict().items():
        assert torch.allclose(sparse.slim_state_dict()[name], tensor, atol=1e-4), name


@each_network
def test_state_dicts_go_both_ways(name: str, tmp_path: Path) -> None:
    """Strictly, by methods and by functions of a file, without tracing."""
    model, x, plan = planned(name)
    sparse, slim = sparse_network(model, plan), slim_network(model, plan)
    sparse.load_state_dict(sparse.state_dict())
    slim.load_state_dict(sparse.slim_state_dict())
    path = tmp_path / "info.json"
    write_information(path, model, plan, {})
    for full in (slim.sparse_state_dict(), sparse_state_dict(slim.state_dict(), model, path)):
        assert all(torch.equal(full[name], tensor) for name, tensor in sparse.state_dict().items())
    narrow = slim_state_dict(sparse.state_dict(), model, path)
    assert all(torch.equal(narrow[name], tensor) for name, tensor in slim.state_dict().items())
    baseline = make(name)[0]
    baseline.load_state_dict(sparse.state_dict())
    assert (outputs(baseline, x) - outputs(sparse, x)).abs().max() < 1e-5
    for state in (sparse.state_dict(), slim.state_dict()):
        fresh = make(name)[0]
        assert transform_to_slim_model(fresh, state, path) is fresh
        assert torch.equal(outputs(fresh, x), outputs(slim, x))


@each_network
def test_weights_alone_make_the_slim_network(name: str) -> None:
    """As in Vitis with two arguments, and its parameters stay the same objects; depthwise and grouped ones, too."""
    model, x, plan = planned(name)
    slim, fresh = slim_network(model, plan), make(name)[0]
    parameters = list(map(id, fresh.parameters()))
    assert slim_model_from_state_dict(fresh, slim.state_dict()) is fresh
    assert torch.equal(outputs(fresh, x), outputs(slim, x)) and list(map(id, fresh.parameters())) == parameters
    for one, other in zip(fresh.modules(), slim.modules(), strict=True):
        assert repr(one) == repr(other)
    for load in (slim_utility.load_state_dict, module_util.slim_model_from_state_dict):
        again = load(make(name)[0], slim.state_dict())
        assert torch.equal(outputs(again, x), outputs(slim, x))
    assert module_util.transform_to_slim_model is transform_to_slim_model


def test_weights_that_do_not_say_what_becomes_of_a_layer_are_refused() -> None:
    """And leave the network as it was."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(4, 8))
    state = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(4, 4)).state_dict()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"what 1, a GroupNorm, becomes: transform_to_slim_model\(model, state_dict, json"
    ):
        slim_model_from_state_dict(model, state)
    with pytest.raises(
        ValueError, match=r"not of a Sequential: \['1.bias', '1.weight', '2.weight'\] is in one of both"
    ):
        slim_model_from_state_dict(model, {"0.weight": state["0.weight"], "0.bias": state["0.bias"], "2.weight": 0})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def each(name: str) -> Callable[[nn.Module], Any]:
    """An attribute of every module, None where there is none."""
    return lambda net: [getattr(module, name, None) for module in net.modules()]


def tensors(name: str) -> Callable[[nn.Module], Any]:
    """What all tensors of a network have as an attribute."""
    return lambda net: [getattr(tensor, name) for tensor in net.state_dict(keep_vars=True).values()]


KEPT: dict[str, tuple[Callable[[Any], Any], Callable[[nn.Module], Any]]] = {
    "padding_mode": (lambda net: setattr(net.depth[0], "padding_mode", "circular"), each("padding_mode")),
    "dtype": (lambda net: net.double(), tensors("dtype")),
    "requires_grad": (lambda net: net.expand[0].weight.requires_grad_(False), tensors("requires_grad")),
    "hooks": (
        lambda net: net.project.register_forward_hook(lambda *_: None),
        lambda net: len(net.project._forward_hooks),
    ),
    "device": (lambda net: net.to("meta"), tensors("device")),
    "training": (lambda net: net.expand.train(), each("training")),
    "attribute": (lambda net: setattr(net.bn, "note", "mine"), each("note")),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_a_module_has_besides_weights_is_kept(name: str) -> None:
    model, _, plan = planned("depthwise")
    model, (change, found) = copy.deepcopy(model), KEPT[name]
    before = found(model)
    change(model)
    assert found(model) != before
    for net in (sparse_network(model, plan), slim_network(model, plan)):
        assert found(net) == found(model)


def test_a_users_buffer_named_as_a_mask_is_kept() -> None:
    model, _, plan = planned("plain")
    for net in (sparse_network(model, plan), slim_network(model, plan)):
        assert torch.equal(net.state_dict()["attn_mask"], model.attn_mask)


def test_dense_weights_loaded_into_a_sparse_network_are_cut() -> None:
    model, x, plan = planned("plain")
    sparse, gone = sparse_network(model, plan), removed(model, plan)
    sparse.load_state_dict(model.state_dict())
    assert all(not sparse.state_dict()[name][where].any() for name, where in gone.items())
    wrapped = nn.Sequential(sparse)
    wrapped.load_state_dict({f"0.{name}": tensor for name, tensor in model.state_dict().items()})
    assert all(not sparse.state_dict()[name][where].any() for name, where in gone.items())
    with torch.no_grad():
        assert torch.equal(wrapped(x), slim_network(model, plan)(x))


def test_copies_have_methods_of_their_own_and_files_are_free_of_this_library(tmp_path: Path) -> None:
    model, x, plan = planned("plain")
    for net, method in (
        (sparse_network(model, plan), "slim_state_dict"),
        (slim_network(model, plan), "sparse_state_dict"),
    ):
        twin = copy.deepcopy(net)
        with torch.no_grad():
            twin.conv1.weight.zero_()
            assert torch.equal(net(x), slim_network(model, plan)(x))
        assert not getattr(twin, method)()["conv1.weight"].any() and getattr(net, method)()["conv1.weight"].any()
        torch.save(net, tmp_path / f"{method}.pt")
        again = torch.load(tmp_path / f"{method}.pt", weights_only=False)
        assert torch.equal(again(x), net(x))
    with pytest.raises(KeyError, match=r"a pickled slim network has no sparse_state_dict\(\): call that of ofa"):
        again.sparse_state_dict()
    program = f"""
import sys, torch
sys.path.insert(0, "tests")
net = torch.load("{tmp_path}/sparse_state_dict.pt", weights_only=False)
assert not any(name.partition(".")[0] == "ofa" for name in sys.modules)
net(torch.ones(1, 1, 8, 8))
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


def test_a_failed_pass_leaves_no_slices_behind() -> None:
    model, x, plan = planned("plain")
    sparse = sparse_network(model, plan)
    with pytest.raises(RuntimeError):
        sparse(torch.randn(1, 3, 8, 8))
    assert sparse.conv1.weight.shape == model.conv1.weight.shape and isinstance(sparse.conv1.weight, nn.Parameter)
    assert torch.equal(sparse(x), slim_network(model, plan)(x))


def test_statistics_move_in_training_and_not_in_evaluation() -> None:
    model, x, plan = planned("plain")
    sparse = sparse_network(model, plan).eval()
    before = {name: tensor.clone() for name, tensor in sparse.state_dict().items()}
    sparse(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in sparse.state_dict().items())
    slim = slim_network(model, plan).train()
    sparse.train()
    sparse(x), slim(x)
    assert not torch.equal(sparse.bn1.running_mean, before["bn1.running_mean"])
    for name, buffer in slim.named_buffers():
        assert torch.equal(sparse.slim_state_dict()[name], buffer), name


def test_the_information_lists_removed_channels_on_both_sides(tmp_path: Path) -> None:
    """Also of depthwise, grouped and transposed convolutions."""
    for name in NETWORKS:
        model, _, plan = planned(name)
        write_information(tmp_path / f"{name}.json", model, plan, {"macs": 1})
        rows = json.loads((tmp_path / f"{name}.json").read_text())["modules"]
        slim = slim_network(model, plan)
        for path, module in slim.named_modules():
            if path in rows and isinstance(module, nn.modules.conv._ConvNd):
                assert (rows[path]["out_dim"], rows[path]["in_dim"]) == (module.out_channels, module.in_channels), path
                whole = model.get_submodule(path)
                assert len(rows[path]["removed_outputs"]) == whole.out_channels - module.out_channels
                assert len(rows[path]["removed_inputs"]) == whole.in_channels - module.in_channels
            elif path in rows and isinstance(module, nn.Linear):
                assert (rows[path]["out_dim"], rows[path]["in_dim"]) == (module.out_features, module.in_features)
    gone = json.loads((tmp_path / "grouped.json").read_text())["modules"]["grouped"]["removed_inputs"]
    places = [{i % 6 for i in gone if i // 6 == group} for group in range(4)]
    assert len({len(p) for p in places}) == 1 and len(set(map(frozenset, places))) > 1  # as many of each, other ones
    weight, row = (
        planned("plain")[0].conv1.weight,
        json.loads((tmp_path / "plain.json").read_text())["modules"]["conv1"],
    )
    kept = [i for i in range(16) if i not in row["removed_outputs"]]
    assert torch.equal(slim_network(planned("plain")[0], planned("plain")[2]).conv1.weight, weight[kept])


def test_weights_and_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    model, _, plan = planned("plain")
    path = tmp_path / "info.json"
    write_information(path, model, plan, {})
    with pytest.raises(ValueError, match="these weights are not of the network in"):
        transform_to_slim_model(model, make("grouped")[0].state_dict(), path)
    with pytest.raises(ValueError, match="the plan is of another network"):
        transform_to_slim_model(make("grouped")[0], model.state_dict(), path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="is no pruning-info file"):
        transform_to_slim_model(model, model.state_dict(), path)


def test_a_fresh_process_rebuilds_the_slim_network(tmp_path: Path) -> None:
    model, x, plan = planned("depthwise")
    slim = slim_network(model, plan)
    (tmp_path / "info.json").write_text(plan_to_json(plan, {}))
    torch.save({"x": x, "y": slim(x).detach(), "state": slim.state_dict()}, tmp_path / "net.pt")
    program = f"""
import sys, torch
sys.path.insert(0, "tests")
from vitis_networks import Depthwise
from ofa.vitis import transform_to_slim_model
saved = torch.load("{tmp_path}/net.pt")
net = transform_to_slim_model(Depthwise().eval(), saved["state"], "{tmp_path}/info.json")
torch.testing.assert_close(net(saved["x"]), saved["y"])
"""
    environment = {**os.environ, "PYTHONPATH": "."}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1], env=environment)


def logarithm(parameter: torch.Tensor, dim: int) -> torch.Tensor:
    rest = [d for d in range(parameter.ndim) if d != dim]
    return (parameter.abs().mean(rest) if rest else parameter.abs()).log()


def test_importances_are_lowest_where_nothing_is_left() -> None:
    """Also below a score of zero, and below negative ones."""
    weight = torch.randn(4, 3, 1, 1)
    weight[2] = 0
    for measure in ("l1", "l2", "fpgm", "random", logarithm, lambda p, dim: torch.zeros(p.shape[dim])):
        scores = Remaining(measure)(weight, 0)
        assert scores is not None and scores[2] < 0 and (scores[[0, 1, 3]] >= 0).all()
    found = Remaining("scale")(torch.tensor([1.0, 0.0]), 0)
    assert found is not None and found[0] == 1 and -1e-5 < found[1] < 0


def test_negative_importances_do_not_bring_back_what_was_removed() -> None:
    model, x, plan = planned("plain")
    sparse = sparse_network(model, plan)
    again = copy.deepcopy(model)
    again.load_state_dict(sparse.state_dict())
    supernet = ofa.Supernet(again, x, ofa.SpaceConfig("multiples", kernel=False, depth=False, divisor=2))
    supernet.sort(Remaining(logarithm), move=False)
    half = {c.name: c.options[len(c.options) // 2 - 1] for c in supernet.space.choices}
    indices = supernet.plan(ofa.Subnet(half)).indices
    for name, index in plan.indices.items():
        for mine, theirs in zip(index, indices[name], strict=True):
            assert (mine is None) == (theirs is None) and (mine is None or sorted(mine) == sorted(theirs))


@pytest.mark.parametrize("given", [[0.0] * 4, np.zeros(4), torch.zeros(3), torch.zeros(4, 3), 1.0])
def test_an_importance_of_another_kind_is_refused(given: Any) -> None:
    with pytest.raises(
        TypeError, match="importance gives a tensor of one score for each of the 4 indices along dimension 0"
    ):
        Remaining(lambda parameter, dim: given)(torch.randn(4, 3), 0)
