"""Published supernets: the largest networks, their files' tensors in ours, subnets as their own code runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from composition import composed
from torch import Tensor, nn

import ofa
from ofa.conf.program.course import Course
from ofa.conf.program.run import Run
from ofa.costs import complexity
from ofa.train.backbones import load_weights
from ofa.train.published import attentive_nas, load_supernet, ofa_mobilenet_v3, ofa_proxyless, ofa_resnet

PICTURE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
ONE_STAGE = ofa.SpaceConfig(width=(0.5, 1.0), policy="block", kernel_transform=True, proof="off")


@pytest.mark.parametrize(
    ("factory", "macs", "params"),
    [(ofa_mobilenet_v3, 566, 7.66), (ofa_proxyless, 1005, 7.94), (ofa_resnet, 7492, 48.1), (attentive_nas, 1179, 23.4)],
)
def test_sizes_of_the_largest(factory: Callable[[], nn.Module], macs: float, params: float) -> None:
    found = complexity(factory().eval(), torch.zeros(1, 3, 224, 224))
    assert found.macs / 1e6 == pytest.approx(macs, rel=1e-3)
    assert found.params / 1e6 == pytest.approx(params, rel=1e-3)


def as_published(supernet: ofa.Supernet) -> dict[str, Tensor]:
    """The weights of a supernet under other names, matrices before the kernels that they are for."""
    state: dict[str, Tensor] = {}
    assert supernet.transforms is not None
    matrices = dict(supernet.transforms.matrices)
    for i, (name, tensor) in enumerate(supernet.model.state_dict().items()):
        for size in (3, 5):
            if (key := f"{name.replace('.', '/')}:{size}") in matrices:
                state[f"layers.{i}.{size + 2}to{size}_matrix"] = matrices[key].detach().T.contiguous()
        state[f"layers.{i}.conv.{name.rpartition('.')[2]}"] = tensor
    return state


@pytest.fixture(scope="module")
def trained() -> ofa.Supernet:
    torch.manual_seed(1)
    supernet = ofa.Supernet(ofa_mobilenet_v3(10, width=0.25, depth=2), PICTURE, ONE_STAGE).eval()
    for name, tensor in supernet.state_dict().items():
        if tensor.is_floating_point() and (tensor.ndim == 1 or name.startswith("transforms.")):
            tensor.add_(0.1 * torch.rand_like(tensor))
    return supernet


def test_a_file_gives_all_subnets(trained: ofa.Supernet, tmp_path: Path) -> None:
    path = tmp_path / "published.pth"
    torch.save({"state_dict": as_published(trained)}, path)
    ours = ofa.Supernet(ofa_mobilenet_v3(10, width=0.25, depth=2), PICTURE, ONE_STAGE).eval()
    load_supernet(ours, path)
    for subnet in (ours.space.largest, ours.space.smallest):
        for supernet in (ours, trained):
            supernet.activate(subnet)
        with torch.no_grad():
            assert torch.equal(ours(PICTURE), trained(PICTURE))
    teacher = ofa_mobilenet_v3(10, width=0.25, depth=2).eval()
    load_weights(teacher, path)
    trained.activate(trained.space.largest)
    with torch.no_grad():
        assert torch.equal(teacher(PICTURE), trained(PICTURE))


def test_other_files_are_refused(trained: ofa.Supernet, tmp_path: Path) -> None:
    path, state = tmp_path / "published.pth", as_published(trained)
    torch.save(state, path)
    wider = ofa.Supernet(ofa_mobilenet_v3(10, width=0.5, depth=2), PICTURE, ONE_STAGE)
    with pytest.raises(
        ValueError, match=r"is of another network: blocks\.1\.0\.conv_pwl\.weight \(16, 48, 1, 1\) is met by layers\.30"
    ):
        load_supernet(wider, path)
    plain = ofa.SpaceConfig(width=(0.5, 1.0), policy="block", proof="off")
    centred = ofa.Supernet(ofa_mobilenet_v3(10, width=0.25, depth=2), PICTURE, plain)
    with pytest.raises(ValueError, match=r"20 kernel matrices, and the space 0: space\.kernel_transform"):
        load_supernet(centred, path)
    with pytest.raises(ValueError, match="no weight file"):
        load_supernet(centred, tmp_path / "none.pth")


def test_a_file_that_is_not_there_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    given = ("supernet.checkpoint=none.pth", "data.size=16", "backbone=networks.small", "stages=[teacher,supernet]")
    course = Course.parse(composed(f"run={tmp_path}", *given))
    with pytest.raises(ValueError, match=r"supernet\.checkpoint: there is no file none\.pth"):
        course.execute(Run.of(course.settings))
    assert not (tmp_path / "teacher.pt").exists()


THEIRS = """
import random, sys, torch
from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3, OFAProxylessNASNets, OFAResNets

