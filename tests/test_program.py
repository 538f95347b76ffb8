"""The console program: the main job at toy size, killed in every stage and resumed, and told nonsense."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from composition import composed
from safetensors.torch import load_file

import ofa.conf.program.exporters.onnx
import ofa.onnx_files.supernet
from ofa.conf.program.command import execute
from ofa.conf.program.latencies import artefact_of
from ofa.conf.program.run import Run
from ofa.conf.program.stages.export import Exported
from ofa.export import load_network
from ofa.persistence import load_subnet
from ofa.search import ScoredNetwork
from ofa.search.cluster import connected
from ofa.train import create
from ofa.train.data.splits import TensorSplit

TOY = (
    "backbone=test_efficientnet", "data.size=32", "teacher.recipe.epochs=2", "supernet.recipe.epochs=2",
    "supernet.calibration_batches=2", "space.width=[0.5,1.0]", "space.proof=quick", "search.population=4",
    "search.evaluations=10", "latency.samples=6", "latency.seconds=0.1", "export.subnets=2",
    "finetune.recipe.epochs=2", "threads=1", "stages=[teacher,supernet,latency,search,export]", "reuse=false",
)  # fmt: skip


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ofa.conf.program.command", f"run={folder}", *TOY, *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(folder: Path, *overrides: str) -> str:
    process = start(folder, *overrides)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    (folder.parent / "output.txt").write_text(finish(folder))
    return folder


def front(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "front.json").read_text())
    return rows


def archived(folder: Path) -> list[Any]:
    path = folder / "archive.sqlite"
    if not path.exists():
        return []
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            tables = [name for (name,) in connection.execute("select name from sqlite_master where type='table'")]
            rows = "evaluations" if "evaluations" in tables else "evaluation"
            return connection.execute(f"select * from {rows}").fetchall()
    except sqlite3.Error:
        return []


def test_a_run_ends_in_a_front_of_verified_files(run: Path) -> None:
    rows = front(run)
    assert [row["name"] for row in rows].count("teacher") == 1
    assert len(rows) == 3
    for row in rows:
        assert {"name", "accuracy", "macs", "params", "latency_ms", "subnet", "files"} <= set(row)
        assert 0 <= row["accuracy"] <= 100 and 0 < row["latency_ms_low"] <= row["latency_ms"] <= row["latency_ms_high"]
        low, middle, high = (row[f"predicted_latency_ms{end}"] for end in ("_low", "", "_high"))
        assert 0 < low < middle < high
        weights = load_file(run / row["files"]["weights"])
        trainable = [v for name, v in weights.items() if "running" not in name and "num_batches" not in name]
        assert sum(v.numel() for v in trainable) == row["params"]
        session = onnxruntime.InferenceSession(str(run / row["files"]["onnx"]))
        (logits,) = session.run(None, {session.get_inputs()[0].name: np.zeros((1, 1, 32, 32), np.float32)})
        assert logits.shape == (1, 10)
        assert row["subnet"] is None or dict(load_subnet(run / row["files"]["subnet"])) == row["subnet"]
    assert (run / "front.png").stat().st_size > 10_000 and (run / "latency.png").stat().st_size > 10_000
    foretold = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [line["name"] for line in foretold] == [row["name"] for row in rows]
    with sqlite3.connect(run / "latency.sqlite") as database:
        times = database.execute("select graph, max(taken) from measurement group by graph").fetchall()
    assert all(line["written"] < dict(times)[line["graph"]] for line in foretold)
    stages = {json.loads(line)["stage"] for line in (run / "metrics.jsonl").read_text().splitlines()}
    named = {f"finetune-{row['name']}" for row in rows if row["subnet"]}
    assert stages == {"teacher", "supernet", "search", *named}
    output = (run.parent / "output.txt").read_text()
    assert "latency_ms, model (" in output and "held-out error" in output and "MACs alone" in output
    assert "chosen networks, predicted before they were measured: error" in output


def test_an_onnx_file_says_all_that_one_has_to_know_to_use_it(run: Path) -> None:
    """Raw test pictures, prepared by its metadata alone, in one batch: the accuracy that front.json has."""
    row = next(row for row in front(run) if row["subnet"])
    session = onnxruntime.InferenceSession(run / row["files"]["onnx"], providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    wanted = json.loads(told["preprocessing"])
    assert json.loads(told["backbone"])["name"] == "test_efficientnet" and json.loads(told["classes"]) == [
        str(i) for i in range(10)
    ]
    test = Run.parse(composed(f"run={run}", *TOY)).splits.test
    assert isinstance(test, TensorSplit)
    x = (test.images / 255).clamp(*wanted["range"])
    x = F.interpolate(x, wanted["size"], mode=wanted["resize"]["interpolation"], antialias=True)
    x = (x - torch.tensor(wanted["mean"]).view(1, -1, 1, 1)) / torch.tensor(wanted["std"]).view(1, -1, 1, 1)
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    found = 100 * float((logits.argmax(1) == test.labels.numpy()).mean())
    assert found == pytest.approx(row["accuracy"], abs=0.3)
    facts = json.loads((run / row["files"]["subnet"]).read_text())
    assert facts["preprocessing"] == wanted and facts["classes"][3] == "3"
    assert facts["backbone"] == json.loads(told["backbone"])


@pytest.mark.slow
def test_what_leaves_and_what_is_timed_is_sliced_from_one_export(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **named: Any) -> None:
        pytest.fail("exported by itself")

    for module in (ofa.conf.program.exporters.onnx, ofa.onnx_files.supernet):
        monkeypatch.setattr(module, "export_onnx", refuse)
    folder = shutil.copytree(run, tmp_path / "copy")
    job = Run.parse(composed(f"run={folder}", *TOY))
    space = job.supernet.space
    assert artefact_of(job, job.supernet, space.smallest).onnx.stat().st_size > 1000
    row = Exported(job, ScoredNetwork("small", space.smallest, {"accuracy": 50.0})).row()
    assert row.metrics["onnx_difference"] < 1e-5 and (folder / row.files["onnx"]).exists()


def test_saved_weights_load_into_the_extracted_network_and_score_the_same(run: Path) -> None:
    job = Run.parse(composed(f"run={run}", *TOY))
    row = next(row for row in front(run) if row["subnet"])
    net = job.supernet.extract(load_subnet(run / row["files"]["subnet"])).eval()
    net.load_state_dict(load_file(run / row["files"]["weights"]), strict=True)
    correct = [(net(x).argmax(1) == y) for x, y in job.splits.test.ordered(64)]
    assert 100 * float(torch.cat(correct).float().mean()) == pytest.approx(row["accuracy"])
    again = load_network(job.backbone(), run / "subnets" / row["name"])
    assert not again.training and torch.equal(again(job.picture), net(job.picture))


def test_a_network_that_is_read_again_is_of_the_backbone(run: Path, tmp_path: Path) -> None:
    folder = run / "subnets" / next(row["name"] for row in front(run) if row["subnet"])
    with pytest.raises(ValueError, match=r"weights\.safetensors does not fit the network that .*subnet\.json makes"):
        load_network(create("test_efficientnet", num_classes=7, in_chans=1), folder)
    with pytest.raises(ValueError, match=r"the plan is of another network"):
        load_network(create("test_vit", num_classes=10, in_chans=1), folder)
    with pytest.raises(ValueError, match=r"subnet\.json is missing, or is not the file that was exported"):
        load_network(create("test_efficientnet", num_classes=10, in_chans=1), tmp_path)


def test_a_second_run_does_nothing_again(run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.suffix in (".pt", ".onnx", ".safetensors", ".json")}
    started = time.perf_counter()
    output = finish(run)
    assert output.count("done before") == 6
    assert time.perf_counter() - started < 60
    changed = [p.name for p, t in before.items() if p.stat().st_mtime_ns != t]
    assert set(changed) <= {"settings.json", "done.json"}


def lines(path: Path, stage: str | None = None) -> int:
    text = path.read_text() if path.exists() else ""
    return sum(stage is None or f'"stage": "{stage}"' in line for line in text.splitlines())


def figures(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def measured(folder: Path) -> list[Any]:
    """Measurements in the device's file, in the order in which they were made."""
    path = folder / "latency.sqlite"
    if not path.exists():
        return []
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            return connection.execute("select graph, ratio from measurement order by position").fetchall()
    except sqlite3.Error:
        return []


