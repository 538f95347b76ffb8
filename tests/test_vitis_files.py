"""Files that the Vitis AI Optimizer wrote are read: JSON, by its nodes' names, never a pickle."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from vitis_networks import Likeness, make

import ofa
from ofa.persistence import weights_digest
from ofa.search.pruning import shares_of
from ofa.search.vitis import IterativePruningRunner, OFAPruner, OneStepPruningRunner
from ofa.search.vitis.analysis import Analysis, curve
from ofa.search.vitis.files import graph_digest, read_json
from ofa.search.vitis.names import module_of
from ofa.search.vitis.scored import Contenders
from ofa.search.vitis.specification import read_spec

NODES = {name: f"Plain::Plain/Conv2d[{name}]/ret.{i}" for i, name in enumerate(("conv1", "conv2", "conv3", "conv4"))}
GROUPS = [["conv1"], ["conv2", "conv3"], ["conv4"]]
SENS: dict[str, Any] = {
    "groups": [
        {
            "nodes": [NODES[name] for name in group],
            "metrics": [[None, 80.0], *([round(0.1 * s, 1), 80.0 - slope * s] for s in range(1, 10))],
            "num_groups": 1,
        }
        for group, slope in zip(GROUPS, (0.1, 6.0, 0.2), strict=True)
    ],
    "uncompleted_steps": [],
    "graph_digest": None,
}
SPEC = {
    "groups": [
        {"nodes": [NODES["conv1"]], "ratio": 0.5, "num_groups": 1},
        {"nodes": [NODES["conv4"]], "ratio": 0.3, "num_groups": 1},
    ],
    "channel_divisible": 4,
    "graph_digest": None,
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "relu6": nn.functional.relu6,
    "leaky_relu": nn.functional.leaky_relu,
    "leaky_relu(0.2)": lambda x: nn.functional.leaky_relu(x, 0.2),
}
SEARCH = {
    "groups": [{"nodes": [NODES[name] for name in group], "num_groups": 1} for group in GROUPS],
    "supernet": {"ratios": None, "score": 80.0, "macs": 1779000.0},
    "ratios": ["0.05,0.6,0.2", "0.3172,0.25,0.41"],
    "macs": [0.3391, 0.3342],
    "scores": {"0": 41.5, "1": 66.25},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path(".vai").mkdir()
    return tmp_path


@cache
def runners() -> tuple[nn.Module, Tensor, IterativePruningRunner, OneStepPruningRunner]:
    model, x = make("plain")
    return model, x, IterativePruningRunner(model, x), OneStepPruningRunner(model, x)


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("ResNet::ResNet/Conv2d[conv1]/ret.1", "conv1"),
        ("ResNet/Sequential[layer4]/BasicBlock[1]/Conv2d[conv1]/input.50", "layer4.1.conv1"),
        ("MobileNetV2::MobileNetV2/Sequential[features]/ConvNormActivation[0]/Conv2d[0]/input.2", "features.0.0"),
        ("layer4.1.conv1", "layer4.1.conv1"),
        ("layer[12].*", "layer[12].*"),
    ],
)
def test_nodes_name_modules(node: str, module: str) -> None:
    assert module_of(node) == module


def test_their_analysis_is_pruned_from() -> None:
    model, x, found, _ = runners()
    Path(".vai/Plain.sens").write_text(json.dumps(SENS))
    slim = found.prune(0.5, mode="slim")
    assert slim.conv2.out_channels >= 30 and slim.conv1.out_channels < 12 and slim.conv4.out_channels < 30
    score = Likeness(model, x)
    found.ana(score)
    assert score.calls == 0
    Path(".vai/Plain.sens").write_text(json.dumps({**SENS, "groups": [{**SENS["groups"][0], "nodes": ["conv9"]}]}))
    with pytest.raises(ValueError, match="has no group of this network that may be pruned"):
        found.prune(0.5)
    found.ana(score, grid=(0.5,))
    assert score.calls == 4  # the score of another whole network is not taken for ours
    unfinished = {**SENS, "uncompleted_steps": [26, 27]}
    Path(".vai/Plain.sens").write_text(json.dumps(unfinished))
    with pytest.raises(ValueError, match="is unfinished, 2 evaluations are missing"):
        found.prune(0.5)


def test_their_specification_is_carried_out() -> None:
    _, _, found, _ = runners()
    Path("theirs.spec").write_text(json.dumps(SPEC))
    slim = found.prune(spec_path="theirs.spec", mode="slim")
    assert (slim.conv1.out_channels, slim.conv2.out_channels, slim.conv4.out_channels) == (8, 32, 32)
    Path("other.spec").write_text(json.dumps({**SPEC, "groups": [{"nodes": ["conv9"], "ratio": 0.5}]}))
    with pytest.raises(ValueError, match=r"\['conv9'\] of the file is no group of this network"):
        found.prune(spec_path="other.spec")


def test_a_specification_spares_what_is_excluded_and_fits_the_network() -> None:
    _, _, found, _ = runners()
    Path("theirs.spec").write_text(json.dumps(SPEC))
    slim = found.prune(spec_path="theirs.spec", mode="slim", excludes=["conv3"])
    assert (slim.conv1.out_channels, slim.conv2.out_channels, slim.conv4.out_channels) == (8, 32, 32)
    slim = found.prune(spec_path="theirs.spec", mode="slim", excludes=["conv1"])
    assert (slim.conv1.out_channels, slim.conv2.out_channels, slim.conv4.out_channels) == (16, 32, 32)
    for change, message in (
        ({"ratio": 5}, r"lies in \[0, 1\), got 5"),
        ({"ratio": -0.5}, r"lies in \[0, 1\), got -0.5"),
        ({"ratio": 1}, r"lies in \[0, 1\), got 1"),
        ({"nodes": ["conv9"]}, r"\['conv9'\] of the file is no group"),
        ({"units": 4}, "of the file of 4 units is no group"),
    ):
        rows = [*SPEC["groups"], {**SPEC["groups"][0], "ratio": 0.5, **change}]
        Path("wrong.spec").write_text(json.dumps({**SPEC, "groups": rows}))
        with pytest.raises(ValueError, match=message):
            found.prune(spec_path="wrong.spec")


def test_their_candidates_are_picked_from() -> None:
    _, _, _, found = runners()
    Path(".vai/Plain_ratio_0.66.search").write_text(json.dumps(SEARCH))
    best, last = found.prune(removal_ratio=0.66), found.prune(removal_ratio=0.66, index=-2)
    assert (best.conv1.out_channels, best.conv2.out_channels, best.conv4.out_channels) == (10, 24, 28)
    assert last.conv2.out_channels == 12
    theirs = {**SEARCH, "supernet": {"ratios": None, "score": 0.4, "macs": 1.0}}
    Path(".vai/Plain_ratio_0.66.search").write_text(json.dumps(theirs))  # scores are losses, the lowest is the best
    assert found.prune(removal_ratio=0.66).conv2.out_channels == 12


def test_their_pareto_file_gives_subnets() -> None:
    model, x = make("depthwise")
    found = OFAPruner(model, x)
    supernet = found.ofa_model(channel_divisble=2, auto_add_excludes=False).eval()
    entry = {"candidate_out_channel_list": [24, 32], "active_out_channel": 24}
    group = [
        {
            "dynamic_conv_module_name": name,
            **entry,
            "candidate_kernel_size_list": kernels,
            "active_kernel_size": kernels[0],
        }
        for name, kernels in (("expand.0", [[1, 1]]), ("depth.0", [[3, 3], [5, 5]]))
    ]
    whole = [{"dynamic_conv_module_name": "out", "candidate_out_channel_list": [10], "active_out_channel": 10}]
    pareto = {"230": {"net_id": "net_evo_0_mutate_1", "acc1": 69.0, "macs": 0.05, "subnet_setting": [group, whole]}}
    Path("pareto_global.txt").write_text(json.dumps(pareto))
    setting = found.load_subnet_config("pareto_global.txt")["230"]["subnet_setting"]
    for form in (setting, [*setting, {"net_id": "net_evo_0_mutate_1"}]):
        net = found.get_static_subnet(supernet, form)[0]
        assert (net.expand[0].out_channels, net.depth[0].groups, net.depth[0].kernel_size) == (24, 24, (3, 3))


@pytest.mark.parametrize("read", [Analysis.read, read_spec, Contenders.read, read_json])
def test_only_json_is_read(read: Any) -> None:
    path = Path("file")
    for protocol in (2, 5):
        path.write_bytes(pickle.dumps({"groups": [], "ratios": []}, protocol))
        with pytest.raises(ValueError, match="is a pickle, which could run any code when read"):
            read(path)
    for content in (b"(dp0\n.", b"\xff\xfe", b"{"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no JSON file of the optimizer"):
            read(path)
    with pytest.raises(ValueError, match="cannot read nowhere"):
        read(Path("nowhere"))
    if read is not read_json:
        for text in ('{"groups": [{}]}', '{"groups": 3}', "[1]"):
            path.write_text(text)
            with pytest.raises(ValueError, match=r"is no (sensitivity|pruning)|is another file: it lacks"):
                read(path)


def test_candidates_that_do_not_fit_their_groups_are_refused() -> None:
    path = Path("file.search")
    for change in ({"ratios": ["0.1", "0.2"]}, {"macs": [0.3]}, {"scores": {}}):
        path.write_text(json.dumps({**SEARCH, **change}))
        with pytest.raises(ValueError, match="is no list of candidates"):
            Contenders.read(path)


def test_digests_tell_networks_and_weights_apart() -> None:
    (first, x), (second, _) = make("plain"), make("plain")
    assert graph_digest(first, x) == graph_digest(second, x) != graph_digest(*make("grouped"))
    assert weights_digest(first) == weights_digest(second)
    with torch.no_grad():
        second.conv1.weight[0, 0, 0, 0] += 1
    assert weights_digest(first) != weights_digest(second)
    assert weights_digest(first.bfloat16()) != weights_digest(second)


def test_digests_tell_forward_passes_of_the_same_tensors_apart() -> None:
    """Strides, activations, slopes and what is connected count; the size and number of pictures do not."""
    x, digests = make("plain")[1], set()
    for stride, activation in ((1, "relu"), (2, "relu"), (1, "relu6"), (1, "leaky_relu"), (1, "leaky_relu(0.2)")):
        model = make("plain")[0]
        model.conv4.stride = (stride, stride)
        model.conv4.register_forward_hook(lambda module, args, output, act=activation: ACTIVATIONS[act](output))
        digests.add(graph_digest(model, x))
        assert graph_digest(model, x[:1]) == graph_digest(model, torch.ones(2, 1, 12, 12)) in digests
    assert len(digests) == 5


@given(
    st.sets(st.integers(1, 63), min_size=1, max_size=12),
    st.dictionaries(st.floats(0.01, 0.95), st.floats(0, 2), max_size=6),
)
def test_curves_pass_from_scored_shares_to_other_options(sizes: set[int], known: dict[float, float]) -> None:
    choice = ofa.Choice("layer.width", "width", (*sorted(sizes), 64))
    damages = curve(choice, known)
    assert (
        damages.shape == (len(choice.options),)
        and abs(damages[-1]) < 1e-6
        and (damages[:-1] >= damages[1:] - 1e-6).all()
    )
    for share, value in known.items():
        smaller = shares_of(choice) <= 1 - share + 1e-6
        assert (damages[smaller] >= value - 1e-6).all()
