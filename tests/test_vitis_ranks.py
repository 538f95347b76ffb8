"""Several processes at once in one folder, as ranks are: all write the same files, and none stumbles over another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RANK = """
import sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from vitis_networks import Likeness, make
from ofa.vitis import get_pruning_runner

rank, ranks = int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
model, x = make("plain")
likeness = Likeness(model, x)

def score(network):
    time.sleep(0.004 * rank)  # some are slower than others
    return likeness(network, 1e5)

iterative, one_step = (get_pruning_runner(model, x, method) for method in ("iterative", "one_step"))
iterative.supernet(2), one_step.supernet(2)
Path(f"ready{rank}").touch()
while len(list(Path(".").glob("ready*"))) < ranks:
    time.sleep(0.01)
iterative.ana(score)
sizes = [[len(p) for p in iterative.prune(0.3, mode=mode).parameters()] for mode in ("sparse", "slim")]
one_step.search(eval_fn=score, num_subnet=6, gpus=None)
sizes.append([len(p) for p in one_step.prune().parameters()])
print(sizes)
"""


@pytest.mark.parametrize("number", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_do_everything_in_one_folder(tmp_path: Path, number: int) -> None:
    """None fails, files are whole and know everything, and all prune to the same networks."""
    place = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, "-c", RANK, str(ROOT / "tests"), str(rank), str(number)] for rank in range(number)]
    ranks = [
        subprocess.Popen(c, cwd=tmp_path, env=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for c in commands
    ]
    done = [(*rank.communicate(timeout=300), rank.returncode) for rank in ranks]
    assert [code for _, _, code in done] == [0] * number, next(err[-2000:] for _, err, code in done if code)
    assert len({out for out, _, _ in done}) == 1
    left = {path.name: path for path in (tmp_path / ".vai").iterdir()}
    assert not [name for name in left if name.startswith(".") or "partial" in name]
    analysis = json.loads(left["Plain.sens"].read_text())
    assert (
        analysis["uncompleted_steps"] == [] and sum(len(row["metrics"]) for row in analysis["groups"]) == 3 + 7 + 9 + 9
    )
    assert len(json.loads(left["Plain_ratio_0.5.search"].read_text())["scores"]) == 6
    for name in ("Plain_ratio_0.3.spec", "Plain_ratio_0.3_pruning_info.json", "Plain_ratio_0.5_best.spec"):
        json.loads(left[name].read_text())
