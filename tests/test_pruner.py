"""What pruning is bounded by and ranks by, what its scores hold for, and what it scores again after a kill."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composition import composed
from pruning_runs import SHORT, TOY, beside, steps, taught
from scipy.stats import spearmanr

from ofa.conf.program.command import execute
from ofa.conf.program.pruner import Pruner
from ofa.conf.program.run import Run
from ofa.search import Archive, run
from ofa.search.problem import Problem
from ofa.search.pruning import OneStep
from ofa.train import checkpoint

RAW = ("stages=[teacher,supernet,prune]", "pruning.finetuning=null")
ONE_STEP = ("method=one_step", "budget.macs=[0.4,0.5]", "search.evaluations=8", "search.population=4")
Scores = dict[str, tuple[dict[str, float], float]]


def settings(folder: Path, *overrides: str) -> tuple[str, ...]:
    return (f"run={folder}", *TOY, *SHORT, *RAW, *overrides)


def archived(folder: Path) -> Scores:
    """Metrics and seconds by subnet, in the order of evaluation."""
    with sqlite3.connect(folder / "pruning/01/archive.sqlite") as database:
        rows = database.execute("SELECT subnet, metrics, seconds FROM evaluations ORDER BY position").fetchall()
    return {subnet: (json.loads(metrics), seconds) for subnet, metrics, seconds in rows}


def metrics_of(scores: Scores) -> dict[str, dict[str, float]]:
    return {subnet: metrics for subnet, (metrics, _) in scores.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained backbone."""
    return taught(tmp_path_factory.mktemp("pruner") / "trained")


@pytest.fixture(scope="module")
def scored(trained: Path) -> Path:
    """A folder in which one-step pruning has scored eight subnets."""
    folder = beside(trained, "scored")
    execute(composed(*settings(folder, *ONE_STEP)))
    return folder


def test_a_budget_of_parameters_is_met_as_closely_as_widths_allow(trained: Path) -> None:
    folder = beside(trained, "parameters")
    given = ("method=iterative", "pruning.steps=1", "pruning.tolerance=null", "budget.macs=null", "budget.params=0.4")
    config = composed(*settings(folder, *given))
    execute(config)
    (step,) = steps(folder)
    supernet = Run.parse(config).supernet
    every = np.indices(tuple(supernet.space.counts)).reshape(len(supernet.space), -1).T
    params = supernet.costs(every)["params"]
    best = params[params <= 0.4 * params.max()].max()
    assert 0.99 * best <= step["metrics"]["params"] <= best


@pytest.mark.slow
def test_a_budget_of_latency_has_it_measured_before(tmp_path: Path) -> None:
    given = ("data.size=48", "teacher.recipe.epochs=1", "latency.samples=6", "budget.macs=null")
    iterative = ("method=iterative", "budget.latency_ms=0.7", "pruning.steps=2", "pruning.tolerance=null")
    one_step = ("method=one_step", "budget.latency_ms=[0.5,0.7]", "search.evaluations=4")
    first, second = tmp_path / "iterative", tmp_path / "one_step"
    execute(composed(*settings(first, *given, *iterative)))
    shutil.copytree(first, second, ignore=shutil.ignore_patterns("pruning"))
    execute(config := composed(*settings(second, *given, *one_step)))
    assert len((second / "latency.jsonl").read_text().splitlines()) == 6  # they were measured once
    whole = Pruner(Run.parse(config)).whole["latency_ms"]
    shares = [step["metrics"]["latency_ms"] / whole for step in (*steps(first), *steps(second))]
    assert 0.7 < shares[0] <= 0.7**0.5 and shares[1] <= 0.7 and 0.5 <= shares[2] <= 0.7


def test_what_a_kill_left_is_not_scored_again(scored: Path, trained: Path) -> None:
    folder, whole = beside(trained, "partial"), archived(scored)
    (folder / "pruning").mkdir()
    shutil.copytree(scored / "pruning/01", folder / "pruning/01", ignore=shutil.ignore_patterns("*.json", "*.pt"))
    with sqlite3.connect(folder / "pruning/01/archive.sqlite") as database:
        database.execute("DELETE FROM evaluations WHERE position > 5")
        database.execute("UPDATE evaluations SET seconds = -1")
    execute(composed(*settings(folder, *ONE_STEP)))
    assert metrics_of(archived(folder)) == metrics_of(whole) and steps(folder) == steps(scored)
    assert [seconds < 0 for _, seconds in archived(folder).values()] == [True] * 5 + [False] * 3


def test_workers_score_what_one_process_scores(scored: Path, trained: Path) -> None:
    folder = beside(trained, "workers")
    execute(composed(*settings(folder, *ONE_STEP, "workers=2")))
    assert metrics_of(archived(folder)) == metrics_of(archived(scored)) and steps(folder) == steps(scored)


