"""Every pattern that couples channels goes through both pruning runners, with the user's own evaluation function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from patterns import PATTERNS
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from vitis_networks import make

from ofa.backbone import as_call
from ofa.search.vitis import IterativePruningRunner, OneStepPruningRunner, get_pruning_runner


def outputs(model: nn.Module, inputs: Any) -> Tensor:
    """Everything that a network gives, in one vector."""
    args, kwargs = as_call(inputs)
    with torch.no_grad():
        return torch.cat([leaf.flatten() for leaf in pytree.tree_leaves(model(*args, **kwargs))])


class Quality:
    """100 less the squared distance from the outputs of the first network: segments, pictures or numbers alike."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self.inputs, self.target = inputs, outputs(model, inputs)

    def __call__(self, model: nn.Module) -> float:
        return 100 - float((outputs(model.eval(), self.inputs) - self.target).square().mean())


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", PATTERNS)
def test_sparse_and_slim_networks_of_the_iterative_runner_are_one(name: str) -> None:
    model, inputs = PATTERNS[name].build()
    runner = get_pruning_runner(model, inputs, "iterative")
    assert isinstance(runner, IterativePruningRunner)
    runner.ana(Quality(model, inputs), grid=(0.5,), with_group_conv=True)
    sparse, slim = (runner.prune(threshold=1e9, mode=mode) for mode in ("sparse", "slim"))
    assert type(sparse) is type(slim) is type(model) and parameters(slim) < parameters(model)
    assert outputs(slim, inputs).shape == outputs(model, inputs).shape
    assert torch.allclose(outputs(sparse, inputs), outputs(slim, inputs), 1e-4, 1e-5)
    slim.load_state_dict(sparse.slim_state_dict())
    model.load_state_dict(slim.sparse_state_dict())


@pytest.mark.parametrize(
    ("name", "ratio"), [("unet", 0.4), ("pyramid", 0.4), ("super resolution", 0.4), ("two_inputs", 0.7)]
)
def test_the_one_step_runner_takes_any_task(name: str, ratio: float) -> None:
    model, inputs = PATTERNS[name].build() if name in PATTERNS else make(name)
    runner, quality = get_pruning_runner(model, inputs, "one_step"), Quality(model, inputs)
    assert isinstance(runner, OneStepPruningRunner)
    runner.search(num_subnet=4, removal_ratio=ratio, eval_fn=quality)
    scores = [quality(runner.prune(removal_ratio=ratio, index=i)) for i in range(-4, 0)]
    assert scores == pytest.approx(sorted(scores), abs=1e-6) and scores[0] < scores[-1] < 100
    best = runner.prune(removal_ratio=ratio)
    assert quality(best) == pytest.approx(scores[-1], abs=1e-6) and parameters(best) < parameters(model)
