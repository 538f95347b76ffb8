"""Tracking: every row once, whatever happened in between."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ofa.train.tracking import Tracker, Wandb


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


def test_wandb_runs_offline(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, Wandb())
    tracker.log("teacher", {"epoch": 1, "loss": 0.5})
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    assert rows(tracker) == [{"stage": "teacher", "epoch": 1, "loss": 0.5}]


def test_an_unknown_wandb_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'offline' or 'online', got 'sometimes'"):
        Wandb(mode="sometimes")