def test_candidates_of_a_warmed_supernet_are_ranked_by_its_own_weights_and_by_the_loss(
    scored: Path, trained: Path
) -> None:
    folder = beside(trained, "warmed")
    given = ("supernet=sandwich", "supernet.recipe.epochs=1", "objectives=[loss,macs]")
    execute(composed(*settings(folder, *ONE_STEP, *given)))
    plain, warmed = (checkpoint.load(f / "supernet.pt")["model"] for f in (scored, folder))
    assert not torch.equal(plain["model.3.weight"], warmed["model.3.weight"])
    mean = [np.mean([m["loss"] for m in metrics_of(archived(f)).values()]) for f in (scored, folder)]
    assert mean[1] < mean[0] - 0.1  # narrow subnets have learned something
    losses = [metrics["loss"] for metrics in metrics_of(archived(folder)).values()]
    assert len(losses) == 8 and steps(folder)[0]["metrics"]["proposed_loss"] == min(losses)


def test_candidates_are_calibrated_on_pictures_of_the_training_split_alone(scored: Path) -> None:
    pruner = Pruner(Run.parse(composed(*settings(scored, *ONE_STEP))))
    splits = pruner.run.splits

    def rows(split: Any) -> set[bytes]:
        return {picture.numpy().tobytes() for images, _ in split.ordered(256) for picture in images}

    used = {picture.numpy().tobytes() for images in pruner.learner.calibration for picture in images}
    assert len(used) == 2 * 64 and used <= rows(splits.train)
    assert used.isdisjoint(rows(splits.validation)) and used.isdisjoint(rows(splits.test))


def test_the_loss_still_ranks_where_every_accuracy_is_at_chance(scored: Path, tmp_path: Path) -> None:
    """A bias makes each network answer 0; by the loss they stand in the order of what they know all the same."""
    pruner = Pruner(Run.parse(composed(*settings(scored, *ONE_STEP))))
    supernet, evaluate_subnet = pruner.supernet, pruner.learner.evaluate_subnet
    search = OneStep(12, 12).start(Problem.parse(supernet.space, ["loss"], supernet.costs, {"macs": [0.2, 0.9]}))
    with torch.no_grad():
        supernet.model.get_parameter("3.bias")[0] += 12
    with Archive(tmp_path / "archive.sqlite") as archive:
        run(search, evaluate_subnet, archive)
    assert len({metrics["accuracy"] for metrics in search.results.values()}) == 1
    with torch.no_grad():
        supernet.model.get_parameter("3.bias")[0] -= 12
    ranked = [evaluate_subnet(subnet)["accuracy"] for subnet in search.ranked()]
    assert len(ranked) == 12 and spearmanr(range(12), ranked).statistic < -0.7


@pytest.mark.parametrize(
    ("component", "overrides"),
    [
        ("weights", ()),
        ("network", ("backbone={_target_: networks.small, last: 48}",)),
        ("network", ("space.exclude=['0.0.*']",)),
        ("data", ("data.shift=0.2",)),
        ("scoring", ("pruning.recalibrate=false",)),
    ],
)
def test_scores_hold_for_one_network_its_weights_its_data_and_how_it_was_scored(
    scored: Path, tmp_path: Path, component: str, overrides: tuple[str, ...]
) -> None:
    """An archive that came here from another run is refused, and the message names what is different."""
    config = composed(*settings(tmp_path, *ONE_STEP, *overrides, "stages=[supernet,prune]"))
    state = checkpoint.load(scored / "teacher.pt")["model"]
    if component == "weights":
        state["0.0.0.weight"] *= 1.01
    own = {name: tensor.shape for name, tensor in Run.parse(config).backbone().state_dict().items()}
    state |= {name: torch.ones(shape) for name, shape in own.items() if state[name].shape != shape}
    checkpoint.save(tmp_path / "teacher.pt", {"model": state})
    (tmp_path / "pruning/01").mkdir(parents=True)
    shutil.copy(scored / "pruning/01/archive.sqlite", tmp_path / "pruning/01")
    with pytest.raises(ValueError, match=rf"archive\.sqlite was made in another context: .*\b{component} was '"):
        execute(config)
    with Archive(tmp_path / "pruning/01/archive.sqlite", context(scored)) as archive:
        assert len(archive) == 8  # left as it was


def context(folder: Path) -> dict[str, str]:
    with sqlite3.connect(folder / "pruning/01/archive.sqlite") as database:
        return {name: value for name, value in database.execute("SELECT * FROM context") if name != "format"}
