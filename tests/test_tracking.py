"""Tracking: every row once, whatever happened in between."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_space import toy_front

from ofa.train.tracking import TensorBoard, Tracker, Wandb


def rows(tracker: Tracker) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tracker.path.read_text().splitlines()]


def test_rows_are_json_objects_in_order(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "run")
    tracker.log("teacher", {"epoch": 1, "loss": 0.5})
    tracker.log("teacher", {"epoch": 2, "loss": float("nan")})
    assert rows(tracker) == [
        {"stage": "teacher", "epoch": 1, "loss": 0.5},
        {"stage": "teacher", "epoch": 2, "loss": None},
    ]


def test_rewinding_drops_the_rows_that_are_made_again(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    for stage, epoch in ("teacher", 1), ("teacher", 2), ("supernet", 1), ("supernet", 2), ("supernet", 3):
        tracker.log(stage, {"epoch": epoch})
    tracker.log("export", {"subnet": "a"})
    with tracker.path.open("a") as file:
        file.write('{"stage": "supernet", "epo')  # cut off by a kill
    again = Tracker(tmp_path)
    again.rewind("supernet", 1)
    again.log("supernet", {"epoch": 2})
    found = [(row["stage"], row.get("epoch")) for row in rows(again)]
    assert found == [("teacher", 1), ("teacher", 2), ("supernet", 1), ("export", None), ("supernet", 2)]


def test_rewinding_nothing_is_fine(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.rewind("teacher", 0)
    assert not tracker.path.exists()


def test_training_imports_wandb_only_when_asked() -> None:
    program = """if True:
        import sys, ofa.train
        assert not {"wandb", "timm"} & set(sys.modules), "importing ofa.train is light"
        model = ofa.train.create("test_efficientnet", 10)
        ofa.train.Recipe().optimizer_of(model)
        assert "timm" in sys.modules and "wandb" not in sys.modules
        """
    subprocess.run([sys.executable, "-c", program], check=True)


def records(folder: Path) -> Iterator[Any]:
    """What wandb wrote in its runs: LevelDB's log format, blocks of 32 kB, with protobuf records in it."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        content, place, parts = path.read_bytes(), 7, b""
        while place + 7 <= len(content):
            if 32768 - place % 32768 < 7:
                place += 32768 - place % 32768
                continue
            _, length, kind = struct.unpack("<IHB", content[place : place + 7])
            parts += content[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):
                yield Record.FromString(parts)
                parts = b""


def exported(folder: Path) -> list[dict[str, Any]]:
    """What a run's folder holds in the end."""
    front = toy_front().spread(2)
    (folder / "front.json").write_text(json.dumps(front.to_json()))
    front.page(folder / "front.html")
    torch.save({}, folder / "supernet.pt")
    for row in front.rows:
        (folder / "subnets" / row.name).mkdir(parents=True)
        (folder / "subnets" / row.name / "model.onnx").write_text("a network")
    return front.to_json()


def test_wandb_runs_offline_and_goes_on_under_the_same_id(tmp_path: Path) -> None:
    folder = tmp_path / "sweep/job-0"
    folder.mkdir(parents=True)
    networks = exported(folder)
    for work in ('tracker.log("teacher", {"epoch": 1, "loss": 0.5})', "tracker.leave()"):  # wandb writes as it ends
        program = f"""if True:
            from pathlib import Path
            from ofa.train.tracking import Tracker, Wandb
            tracker = Tracker(Path({str(folder)!r}), Wandb(), {{"seed": 3, "search": {{"evaluations": 50}}}})
            {work}
            tracker.close()
            """
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        assert not done.stdout + done.stderr
    assert (folder / "metrics.jsonl").read_text() == '{"stage": "teacher", "epoch": 1, "loss": 0.5}\n'
    found = [*records(folder)]
    runs = [record.run for record in found if record.HasField("run")]
    assert {(run.run_id, run.run_group, run.display_name) for run in runs} == {(runs[0].run_id, "sweep", "job-0")}
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["seed"] == 3 and config["search"] == {"evaluations": 50}
    logged = {
        "/".join(item.nested_key) or item.key: item.value_json
        for record in found
        if record.HasField("history")
        for item in record.history.item
    }
    assert logged["teacher/loss"] == "0.5" and {"front", "front page"} <= {name.split("/")[0] for name in logged}
    kept = [record.request.log_artifact.artifact for record in found if record.HasField("request")]
    kept += [record.artifact for record in found if record.HasField("artifact")]
    named = {artifact.name: artifact for artifact in kept if artifact.type in ("supernet", "network")}
    supernet = f"supernet-{runs[0].run_id}"
    assert named.keys() == {supernet, *(f"{row['name']}-{runs[0].run_id}" for row in networks)}
    metadata = [json.loads(a.metadata) for name, a in named.items() if name != supernet]
    assert {row["supernet"] for row in metadata} == {supernet}
    assert {row["accuracy"] for row in metadata} == {row["accuracy"] for row in networks}


def test_tensorboard_has_every_figure_by_epoch(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for epochs in ((1, 2), (3,)):  # the second goes on in the same folder
        tracker = Tracker(tmp_path, TensorBoard(), {"seed": 0})
        for epoch in epochs:
            tracker.log("teacher", {"epoch": epoch, "loss": 1 / epoch, "note": "a word"})
        tracker.leave()
        tracker.close()
    found = [accumulator.EventAccumulator(str(path)) for path in sorted((tmp_path / "tensorboard").glob("events*"))]
    points = [(event.step, event.value) for one in found for event in one.Reload().Scalars("teacher/loss")]
    assert sorted(points) == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_an_unknown_wandb_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'offline' or 'online', got 'sometimes'"):
        Wandb(mode="sometimes")
