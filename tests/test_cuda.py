"""On a GPU: networks are converted and proved there, subnets are what they are on a CPU, the program runs whole."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import build

import ofa
from ofa.train import Digits, Recipe, Sandwich, fit

pytestmark = pytest.mark.gpu

TOY = (
    "data.size=32", "teacher.recipe.epochs=2", "supernet.recipe.epochs=2", "supernet.calibration_batches=2",
    "space.width=[0.5,1.0]", "search.population=4", "search.evaluations=10", "latency.samples=6",
    "export.subnets=2", "stages=[teacher,supernet,latency,search,export]", "device=cuda",
)  # fmt: skip


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("name", ["resnet", "mobilenetv3", "densenet", "vit", "convnext"])
def test_a_network_on_a_gpu_is_converted_as_on_a_cpu(name: str) -> None:
    network, example = build(name)
    here = ofa.Supernet(network, example)
    there = ofa.Supernet(deepcopy(network).cuda(), example.cuda())
    assert there.space == here.space
    assert [row.way for row in there.report.elastic] == [row.way for row in here.report.elastic]
    for subnet in (there.space.smallest, there.space.sample(np.random.default_rng(0))):
        for supernet in (here, there):
            supernet.activate(subnet)
        static = there.extract(subnet)
        with torch.no_grad():
            active = there(example.cuda())
            torch.testing.assert_close(static(example.cuda()), active, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(active.cpu(), here(example), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_training_on_a_gpu_goes_on_where_it_was(precision: str, tmp_path: Path) -> None:
    splits = Digits(size=32).load()
    torch.manual_seed(0)
    network, _ = build("resnet")
    network.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    recipe = Recipe(epochs=2, batch_size=128, precision=precision)  # type: ignore[arg-type]

    def learner() -> Sandwich:
        supernet = ofa.Supernet(network.cuda(), splits.example.cuda(), ofa.SpaceConfig(proof="off"))
        return Sandwich(supernet, splits, calibration_batches=2)

    class Stop(Exception):
        pass

    def stop(row: dict[str, float]) -> None:
        raise Stop

    path = tmp_path / "state.pt"
    with pytest.raises(Stop):
        fit(learner(), recipe, path=path, on_epoch=stop)
    figures = fit(learner(), recipe, path=path)
    assert figures["accuracy"] > 50 and torch.load(path, weights_only=True)


@pytest.mark.parametrize("launcher", [(), ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")])
def test_the_program_on_a_gpu(launcher: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, *launcher, "-m", "ofa.conf.program.command", f"run={tmp_path}/run", *TOY]
    for _ in range(2):  # the second finds everything done
        process = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert process.returncode == 0, process.stdout + process.stderr
    assert "done before" in process.stdout
    front = json.loads((tmp_path / "run/front.json").read_text())
    assert len(front) >= 2
