"""Latencies of the networks that leave a run: predicted first, then measured, and within the limits."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from composition import composed
from pruning_runs import TOY

from ofa.conf.program.command import execute
from ofa.conf.program.latencies import artefact_of
from ofa.conf.program.proposals import Proposals
from ofa.conf.program.run import Run
from ofa.search import ScoredNetwork
from ofa.search.latency import Artefact, LatencyDevice, Stopwatch

SEARCHED = (
    *TOY, "latency._target_=test_latencies.Played", "latency.samples=6", "supernet.recipe.epochs=1",
    "search.population=8", "search.evaluations=24", "budget.latency_ms=0.8", "finetune.recipe.epochs=1",
    "export.subnets=2", "export.files=[weights]",
)  # fmt: skip
SLOWER: dict[str, float] = {}  # graphs that take so many times as long as their MACs say


@dataclass(frozen=True)
class Played(LatencyDevice):
    """A device that takes a millisecond for a million MACs, but for the graphs that are slower."""

    def load(self, artefact: Artefact) -> Stopwatch:
        ms = 1e-6 * artefact.features["macs"] * SLOWER.get(artefact.digest, 1.0)
        return lambda runs: [ms] * runs


def job(folder: Path, *overrides: str) -> Run:
    return Run.parse(composed(f"run={folder}", *SEARCHED, *overrides))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a front in it, all of which keeps the limit by what is predicted."""
    folder = tmp_path_factory.mktemp("latencies") / "run"
    execute(composed(f"run={folder}", *SEARCHED, "stages=[teacher,supernet,search]", "finetune=off"))
    return folder


@pytest.fixture
def folder(searched: Path, tmp_path: Path) -> Path:
    SLOWER.clear()
    return shutil.copytree(searched, tmp_path / "run")


def slow_down(run: Run, row: ScoredNetwork, times: float) -> None:
    assert row.subnet is not None
    SLOWER[artefact_of(run, run.supernet, row.subnet).digest] = times


def exported(folder: Path, *overrides: str) -> dict[str, dict[str, Any]]:
    execute(composed(f"run={folder}", *SEARCHED, *overrides))
    return {row["name"]: row for row in json.loads((folder / "front.json").read_text())}


def within(rows: dict[str, dict[str, Any]]) -> bool:
    return all(
        row["latency_ms"] <= 0.8 * rows["teacher"]["latency_ms"] for name, row in rows.items() if name != "teacher"
    )


@pytest.mark.parametrize("finetuned", [False, True], ids=["exported", "finetuned"])
def test_a_network_that_breaks_its_limit_makes_room_for_the_next_best(
    folder: Path, finetuned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    given = () if finetuned else ("finetune=off",)
    run, proposals = job(folder, *given), Proposals.load(job(folder))
    chosen, limit = proposals.chosen(run), 0.8e-6 * proposals.teacher.metrics["macs"]
    broken, spare = chosen[-1], [row for row in proposals.front.rows if row not in chosen]
    times = 1.1 * limit / broken.metrics["latency_ms"]
    slow_down(run, broken, times)
    keeping = [row for row in spare if times * row.metrics["latency_ms"] <= limit]
    successor = max(keeping, key=lambda row: row.metrics["accuracy"])
    rows = exported(folder, "stages=[finetune,export]" if finetuned else "stages=[export]", *given)
    assert within(rows) and set(rows) == {"teacher", chosen[0].name, successor.name}
    assert f"{broken.name} takes" in (said := capsys.readouterr().out) and f"{successor.name} in its place" in said
    foretold = [json.loads(line)["name"] for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert foretold == ["teacher", *(row.name for row in chosen), successor.name]


def test_where_no_other_keeps_the_limit_the_network_is_left_out(folder: Path) -> None:
    run = job(folder)
    for row in Proposals.load(run).front.rows:
        slow_down(run, row, 20.0)
    assert set(exported(folder, "stages=[export]", "finetune=off")) == {"teacher"}


def test_figures_stay_when_an_export_is_made_again(folder: Path) -> None:
    first = exported(folder, "stages=[export]", "finetune=off")
    before = (folder / "timed.json").read_text()
    again = exported(folder, "stages=[export]", "finetune=off", "export.files=[weights]", "force=true")
    assert (folder / "timed.json").read_text() == before
    assert [row["latency_ms"] for row in again.values()] == [row["latency_ms"] for row in first.values()]
    other = exported(
        folder, "stages=[export]", "finetune=off", "export.subnets=3", "export.files=[weights]", "force=true"
    )
    assert len(other) >= len(again) and all(row["latency_ms_low"] <= row["latency_ms"] for row in other.values())


def test_several_devices_are_objectives_and_limits(searched: Path, tmp_path: Path) -> None:
    SLOWER.clear()
    folder, other = tmp_path / "run", "latency_ms@torch_cpu"
    shutil.copytree(searched, folder, ignore=shutil.ignore_patterns("latency*", "search.json", "archive*", "done.json"))
    settings = (f"objectives=[accuracy,latency_ms,{other}]", f"budget.{other}=0.95", "latency.seconds=0.05")
    stages = ("stages=[teacher,supernet,search,export]", "finetune=off")
    rows = exported(folder, *settings, *stages)
    models = json.loads((folder / "latency.json").read_text())
    assert models["predictor"] == "macs" or models["held_out"]["percent"] < 1, "the played device follows the MACs"
    assert set(models["others"]) == {other} and models["others"][other]["latency_ms"] != models["latency_ms"]
    for name, row in rows.items():
        assert row["latency_ms"] == pytest.approx(row["predicted_latency_ms"], rel=1e-3) == 1e-6 * row["macs"]
        assert row[f"{other}_low"] <= row[other] <= row[f"{other}_high"] and row[f"predicted_{other}"] > 0
        assert name == "teacher" or row[other] <= 0.95 * rows["teacher"][other]
    assert (folder / "latency@torch_cpu.png").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "objectives=[accuracy,latency_ms@abacus]",
            "latency_ms@abacus: there is no latency device 'abacus'",
        ),
        ("objectives=[accuracy,latency_ms@torch_cuba]", "did you mean torch_cuda, torch_cpu"),
        ("budget.macs@torch_cpu=0.5", "macs@torch_cpu"),
        ("objectives=[accuracy,macs@torch_cpu]", "name is no setting of Macs"),
    ],
)
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        Run.parse(composed(f"run={tmp_path}", "backbone=networks.small", override))
    assert message in str(raised.value)
