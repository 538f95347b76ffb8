"""The console program of hyper-parameters: a toy study, killed and resumed, pruned, collapsed, and told nonsense."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pytest
from composition import composed
from hydra import initialize_config_module
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ofa.conf.program.arguments import relaxed
from ofa.conf.program.building import build
from ofa.conf.program.study import Study, tune

LR, SHARE = "supernet.recipe.lr", "supernet.rule.teacher_share"
TOY = (
    "backbone=test_efficientnet", "data.size=32", "teacher.recipe.epochs=2", "supernet.calibration_batches=1",
    "supernet.recipe.batch_size=128", "space.width=[0.5,1.0]", "space.proof=quick", "threads=1",
    "tuning.trials=3", "tuning.epochs=2", "tuning.startup=2",
    "reuse=false",
)  # fmt: skip


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ofa.conf.program.tune", f"run={folder}", *TOY, *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(folder: Path, *overrides: str) -> str:
    process = start(folder, *overrides)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def trials(folder: Path, *states: TrialState) -> list[Any]:
    """What Optuna itself reads in the folder's journal."""
    storage = JournalStorage(JournalFileBackend(str(folder / "tuning.journal")))
    study = optuna.load_study(study_name=None, storage=storage)
    return list(study.get_trials(states=states or None))


def outcome(folder: Path) -> list[Any]:
    ended = trials(folder, TrialState.COMPLETE, TrialState.PRUNED)
    return [(t.state, t.params, t.value, t.intermediate_values) for t in ended]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted study."""
    folder = tmp_path_factory.mktemp("runs") / "toy study"
    (folder.parent / "output.txt").write_text(finish(folder))
    return folder


@pytest.fixture
def hydra() -> Iterator[None]:
    """What Hydra's own entry point prepares for `compose`."""
    with initialize_config_module("ofa.conf", version_base="1.3"):
        yield


def arguments(folder: Path, *overrides: str) -> list[str]:
    return [relaxed(o) for o in (f"run={folder}", *TOY, *overrides)]


def test_a_study_ends_in_a_table_and_the_best_as_a_command(run: Path) -> None:
    output = (run.parent / "output.txt").read_text()
    first, *others = trials(run)
    assert first.params == {LR: 0.1, "supernet.recipe.weight_decay": 1e-4, SHARE: 0.0}, "the job's own settings"
    assert len(others) == 2 and all(0.01 <= t.params[LR] <= 1 and t.params != first.params for t in others)
    for trial in trials(run, TrialState.COMPLETE):
        assert trial.value == trial.intermediate_values[2]
        ends = trial.user_attrs["accuracy"], trial.user_attrs["accuracy_smallest"]
        assert trial.value == pytest.approx(sum(ends) / 2)
        assert f"{ends[1]:.2f}" in output
    best = max(trials(run, TrialState.COMPLETE), key=lambda t: t.value)
    (command,) = (line for line in output.splitlines() if line.startswith("ofa "))
    config = composed(*shlex.split(command)[1:])
    training = build(config.supernet, "supernet")
    assert (training.recipe.lr, training.rule.teacher_share) == (best.params[LR], best.params[SHARE])
    assert training.recipe.epochs == 32 and config.run == str(run), "the trials' short training is not the job's"
    assert not list(run.glob("trials/*/teacher*")) and (run / "teacher.pt").exists()