torch.manual_seed(0)
random.seed(0)
space = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
network = {
    "ofa_mobilenet_v3": lambda: OFAMobileNetV3(10, dropout_rate=0, width_mult=1.0, **space),
    "ofa_proxyless": lambda: OFAProxylessNASNets(10, dropout_rate=0, width_mult=1.3, **space),
    "ofa_resnet": lambda: OFAResNets(
        10, dropout_rate=0, depth_list=[0, 1, 2], expand_ratio_list=[0.2, 0.25, 0.35], width_mult_list=[0.65, 0.8, 1.0]
    ),
}[sys.argv[1]]().eval()
with torch.no_grad():
    for name, tensor in network.state_dict().items():
        if name.endswith("_matrix"):
            tensor.add_(0.05 * torch.randn_like(tensor))
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(0.1 * torch.rand_like(tensor))
    for module in network.modules():
        module.momentum = 1.0
    network.train()(torch.randn(16, 3, 64, 64))
    network.eval()
    pictures, rows = torch.randn(2, 3, 64, 64), []
    for _ in range(20):
        chosen = network.sample_active_subnet()
        rows.append((chosen, network(pictures)))
torch.save({"state_dict": network.state_dict()}, "file.pth")
torch.save({"pictures": pictures, "rows": rows}, "outputs.pth")
"""
RELEASE = "ofa==0.1.0.post202307202001"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Once-for-all's own code, from PyPI."""
    folder = tmp_path_factory.mktemp("published")
    given = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), RELEASE]
    done = subprocess.run(given, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{RELEASE} cannot be installed: {done.stderr.strip()[-200:]}")
    return folder


def divisible(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def mobile(supernet: ofa.Supernet, chosen: dict[str, Any]) -> ofa.Subnet:
    """Our subnet of their `ks`, `e` and `d`: blocks are counted from the second stage on."""
    network, values, index = supernet.model, dict(supernet.space.largest), 0
    for stage, blocks in enumerate(network.blocks[1 : 1 + len(chosen["d"])], start=1):
        if len(blocks) > 1:
            values[f"blocks.{stage}.depth"] = chosen["d"][stage - 1] - 1
        for i, block in enumerate(blocks):
            name, middle = f"blocks.{stage}.{i}", divisible(block.conv_pw.in_channels * chosen["e"][index])
            values |= {f"{name}.conv_dw.kernel": chosen["ks"][index], f"{name}.conv_pw.width": middle}
            if f"{name}.se.conv_reduce.width" in values:
                values[f"{name}.se.conv_reduce.width"] = divisible(middle // 4)
            index += 1
    return ofa.Subnet(values)


def residual(supernet: ofa.Supernet, chosen: dict[str, Any]) -> ofa.Subnet:
    """Our subnet of their `w`, `e` and `d`: first come the stem's."""
    values, index, widths = dict(supernet.space.largest), 0, (0.65, 0.8, 1.0)
    values["stem.depth"] = int(chosen["d"][0] == 2)
    values["stem.0.0.width"] = divisible(divisible(64 * widths[chosen["w"][0]]) // 2)
    values["stem.2.0.width"] = divisible(64 * widths[chosen["w"][1]])
    for stage, full in enumerate((256, 512, 1024, 2048)):
        blocks = getattr(supernet.model, f"layer{stage + 1}")
        values[f"layer{stage + 1}.depth"] = len(blocks) - 1 - (2 - chosen["d"][stage + 1])
        values[f"layer{stage + 1}.0.conv3.0.width"] = outputs = divisible(full * widths[chosen["w"][stage + 2]])
        for i in range(len(blocks)):
            middle = divisible(round(outputs * chosen["e"][index]))
            values |= {f"layer{stage + 1}.{i}.conv{c}.0.width": middle for c in (1, 2)}
            index += 1
    return ofa.Subnet(values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "policy", "ours"),
    [
        ("ofa_mobilenet_v3", "hidden", mobile),
        ("ofa_proxyless", "hidden", mobile),
        ("ofa_resnet", "everything", residual),
    ],
)
def test_twenty_subnets_give_what_their_own_code_gives(
    name: str,
    policy: str,
    ours: Callable[[ofa.Supernet, dict[str, Any]], ofa.Subnet],
    package: Path,
    tmp_path: Path,
) -> None:
    subprocess.run(
        [sys.executable, "-c", THEIRS, name], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(package)}, check=True
    )
    found = torch.load(tmp_path / "outputs.pth")
    factory = {"ofa_mobilenet_v3": ofa_mobilenet_v3, "ofa_proxyless": ofa_proxyless, "ofa_resnet": ofa_resnet}[name]
    kernels = name != "ofa_resnet"
    config = ofa.SpaceConfig(
        width="multiples", policy=policy, kernel=kernels, kernel_transform=kernels, divisor=8, proof="off"
    )
    supernet = ofa.Supernet(factory(10).eval(), found["pictures"], config).eval()
    load_supernet(supernet, tmp_path / "file.pth")
    outputs = []
    for chosen, theirs in found["rows"]:
        supernet.activate(ours(supernet, chosen))
        with torch.no_grad():
            assert (supernet(found["pictures"]) - theirs).abs().max() < 1e-5 * max(theirs.abs().max(), 1)
        outputs.append(theirs)
    assert torch.stack(outputs).std(dim=0).min() > 1e-3  # subnets differ by more than the tolerance
