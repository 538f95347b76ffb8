"""Scripts in the style of Vitis' own, in a folder of theirs whose files have the names of this project's folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(__file__).parent / "vitis_scripts"
THEIRS = ("search", "train", "conf", "tests", "experiments")


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder of scripts with files of the user's own beside them, which nobody imports."""
    for script in SCRIPTS.glob("*.py"):
        shutil.copy(script, tmp_path)
    for name in THEIRS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__name__} is the user\\'s own')\n")
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    place = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=place, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done


def test_iterative_pruning_in_two_ranks(crowded: Path) -> None:
    """Every rank analyses, prunes and loads in one folder; the loss that scores is taken for one."""
    done = run(crowded, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "iterative.py")
    rows = sorted(line.partition(": ") for line in done.stdout.splitlines() if line.startswith("rank "))
    assert [row[0] for row in rows] == ["rank 0 of 2", "rank 1 of 2"] and rows[0][2] == rows[1][2]
    baseline, final = map(float, rows[0][2].split())
    assert baseline > 90 and final > baseline - 5
    analysis = json.loads((crowded / ".vai/MyNet.sens").read_text())
    assert analysis["uncompleted_steps"] == [] and analysis["mode"] == ""
    assert {path.name for path in (crowded / ".vai").iterdir()} == {"MyNet.sens"} | {
        f"MyNet_ratio_{ratio}{ending}" for ratio in (0.3, 0.5) for ending in (".spec", "_pruning_info.json")
    }
    assert done.stderr.count("lower scores are better, as it seems") == 1  # the first rank says it, the second does not
    assert "wrote .vai/MyNet_ratio_0.5.spec" in done.stderr and "analysis: 17 of 17" in done.stderr


def test_one_step_pruning_to_deployment(crowded: Path) -> None:
    """The best by loss, as it was scored; its finetuned weights fit the slim form of a fresh network."""
    done = run(crowded, "one_step.py")
    pruned, baseline, final = map(float, done.stdout.split())
    found = json.loads((crowded / ".vai/MyNet_ratio_0.5.search").read_text())
    assert pruned == pytest.approx(min(found["scores"].values()), abs=1e-6) and len(found["scores"]) == 10
    assert baseline > 90 and final > baseline - 4
    assert "lower scores are better, as it seems" in done.stderr and "scores of other weights than" in done.stderr


@pytest.mark.slow
def test_once_for_all_to_onnx(crowded: Path) -> None:
    """Trained, evolved, exported; the subnet scores what the search recorded, its ONNX file computes the same."""
    done = run(crowded, "once_for_all.py")
    said = {word: rest.split() for word, _, rest in (line.partition(": ") for line in done.stdout.splitlines())}
    assert said["max"][1] == "net_sum_k_9_sum_c_96" and said["min"][1] == "net_sum_k_7_sum_c_48"
    pareto = json.loads((crowded / "pareto_global.txt").read_text())
    best = max(pareto.values(), key=lambda row: row["acc@top1"])
    macs, _, found, scored = map(float, said["subnet"])
    assert found == scored == pytest.approx(best["acc@top1"], abs=0.01) and macs == pytest.approx(best["macs"])
    assert macs < float(said["max"][0]) / 1.5 and scored > float(said["baseline"][0]) - 4
    layers = {entry["dynamic_conv_module_name"] for group in best["subnet_setting"] for entry in group}
    assert layers == {"conv2", "gate", "conv3"}  # the ends stay, and what linear layers alone make
    assert (crowded / "subnet.onnx").exists() and "wrote .vai/MyNet_" in done.stderr
