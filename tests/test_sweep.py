"""Sweeps: a folder for each job, what is alike made once, no job lost by another's failure, one table in the end."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from pruning_runs import SHORT, TOY

from ofa.conf.program.arguments import parsed, prepare
from ofa.conf.program.sweep import folders

TESTS = Path(__file__).parent
JOB = (*(word for word in TOY if word != "reuse=false"), *SHORT, "method=uniform", "pruning.finetuning=null")


def swept(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    command = [sys.executable, "-m", "ofa.conf.program.command", "-m", f"run={folder}", *JOB, *words]
    return subprocess.run(command, env=place, capture_output=True, text=True, timeout=500)


def test_a_sweep_loses_nothing_and_ends_in_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = swept(folder, "budget.macs=0.4,0.0001,0.7", "teacher.recipe.epochs=1", "export.files=[weights]")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stdout + done.stderr
    jobs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert jobs == ["budget.macs-0.0001", "budget.macs-0.4", "budget.macs-0.7"]
    shares = {}
    for name in ("0.4", "0.7"):
        teacher, row = json.loads((folder / f"budget.macs-{name}/front.json").read_text())
        shares[name] = row["macs"] / teacher["macs"]
        assert (folder / f"budget.macs-{name}" / row["files"]["weights"]).exists()
    assert 0.3 < shares["0.4"] <= 0.4 < 0.6 < shares["0.7"] <= 0.7
    assert f"teacher: taken from {folder}/budget.macs-0.4, where it was made with the same settings" in done.stdout
    rows = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert [(row["run"], row["name"]) for row in rows] == [
        (f"budget.macs-{name}", network) for name in ("0.4", "0.7") for network in ("teacher", "step-01")
    ]
    assert {row["budget.macs"] for row in rows} == {"0.4", "0.7"} and all(float(row["accuracy"]) >= 0 for row in rows)
    times = [json.loads((folder / f"budget.macs-{name}/times.json").read_text()) for name in ("0.4", "0.7")]
    assert times[0]["teacher"] == times[1]["teacher"] > 0 and times[0]["export"] > 0
    table = done.stdout[done.stdout.index("3 runs in") :]
    assert "no subnet was found" in table and table.count("budget.macs-") == 3


@pytest.mark.slow
def test_a_budget_missed_is_the_status_of_the_sweep(tmp_path: Path) -> None:
    wanted = ("pruning.tolerance=0", "pruning.halvings=0", "budget.macs=0.2", "teacher.recipe.epochs=6")
    done = swept(tmp_path / "sweep", *wanted, "seed=0", "export.files=[weights]")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the budget is missed" in done.stdout[done.stdout.index("1 runs in") :]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["seed=0,1"], ["hydra.sweep.dir=runs/sweep", "hydra.sweep.subdir='seed-${typed:${seed}}'"]),
        (["run=mine", "data=digits,cifar10"], ["hydra.sweep.dir=mine", "data-${typed:${hydra:runtime.choices.data}}"]),
        (["run=mine", "++budget.macs=0.4,0.5"], ["hydra.sweep.subdir='budget.macs-${typed:${budget.macs}}'"]),
        (["run=a/${seed}", "seed=0,1"], ["hydra.sweep.dir=.", "hydra.sweep.subdir='${run}'"]),
        (["seed=0"], ["job-${hydra:job.num}"]),
    ],
)
def test_each_job_has_a_folder_named_by_what_differs(words: list[str], found: list[str]) -> None:
    given = " ".join(folders(parsed(words), ["data"]))
    assert all(part in given for part in found), given


def test_a_run_of_the_users_own_naming_stays() -> None:
    given = ["-m", "seed=0,1", "run=mine/${seed}"]
    assert prepare("ofa", "config", given)[:3] == given
    assert "run=mine" not in prepare("ofa", "config", ["-m", "seed=0,1", "run=mine"])
    assert "reuse=true" not in prepare("ofa", "config", [*given, "reuse=false"])


def test_a_sweep_is_composed_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        prepare("ofa", "config", ["-m", "seed=0,1", "data=digits,digit"])
    assert "data=digit: there is no data 'digit'; did you mean digits" in capsys.readouterr().err


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_launchers_of_the_extra_compose(launcher: str) -> None:
    with initialize_config_module("ofa.conf", version_base="1.3"):
        config = compose("config", overrides=[f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert launcher.partition("_")[0] in config.hydra.launcher._target_


@pytest.mark.slow
def test_jobs_at_once_share_what_is_alike(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    words = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "export.files=[weights]", "teacher.recipe.epochs=3")
    done = swept(folder, "budget.macs=0.4,0.7", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    logs = {path.parent.name: path.read_text() for path in folder.glob("*/ofa.log")}
    took = [name for name, text in logs.items() if "teacher: taken from" in text]
    assert len(logs) == 2 and len(took) == 1
    assert "teacher: waits for a run beside this one, with the same settings" in logs[took[0]]
    weights = [path.read_bytes() for path in folder.glob("*/teacher.pt")]
    assert weights[0] == weights[1]
    assert len(json.loads((folder / "budget.macs-0.7/front.json").read_text())) == 2