INTERRUPTIONS: dict[str, Callable[[Path], bool]] = {
    "teacher": lambda f: lines(f / "metrics.jsonl", "teacher") >= 1,
    "supernet": lambda f: lines(f / "metrics.jsonl", "supernet") >= 1,
    "latency": lambda f: len(measured(f)) >= 2,
    "search": lambda f: len(archived(f)) >= 3,
    "finetune": lambda f: '"stage": "finetune-' in (f / "metrics.jsonl").read_text(),
    "export": lambda f: len(list(f.glob("subnets/*/subnet.json"))) >= 1,
}


@pytest.mark.parametrize("stages", [("search",), pytest.param(tuple(INTERRUPTIONS), marks=pytest.mark.slow)])
def test_killed_in_stages_and_resumed_equals_uninterrupted(run: Path, tmp_path: Path, stages: tuple[str, ...]) -> None:
    folder = tmp_path / "killed"
    for stage in stages:
        reached = INTERRUPTIONS[stage]
        process, deadline = start(folder), time.monotonic() + 300
        while not reached(folder):
            assert process.poll() is None, f"ended before it could be killed in {stage}: {process.communicate()[0]}"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (folder / "front.json").exists()
    first = measured(folder)[:2]
    finish(folder)
    assert measured(folder)[:2] == first
    expected, got = ([{k: v for k, v in row.items() if "latency" not in k} for row in front(f)] for f in (run, folder))
    assert got == expected
    assert len(archived(folder)) == len(archived(run)) == 10
    assert figures(folder) == figures(run)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("backbone=mobilenetv3_smal_050",), r"unknown backbone .*close: .*mobilenetv3_small_050"),
        (("backbone={_target_:resnet18,in_chans:3}",), r"does not run on pictures \(1, 32, 32\)"),
        (("backbone={_target_:resnet18,pretrained:true}",), r"backbone\.pretrained: .* teacher\.pretrained=…"),
        (("stages=[teachr]",), r"stages: there is no stage 'teachr'; did you mean teacher"),
        (("objectives=[acuracy]",), r"acuracy"),
        (("data=fashion_mnist", "data.folder=/nowhere"), r"/nowhere"),
        (("budget.macs=50",), r"macs at most 50; this space reaches macs from .*; if 50 per cent is meant, say 0.5"),
        (("budget.macs=0.001",), r"no subnet was found in the budget of macs at most [\d.]+ k; this space reaches"),
        (("method=one_step", "budget.macs=0.001"), r"no subnet was found in the budget of macs"),
        (("teacher.recipe.batch_size=5000",), r"teacher.recipe: batch_size 5000 asked of 1077 pictures"),
        (("supernet.recipe.batch_size=5000",), r"supernet.recipe: batch_size 5000 asked of 1077 pictures"),
        (("search.evaluations=0",), r"search: a search needs at least 1 evaluation, and 1 at a time, got 0 and 4"),
        (("data.size=[64,64]",), r"data.size is a whole number, got \[64, 64\]"),
        (("workers=0",), r"workers is a number of processes, at least 1, got 0"),
        (("workers=many",), r"workers is a whole number, got 'many'"),
        (("device=cuda:7",), r"device=cuda:7 cannot be used here"),
        (("stages=[search]",), r"supernet\.pt is missing: run the stage 'supernet' first"),
    ],
)
def test_bad_input_is_one_clear_message(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        execute(composed(f"run={tmp_path / 'run'}", *TOY, *overrides))
    assert not (tmp_path / "run/teacher.pt").exists()


def test_a_backbone_of_which_nothing_is_elastic_is_refused(run: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing of test_efficientnet is elastic:"):
        Run.parse(composed(f"run={run}", *TOY, "space.exclude=['*']")).convert()


def test_latency_is_an_objective_and_a_limit_too(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "copy")
    predicted = json.loads((folder / "latency.json").read_text())
    assert set(predicted["held_out"]) == {"percent", "macs_only_percent", "noise_percent", "networks"}
    execute(
        composed(
            f"run={folder}",
            *TOY,
            "objectives=[accuracy,latency_ms]",
            "stages=[search]",
            "budget.macs=0.8",
            "force=true",
        )
    )
    rows = [row for row in json.loads((folder / "search.json").read_text())["front"] if row["subnet"]]
    limit = 0.8 * next(row["macs"] for row in front(run) if row["name"] == "teacher")
    assert rows and all(row["latency_ms"] > 0 and row["macs"] <= limit for row in rows)


def test_workers_search_as_one_process_does(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("archive.*", "search.json", "done.json"))
    execute(composed(f"run={folder}", *TOY, "stages=[search]", "workers=2"))
    assert (folder / "search.json").read_text() == (run / "search.json").read_text()
    assert len(archived(folder)) == 10


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: ofa-lab[ray]")
def test_a_search_on_ray_evaluates_as_one_process_does(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("archive.*", "search.json", "done.json"))
    with connected(2):
        execute(composed(f"run={folder}", *TOY, "stages=[search]", "workers=ray"))
    before, again = (json.loads((where / "search.json").read_text())["evaluated"] for where in (run, folder))
    scores = {json.dumps(row["subnet"]): row for row in before}
    both = [row for row in again if json.dumps(row["subnet"]) in scores]
    assert len(again) == len(archived(folder)) == 10 and len(both) >= 4, "the first batch at least is the same"
    assert all(row["accuracy"] == scores[json.dumps(row["subnet"])]["accuracy"] for row in both)


def test_a_search_by_another_engine_leaves_the_files_that_show_how_it_chose(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "copy")
    toy = [override for override in TOY if not override.startswith("search.")]
    execute(composed(f"run={folder}", *toy, "search=sensitivity", "budget.macs=0.6", "stages=[search]", "force=true"))
    curves = json.loads((folder / "sensitivity.json").read_text())
    assert {row["choice"] for row in curves} == set(Run.parse(composed(f"run={folder}", *toy)).supernet.space.largest)
    assert (folder / "sensitivity.png").stat().st_size > 10_000


def test_weights_and_biases_runs_offline(tmp_path: Path) -> None:
    output = finish(tmp_path / "run", "tracking=wandb", "stages=[teacher]", "teacher.recipe.epochs=1")
    assert "accuracy" in output
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert lines(tmp_path / "run" / "metrics.jsonl", "teacher") == 1


def test_an_impossible_budget_is_refused_with_the_reachable_range(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(ValueError, match="macs") as caught:
        execute(composed(f"run={folder}", *TOY, "budget.macs=0.0001", "stages=[search]", "force=true"))
    assert "reach" in str(caught.value)


def test_other_settings_in_the_same_folder_are_refused(run: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher\.recipe\.epochs was 2, is now 3.*choose another run"):
        execute(composed(f"run={run}", *TOY, "teacher.recipe.epochs=3"))


@pytest.mark.parametrize("name", ["teacher.pt", "supernet.pt", "archive.sqlite", "search.json", "settings.json"])
def test_a_damaged_file_is_named_and_nothing_else_is_lost(run: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(run, tmp_path / "copy")
    (folder / "done.json").unlink()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(b"not what it was" + content[40 : len(content) // 2])
    others = {p: p.read_bytes() for p in folder.glob("*.pt") if p.name != name}
    stages = ["stages=[export]"] if name == "search.json" else []
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        execute(composed(f"run={folder}", *TOY, *stages))
    assert all(path.read_bytes() == before for path, before in others.items())


def test_the_console_shows_one_line_and_no_traceback(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    process = start(blocked / "run")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "Traceback" not in output and "cannot be written" in output and len(output.strip().splitlines()) == 1
    process = start(tmp_path / "run", "stges=[teacher]")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    assert output.strip() == "ofa: stges=[teacher]: there is no setting 'stges'; did you mean stages?"
    process = start(tmp_path / "run", "backbone=resnet81")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "Traceback" not in output and "unknown backbone" in output and "resnet" in output
