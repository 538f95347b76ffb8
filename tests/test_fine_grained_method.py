"""`method=fine_grained`: a pattern in every layer or one chosen by layer, finetuned under masks, packed, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from composition import composed
from networks import small
from safetensors.torch import load_file

from ofa.conf.program.command import execute
from ofa.conf.program.run import Run
from ofa.conf.program.settings import Settings
from ofa.persistence import plan_from_json
from ofa.search import Front
from ofa.slicing import reduced
from ofa.sparsity import Pattern
from ofa.sparsity.packing import load_packed
from ofa.train import checkpoint

TOY = (
    "backbone=networks.small", "data.size=16", "threads=1", "teacher.recipe.epochs=4", "method=fine_grained",
    "supernet.calibration_batches=2", "pruning.finetuning.recipe.epochs=2",
    "reuse=false",
)  # fmt: skip


def finished(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    execute(composed(f"run={folder}", *TOY, *overrides))
    rows: list[dict[str, Any]] = json.loads((folder / "front.json").read_text())
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "fine"
    finished(folder)
    return folder


def test_every_layer_that_takes_the_pattern_has_its_zeros_in_every_file(run: Path) -> None:
    whole, row = json.loads((run / "front.json").read_text())
    folder = run / "subnets/step-01"
    weights, plan = load_file(folder / "weights.safetensors"), plan_from_json((folder / "subnet.json").read_text())
    assert set(plan.patterns) == {"0.1.0", "0.2.0", "3"}
    for layer, pattern in plan.patterns.items():
        assert pattern == Pattern(8, 16) and pattern.fits(weights[f"{layer}.weight"])
        assert float((weights[f"{layer}.weight"] == 0).float().mean()) == 0.5
    tensors = {tuple(t.dims): onnx.numpy_helper.to_array(t) for t in onnx.load(folder / "model.onnx").graph.initializer}
    assert float((tensors[32, 32, 3, 3] == 0).mean()) == 0.5
    assert row["weight_bytes"] < 0.7 * whole["weight_bytes"] and row["params"] == whole["params"]
    assert row["macs"] < 0.6 * whole["macs"] == 0.6 * row["executed_macs"] and row["onnx_difference"] < 1e-3
    table = Front.from_json([whole, row], ["accuracy", "macs"]).table()
    assert [str(column.header) for column in table.columns][-2:] == ["of its MACs", "on N:M hardware"]
    assert [[*column.cells][1] for column in table.columns][-2] == "100.0 %"


def test_the_packed_file_reloads_exactly(run: Path) -> None:
    folder = run / "subnets/step-01"
    plan = plan_from_json((folder / "subnet.json").read_text())
    net = reduced(small(), plan)
    load_packed(net, folder / "packed.safetensors")
    assert all(torch.equal(net.state_dict()[name], t) for name, t in load_file(folder / "weights.safetensors").items())
    assert (folder / "packed.safetensors").stat().st_size < (folder / "weights.safetensors").stat().st_size


def test_finetuning_moves_the_masks_from_the_dense_weights(run: Path) -> None:
    """With straight-through gradients and SR-STE weights come back that magnitude had removed at the start."""
    trained = checkpoint.load(run / "pruning/01/network.pt")["model"]["0.2.0.weight"]
    before = Run.parse(composed(f"run={run}", *TOY)).supernet.model.state_dict()["0.2.0.weight"]
    started = Pattern(8, 16).mask(before.abs()) > 0
    assert ((trained != 0) != started).any() and ((trained != 0) & started).sum() > 0.5 * started.sum()


def test_a_pattern_by_layer_meets_a_budget_of_bytes(run: Path) -> None:
    folder = run.parent / "searched"
    folder.mkdir()
    for name in ("teacher.pt", "done.json", "settings.json"):
        (folder / name).write_bytes((run / name).read_bytes())
    texts = ["2:4", "8:16", "12:16"]
    rows = finished(
        folder, f"space.sparsity={json.dumps(texts)}", "search=sensitivity", "budget.weight_bytes=0.7",
        "pruning.finetuning=null",
    )  # fmt: skip
    assert 0.6 < rows[1]["weight_bytes"] / rows[0]["weight_bytes"] <= 0.7
    assert set(rows[1]["subnet"].values()) <= {*texts, "dense"}


@pytest.mark.slow
def test_a_setting_pads_the_last_block_and_another_lifts_the_rule_of_the_hardware(tmp_path: Path) -> None:
    given = (
        "backbone={_target_: networks.small, last: 40}", "space.sparsity_padding=true", "teacher.recipe.epochs=1",
        "pruning.finetuning.recipe.epochs=1", 'supernet.activations="8:16"', "supernet.strict=false",
    )  # fmt: skip
    finished(tmp_path, *given)
    folder = tmp_path / "subnets/step-01"
    plan = plan_from_json((folder / "subnet.json").read_text())
    weights = load_file(folder / "weights.safetensors")
    assert ((weights["3.weight"] != 0).sum(1) == 3 * 8).all()  # of 16, 16 and the last 8
    load_packed(net := reduced(small(last=40), plan), folder / "packed.safetensors")
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in weights.items())
    assert kept_inputs(Run.parse(composed(f"run={tmp_path}", *TOY, *given)), "0.2.0").max() == 8


def kept_inputs(job: Run, layer: str) -> torch.Tensor:
    """How many inputs of each block of 16 channels reach a layer, for a real picture."""
    seen: list[torch.Tensor] = []
    job.supernet.model.get_submodule(layer).register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    with torch.no_grad():
        job.supernet(job.picture)
    return (seen[0] != 0).float().unflatten(1, (-1, 16)).sum(2)


def test_sparse_activations_want_sparser_weights_and_are_part_of_the_network(run: Path) -> None:
    folder = run.parent / "activations"
    folder.mkdir()
    for name in ("teacher.pt", "done.json", "settings.json"):
        (folder / name).write_bytes((run / name).read_bytes())
    with pytest.raises(ValueError, match=r"activations at 0.5 want weights at 0.75, got 0.5"):
        finished(folder, 'supernet.activations="8:16"')
    finished(folder, 'supernet.activations="8:16"', 'space.sparsity=["12:16"]', "pruning.finetuning.recipe.epochs=1")
    job = Run.parse(composed(f"run={folder}", *TOY, 'supernet.activations="8:16"', 'space.sparsity=["12:16"]'))
    assert 0 < kept_inputs(job, "0.2.0").max() <= 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (('space.sparsity=["8:16"]',), r"want weights at 0.75, got 0.5; strict=False allows"),
        (("space.sparsity=[]",), r"supernet.activations=8:16 with space.sparsity=\[\]: .*0.75, got 0;"),
        (
            ('space.sparsity=["12:16"]', "search=sensitivity", "budget.macs=0.9"),
            r"activations at 0.5 want weights at 0.75, got 0;",
        ),
        (("method=once_for_all",), r"activations at 0.5 want weights at 0.75, got 0;"),
        (('supernet.activations="8-16"',), r"supernet.activations=8-16 .*a pattern is zeros:block.*'8-16'"),
    ],
)
def test_wrong_activations_are_refused_before_anything_is_trained(
    given: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    overrides = (f"run={tmp_path}", *TOY, 'supernet.activations="8:16"', *given)
    with pytest.raises(ValueError, match=message):
        Settings.parse(composed(*overrides))
    if "8-16" not in message:
        assert Settings.parse(composed(*overrides, "supernet.strict=false")).activations == Pattern(8, 16)