@pytest.mark.slow
def test_killed_in_a_trial_and_resumed_equals_uninterrupted(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    process, began = start(folder), time.monotonic()
    while not (folder / "trials" / "1" / "metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() - began < 200
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [t.state for t in trials(folder)] == [TrialState.COMPLETE, TrialState.RUNNING]
    with (folder / "tuning.journal").open("a") as file:
        file.write('{"op_code":6,"wor')  # a line that the kill tore
    output = finish(folder)
    assert "teacher: done before" in output
    assert [t.number for t in trials(folder, TrialState.FAIL)] == [1]
    assert outcome(folder) == outcome(run)


@pytest.mark.slow
def test_more_trials_go_on_where_the_study_ended(run: Path) -> None:
    before = outcome(run)
    output = finish(run, "tuning.trials=4")
    assert outcome(run)[:3] == before and len(outcome(run)) == 4
    assert "trial 3:" in output and "trial 2:" not in output


@pytest.mark.slow
@pytest.mark.usefixtures("hydra")
def test_a_trial_worse_than_the_others_is_pruned(tmp_path: Path) -> None:
    space = f"tuning.space={{supernet.recipe.weight_decay:null,{SHARE}:null,{LR}:{{choices:[0.1,1e-6]}}}}"
    tune(arguments(tmp_path, space, "tuning.startup=1", "tuning.warmup=0", "tuning.trials=3"))
    slow = [t for t in trials(tmp_path) if t.params == {LR: 1e-6}]
    assert slow and trials(tmp_path)[0].params == {LR: 0.1}
    assert all(t.state == TrialState.PRUNED and list(t.intermediate_values) == [1] for t in slow)


@pytest.mark.slow
@pytest.mark.usefixtures("hydra")
def test_a_collapse_ends_a_trial_and_not_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune(arguments(tmp_path, f"tuning.space={{{LR}:{{low:1e35,high:1e36}}}}", "tuning.trials=1"))
    (trial,) = trials(tmp_path)
    assert trial.state == TrialState.PRUNED and "finite loss" in trial.user_attrs["collapse"]
    assert "every trial was pruned or collapsed" in capsys.readouterr().out


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tuning.space={supernet.recipe.lrr:{low:1,high:2}}", r"no such setting to tune; did you mean supernet"),
        ("tuning.space={data.size:{low:8,high:16}}", r"no such setting to tune; there are supernet\.trained"),
        ("tuning.space.supernet.recipe.lr.low=2", r"supernet\.recipe\.lr: low is at most high, got 2\.0 and 1\.0"),
        ("tuning.space.supernet.recipe.lr.low=0", r"lr: low is above 0 on a logarithmic scale, got 0\.0"),
        ("tuning.space.supernet.recipe.lr.low=a", r"lr\.low is a number, got 'a'"),
        ("tuning.space.supernet.recipe.lr.lo=1", r"lr\.lo is no setting of Dimension; did you mean lo"),
        ("tuning.space.supernet.recipe.warmup.low=0", r"low and high, or choices, are needed; got low 0\.0"),
        ("tuning.space.supernet.rule.teacher_share.high=2", r"2 does not fit: supernet\.rule: teacher_share is"),
        ("tuning.space.supernet.recipe.batch_size={low:16.5,high:64}", r"16\.5 does not fit: .* is a whole number"),
        ("tuning.space={supernet.recipe.optimizer:{choices:[]}}", r"choices are one or more"),
        ("tuning.space={supernet.recipe.precision:{choices:[float8]}}", r"float8 does not fit: .* precision is one of"),
        ("tuning.space={supernet.recipe.lr:3}", r"lr is \{low, high, log\} or \{choices\}, got 3"),
        ("tuning.space=null", r"space names settings to tune, got None"),
        ("tuning.pruner=mean", r"unknown pruner 'mean'; allowed: median"),
        ("tuning.warmup=2", r"warmup is from 0 to below the 2 epochs, got 2"),
        ("tuning.trails=9", r"tuning\.trails is no setting of Tuning; did you mean trials"),
    ],
)  # fmt: skip
def test_mistakes_are_said_clearly(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Study(arguments(tmp_path, override))
    assert not (tmp_path / "tuning.journal").exists()


@pytest.mark.usefixtures("hydra")
def test_ranges_choices_and_names_of_every_form(tmp_path: Path) -> None:
    given = (
        "tuning.space.supernet.recipe.lr.high=0.05",
        "tuning.space.supernet.recipe.weight_decay=null",
        "tuning.space={supernet.recipe.batch_size:{low:16,high:64,log:true},supernet.recipe.clip_value:{choices:[1,null]}}",
    )
    study = Study(arguments(tmp_path, *given, "tuning.pruner=hyperband"))
    assert study.space == {
        LR: optuna.distributions.FloatDistribution(0.01, 0.05, log=True),
        SHARE: optuna.distributions.FloatDistribution(0, 1),
        "supernet.recipe.batch_size": optuna.distributions.IntDistribution(16, 64, log=True),
        "supernet.recipe.clip_value": optuna.distributions.CategoricalDistribution([1, None]),
    }
    assert study.start == {SHARE: 0.0, "supernet.recipe.clip_value": 1.0}, "of the job's settings, what the space holds"
    assert isinstance(study.study.pruner, optuna.pruners.HyperbandPruner)


@pytest.mark.usefixtures("hydra")
def test_a_study_of_other_settings_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    Study(arguments(tmp_path))
    Study(arguments(tmp_path, "tuning.trials=9"))
    with pytest.raises(ValueError, match=r"study made with other settings \(data\.size was 32, is now 48\); choose"):
        Study(arguments(tmp_path, "data.size=48"))
    with pytest.raises(ValueError, match=r"tuning\.space\.supernet\.recipe\.lr\.high was 1\.0, is now 0\.5"):
        Study(arguments(tmp_path, "tuning.space.supernet.recipe.lr.high=0.5"))
    (tmp_path / "tuning.journal").write_text("nonsense\nand more\n")
    with pytest.raises(ValueError, match=r"tuning\.journal is damaged \(.*; delete it to start over"):
        Study(arguments(tmp_path))


def test_the_console_shows_one_line_and_no_traceback(tmp_path: Path) -> None:
    process = start(tmp_path, "tuning.space={supernet.recipe.lrr:{low:1,high:2}}")
    output, _ = process.communicate(timeout=60)
    first, line = output.splitlines()
    assert process.returncode == 2 and line.startswith("ofa-tune: tuning.space.supernet.recipe.lrr")
    assert first == f"ofa-tune {version('ofa-lab')}: test_efficientnet on digits, in {tmp_path}"
