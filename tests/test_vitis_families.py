"""The other pruners of the drop-in on the networks on which Vitis fails, or refuses to run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_vitis import WHERE_VITIS_FAILS
from torch import Tensor, nn
from vitis_networks import Likeness

from ofa.search.vitis import OFAPruner, OneStepPruningRunner, SparsePruner, calibrate_bn, model_complexity

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("name", WHERE_VITIS_FAILS)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return WHERE_VITIS_FAILS[name]().eval(), torch.randn(2, 3, 64, 64)


def test_one_step(name: str) -> None:
    """Half of the MACs, counted on the slim network, whose score is the recorded one."""
    model, x = made(name)
    runner, score = OneStepPruningRunner(model, x), Likeness(model, x)
    calibration = {"calibration_fn": calibrate_bn, "calib_args": ([x, -x],)}
    runner.search(num_subnet=3, eval_fn=score, with_group_conv=True, **calibration)  # type: ignore[arg-type]
    scores = json.loads(next(Path(".vai").glob("*.search")).read_text())["scores"]
    sparse, slim = runner.prune(mode="sparse"), runner.prune()
    assert model_complexity(slim, x)[0] / model_complexity(model, x)[0] == pytest.approx(0.5, abs=0.01)
    assert float(score(slim)) == pytest.approx(scores["2"], rel=1e-5) and slim(x).shape == (2, 10)
    with torch.no_grad():
        assert (sparse(x) - slim(x)).abs().max() <= 1e-5 * slim(x).abs().max()


def test_once_for_all(name: str) -> None:
    """The largest subnet is the network; others are their static form, bit for bit, and smaller."""
    model, x = made(name)
    pruner = OFAPruner(model, x)
    supernet = pruner.ofa_model(linear=name == "vit").eval()  # nothing of which is made by convolutions
    with torch.no_grad():
        assert torch.equal(supernet(x), model(x))
        for kind in ("min", "random", "random"):
            dynamic, setting = pruner.sample_subnet(supernet, kind)  # type: ignore[arg-type]
            static, _, macs, params = pruner.get_static_subnet(supernet, setting)
            assert torch.equal(static(x), dynamic(x)) and dynamic(x).shape == (2, 10)
            assert model_complexity(static, x) == (round(1e6 * macs), round(1e6 * params))
            assert macs * 1e6 < model_complexity(model, x)[0]


def test_fine_grained(name: str) -> None:
    """Trained a step, exported with its zeros; every convolution and linear layer is sparse or has a reason."""
    model, x = made(name)
    pruner = SparsePruner(model, x)
    sparse = pruner.sparse_model(0.5, block_size=4)
    sparse.train()(x).square().mean().backward()
    torch.optim.SGD(sparse.parameters(), 1e-3, momentum=0.9).step()
    exported = pruner.export_sparse_model(sparse.eval())
    with torch.no_grad():
        assert torch.equal(exported(x), sparse(x))
    layers = {n: m for n, m in exported.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    taken = layers.keys() - pruner.skipped.keys()
    assert taken and all(pruner.skipped[n] for n in layers.keys() - taken)
    assert all((layers[n].weight == 0).float().mean() == 0.5 for n in taken)
