"""The stage finetune: the networks that leave learn on, each by itself or together, and never for the worse."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from composition import composed
from pruning_runs import TOY, taught
from safetensors.torch import load_file
from torch import nn

from ofa.conf.program.command import execute
from ofa.conf.program.course import Course
from ofa.conf.program.finetuning import Pupil, improve, learner, worthwhile
from ofa.conf.program.proposals import NETWORK, Proposals, network
from ofa.conf.program.run import Run
from ofa.conf.program.students import FrontRule, pupil_of, scored
from ofa.persistence import weights_digest
from ofa.search import ScoredNetwork
from ofa.space import Subnet
from ofa.train import Digits, Supervised, checkpoint, fit
from ofa.train.data import Splits
from ofa.train.tasks import Step

TESTS = Path(__file__).parent
SEARCHED = (
    *TOY, "supernet.recipe.epochs=2", "search.population=6", "search.evaluations=12", "finetune.recipe.epochs=3",
    "export.subnets=3",
)  # fmt: skip
BEFORE = "stages=[teacher,supernet,search]"
FINETUNE = "stages=[finetune]"


def job(folder: Path, *overrides: str) -> Run:
    return Run.parse(composed(f"run={folder}", *SEARCHED, *overrides))


def go(folder: Path, *overrides: str) -> None:
    execute(composed(f"run={folder}", *SEARCHED, *overrides))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a front in it."""
    folder = tmp_path_factory.mktemp("finetune") / "searched"
    go(folder, BEFORE)
    return folder


@pytest.fixture(scope="module")
def finetuned(searched: Path) -> Path:
    """A folder in which its networks were finetuned, each by itself."""
    folder = beside(searched, "finetuned")
    go(folder, FINETUNE)
    return folder


def beside(searched: Path, name: str) -> Path:
    return shutil.copytree(searched, searched.parent / name)


def front(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "finetuned.json").read_text())["front"]
    return rows[1:]


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {row["name"]: checkpoint.load(folder / row["files"][NETWORK])["model"] for row in front(folder)}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_export_would_take_learns_on_from_labels_and_the_teacher(finetuned: Path) -> None:
    """Done by hand it gives the same weights, bit for bit; without the teacher it does not."""
    run = job(finetuned)
    chosen, rows, kept = Proposals.load(run, finetuned=False).chosen(run), front(finetuned), weights(finetuned)
    assert [row.name for row in chosen] == [row["name"] for row in rows] and len(rows) == 3
    assert [dict(row.subnet or {}) for row in chosen] == [row["subnet"] for row in rows]
    gained = [row for row in rows if row["accuracy"] > row["proposed_accuracy"]]
    assert gained and all(row["accuracy"] == row["finetuned_accuracy"] for row in gained)
    row = next(row for row in chosen if row.name == gained[0]["name"])
    given = run.settings.finetune
    for share, equal in ((0.9, True), (0.0, False)):
        net = network(run, row)
        teacher = run.teacher if share else None
        learner = Supervised(net, run.splits, given.label_smoothing, teacher=teacher, teacher_share=share)
        fit(learner, given.recipe)
        assert same(net.state_dict(), kept[row.name]) == equal


def test_figures_of_before_and_after_are_those_of_the_validation_split(finetuned: Path) -> None:
    run = job(finetuned)
    proposals = {row.name: row for row in Proposals.load(run, finetuned=False).front.rows}
    for row in Proposals.load(run).front.rows:
        assert row.subnet is not None
        pupil = Pupil.of(network(run, row), run.supernet, row.subnet)
        assert scored(run, pupil)["accuracy"] == row.metrics["accuracy"] >= row.metrics["proposed_accuracy"]
        assert row.metrics["proposed_accuracy"] == pytest.approx(proposals[row.name].metrics["accuracy"], abs=0.2)
    logged = [json.loads(line) for line in (finetuned / "metrics.jsonl").read_text().splitlines()]
    for row in front(finetuned):
        assert [r["epoch"] for r in logged if r["stage"] == f"finetune-{row['name']}"] == [1, 2, 3]


def test_the_test_split_is_not_looked_at(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = beside(searched, "blind")
    load = Digits.load

    def blind(data: Digits) -> Splits:
        return replace(load(data), test=None)  # type: ignore[arg-type]

    monkeypatch.setattr(Digits, "load", blind)
    go(folder, FINETUNE, "finetune.recipe.epochs=1")


def test_export_takes_them_and_shows_before_and_after(finetuned: Path) -> None:
    folder, kept = beside(finetuned, "exported"), weights(finetuned)
    go(folder, "stages=[export]", "export.files=[weights]")
    _, *rows = json.loads((folder / "front.json").read_text())
    assert [row["name"] for row in rows] == list(kept)
    for row, expected in zip(rows, front(finetuned), strict=True):
        assert same(load_file(folder / row["files"]["weights"]), kept[row["name"]])
        facts = json.loads((folder / row["files"]["subnet"]).read_text())["metrics"]
        assert row["validation_accuracy"] == facts["validation_accuracy"] == expected["accuracy"]
        assert row["proposed_accuracy"] == facts["proposed_accuracy"] == expected["proposed_accuracy"]
        assert row["latency_ms"] > 0
    off = ("finetune=off", "finetune.recipe=null")
    go(folder, "stages=[export]", "export.files=[weights]", *off, "force=true")
    _, *others = json.loads((folder / "front.json").read_text())
    run = job(folder, *off)
    assert [row["subnet"] for row in others] == [dict(row.subnet or {}) for row in Proposals.load(run).chosen(run)]
    assert not any("proposed_accuracy" in row for row in others)


def test_workers_find_what_one_process_finds(finetuned: Path, searched: Path) -> None:
    folder = beside(searched, "workers")
    go(folder, FINETUNE, "workers=2")
    assert front(folder) == front(finetuned)
    assert all(same(weights(folder)[name], kept) for name, kept in weights(finetuned).items())
    figures = [sorted(map(unhurried, (f / "metrics.jsonl").read_text().splitlines())) for f in (folder, finetuned)]
    assert figures[0] == figures[1]


def unhurried(line: str) -> str:
    return json.dumps({name: value for name, value in json.loads(line).items() if name != "seconds"})


# ------------------------------------------------------------ stopped


class Command:
    """The console program in a session of its own."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "ofa.conf.program.command", f"run={folder}", *SEARCHED, *settings]
        paths = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, env=paths, start_new_session=True, **pipes)

    def reach(self, reached: Callable[[Path], bool]) -> None:
        deadline = time.monotonic() + 200
        while not reached(self.folder):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)


def begun(folder: Path) -> bool:
    return '"stage": "finetune' in (folder / "metrics.jsonl").read_text()


BOTH = pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])


@BOTH
def test_killed_and_gone_on_equals_uninterrupted(finetuned: Path, searched: Path, workers: int) -> None:
    folder = beside(searched, f"killed-{workers}")
    command = Command(folder, FINETUNE, f"workers={workers}")
    command.reach(begun)
    command.process.kill()
    command.process.communicate()
    assert not (folder / "finetuned.json").exists()
    go(folder, FINETUNE)
    assert front(folder) == front(finetuned)
    assert all(same(weights(folder)[name], kept) for name, kept in weights(finetuned).items())
    assert not list(folder.glob("finetuned/*/finetuned*"))  # what only a training needs


@pytest.mark.slow
@BOTH
def test_a_signal_saves_every_network_in_the_middle_of_an_epoch(searched: Path, workers: int) -> None:
    """The process that started them is told alone, and tells its workers."""
    folder = beside(searched, f"stopped-{workers}")
    command = Command(folder, FINETUNE, f"workers={workers}", "finetune.recipe.epochs=400")
    command.reach(lambda f: len({line.split('"')[3] for line in lines(f) if '"finetune' in line}) == workers)
    command.process.send_signal(signal.SIGTERM)
    output, _ = command.process.communicate(timeout=100)
    assert command.process.returncode == 143, output
    assert "ofa: stopped by SIGTERM in finetune" in output and "Traceback" not in output
    assert len(list(folder.glob("finetuned/*/finetuned-partial.pt"))) == workers


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


# ------------------------------------------------------------ never for the worse


def test_what_does_not_converge_or_gets_worse_keeps_its_weights(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = beside(searched, "diverging")
    wild = ("finetune.recipe.lr=1e6", "finetune.recipe.clip_value=null", "finetune.recipe.rollbacks=0")
    go(folder, FINETUNE, *wild)
    run, said = job(folder, *wild), capsys.readouterr().out
    before = {row.name: row for row in Proposals.load(run, finetuned=False).front.rows}
    for name, kept in weights(folder).items():
        assert same(network(run, before[name]).state_dict(), kept)
        assert f"finetune-{name}: " in said
    assert "it stays as it was, with" in said and "3 of them as they were" in said
    assert all(row["accuracy"] == row["proposed_accuracy"] for row in front(folder))


def test_the_loss_decides_where_accuracies_are_a_standard_error_apart(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = job(searched)
    error = 100 * (0.9 * 0.1 / len(run.splits.validation)) ** 0.5
    before = {"accuracy": 90.0, "loss": 0.5}
    for share, loss, better in ((-0.9, 0.4, True), (-0.9, 0.6, False), (-1.1, 0.1, False), (1.1, 0.9, True)):
        assert worthwhile(run, "finetune-a", before, {"accuracy": 90 + share * error, "loss": loss}) is better
    assert capsys.readouterr().out.count("it stays as it was, with 90.00 % (loss 0.5)") == 2


@pytest.mark.parametrize("name", ["short", "shared"])
def test_no_teacher_and_a_front_of_one_are_well(searched: Path, name: str) -> None:
    folder = beside(searched, f"one-{name}")
    go(folder, FINETUNE, f"finetune={name}", "finetune.teacher_share=0", "export.subnets=1")
    (row,) = front(folder)
    assert row["accuracy"] >= row["proposed_accuracy"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("finetune=full", "export.subnets=0"), r"^export: at least 1 subnet, got 0$"),
        (("finetune.recipe.batch_size=5000",), r"^finetune.recipe: batch_size 5000 asked of 1077 pictures"),
        (("finetune.times=0",), r"^finetune: times is at least 1, got 0"),
        (("finetune=shared", "finetune.trials=2"), r"^finetune: trials are of networks that learn by themselves"),
        (("finetune=long",), r"long"),
        (("stages=[teacher,supernet,prune,export]", "finetune=shared", "search=one_step", "budget.macs=0.5"),
         r"^finetune=shared: pruned networks have weights of their own; finetune=short, full or off"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_anything_is_done(
    tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    toy = [o for o in SEARCHED if not (o.startswith("search.") and "search=one_step" in overrides)]
    with pytest.raises(Exception, match=message):
        execute(composed(f"run={tmp_path / 'run'}", *toy, *overrides))
    assert not (tmp_path / "run/teacher.pt").exists()


# ------------------------------------------------------------ together


def test_together_they_learn_with_one_set_of_weights_and_the_supernet_stays(searched: Path) -> None:
    folder = beside(searched, "shared")
    digest = checkpoint.load(folder / "supernet.pt")["model"]
    go(folder, FINETUNE, "finetune=shared")
    kept = weights(folder)
    assert any(row["accuracy"] > row["proposed_accuracy"] for row in front(folder))
    gained = [row["name"] for row in front(folder) if row["accuracy"] == row["finetuned_accuracy"]]
    assert len(gained) >= 2
    first, second = (kept[name]["0.0.0.weight"] for name in gained[:2])
    least = min(len(first), len(second))
    assert torch.equal(first[:least], second[:least])
    assert same(checkpoint.load(folder / "supernet.pt")["model"], digest)
    assert [json.loads(line)["epoch"] for line in lines(folder) if '"stage": "finetune"' in line] == list(range(1, 7))


@pytest.mark.slow
def test_what_learns_together_goes_on_after_a_kill(searched: Path) -> None:
    whole, folder = beside(searched, "shared-whole"), beside(searched, "shared-killed")
    go(whole, FINETUNE, "finetune=shared")
    command = Command(folder, FINETUNE, "finetune=shared")
    command.reach(begun)
    command.process.kill()
    command.process.communicate()
    go(folder, FINETUNE, "finetune=shared")
    assert front(folder) == front(whole)


def test_a_step_has_both_ends_of_the_front_and_some_between() -> None:
    import numpy as np

    widths = tuple(Subnet({"0.width": width}) for width in range(8, 64, 8))
    rule = FrontRule(subnets=widths)
    for k in range(20):
        drawn = rule.choose(None, None, np.random.default_rng(k))  # type: ignore[arg-type]
        assert drawn[:2] == (widths[-1], widths[0]) and len(set(drawn)) == 4
    assert replace(rule, subnets=widths[:1]).choose(None, None, np.random.default_rng(0)) == widths[:1]  # type: ignore[arg-type]


# ------------------------------------------------------------ files and settings


def test_other_settings_are_refused_and_by_force_begin_anew(finetuned: Path) -> None:
    folder = beside(finetuned, "forced")
    with pytest.raises(ValueError, match=r"holds a finetune made with other settings \(finetune.recipe.epochs was 3"):
        go(folder, FINETUNE, "finetune.recipe.epochs=1")
    untouched = {path: path.read_bytes() for path in folder.glob("finetuned/*/*.pt")}
    go(folder, FINETUNE, "export.subnets=2", "force=true")  # both ends were among the three
    assert len(front(folder)) == 2
    assert all(path.read_bytes() == before for path, before in untouched.items())
    go(folder, FINETUNE, "finetune.recipe.epochs=1", "force=true")
    assert not all(same(kept, weights(finetuned)[name]) for name, kept in weights(folder).items())


def test_another_search_makes_what_was_finetuned_outdated(finetuned: Path) -> None:
    folder = beside(finetuned, "searched-again")
    go(folder, "stages=[search]", "search.evaluations=18", "force=true")
    assert not (folder / "finetuned.json").exists()
    go(folder, FINETUNE, "search.evaluations=18", "force=true")
    run = job(folder, "search.evaluations=18")
    chosen = Proposals.load(run, finetuned=False).chosen(run)
    assert [row["name"] for row in front(folder)] == [row.name for row in chosen]


def test_a_folder_beside_lends_what_it_has_finetuned(finetuned: Path, searched: Path) -> None:
    folder = searched.parent / "lent"
    go(folder, "stages=[teacher,supernet,search,finetune]", "reuse=true")
    assert front(folder) == front(finetuned) and weights(folder).keys() == weights(finetuned).keys()


def test_what_was_begun_with_other_settings_is_finished_no_more(finetuned: Path) -> None:
    """Killed while it is made again by force, it is not taken for what it was before."""
    folder = beside(finetuned, "begun")
    plan = Course.parse(composed(f"run={folder}", *SEARCHED, FINETUNE, "finetune.recipe.epochs=1"))
    run, (stage,) = Run.of(plan.settings), plan
    assert run.folder.ended("finetune")
    run.folder.begin("finetune", plan.made_with(stage))
    assert not run.folder.ended("finetune") and run.folder.ended("search")


# ------------------------------------------------------------ patterns, sizes


ELASTIC = ("space.sparsity=['2:4']", "space.resolution=[12,16]")


@pytest.fixture(scope="module")
def elastic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elastic")
    go(folder, *ELASTIC, "stages=[teacher,supernet,search,finetune]", "finetune.recipe.epochs=2", "export.subnets=6")
    return folder


def test_patterns_hold(elastic: Path) -> None:
    run, masked, better = job(elastic, *ELASTIC), 0, 0
    for row in Proposals.load(run).front.rows:
        assert row.subnet is not None
        better += row.metrics["accuracy"] > row.metrics["proposed_accuracy"]
        net = network(run, row)
        for name in run.supernet.plan(row.subnet).zeros:
            assert sparse(net.get_parameter(name))
            masked += 1
    assert masked and better


def test_a_network_sees_pictures_of_its_own_size_and_the_teacher_whole_ones(elastic: Path) -> None:
    run, seen = job(elastic, *ELASTIC), dict[str, set[int]]()
    pupil = pupil_of(run, ScoredNetwork("smallest", run.supernet.space.smallest, {}))
    for name, net in (("pupil", pupil.net), ("teacher", run.teacher)):
        net.register_forward_pre_hook(lambda _, given, name=name: seen.setdefault(name, set()).add(given[0].shape[-1]))
    student = learner(run, pupil, run.settings.finetune)
    student.backward(*next(run.splits.train.shuffled(64, 0, 0)), Step(0, 10))
    student.validate()
    assert seen == {"pupil": {12}, "teacher": {16}}


def sparse(weight: nn.Parameter) -> bool:
    """Whether at most 2 of 4 neighbours along the input channels are kept."""
    flat = weight.detach().movedim(1, -1).reshape(-1, weight.shape[1])
    return bool(((flat.reshape(-1, 4) != 0).sum(1) <= 2).all())


def test_weights_of_their_own_are_what_pruned_networks_go_on_from(tmp_path: Path) -> None:
    folder = taught(tmp_path / "pruned")
    given = ("method=one_step", "budget.macs=[0.3,0.9]", "search.evaluations=4", "search.population=4")
    brief = (
        "pruning.finetuning.recipe.epochs=1",
        "pruning.finetuning.trials=0",
        "finetune=short",
        "finetune.recipe.epochs=2",
    )
    execute(composed(f"run={folder}", *TOY, *given, *brief, "stages=[supernet,prune,finetune]"))
    (row,) = front(folder)
    (step,) = json.loads((folder / "search.json").read_text())["front"][1:]
    assert row["proposed_accuracy"] == pytest.approx(step["accuracy"], abs=0.01)
    assert row["files"][NETWORK] == "finetuned/step-01/step-01.pt" and step["files"][NETWORK] == "pruning/01/network.pt"


def test_improving_says_why_a_network_stays(searched: Path, tmp_path: Path) -> None:
    run = job(searched)
    subnet = run.supernet.space.smallest
    pupil = Pupil.of(network(run, ScoredNetwork("smallest", subnet, {})), run.supernet, subnet)
    before = weights_digest(pupil.net)
    told = improve(run, pupil, run.settings.finetune, tmp_path, "finetune-smallest", {"accuracy": 101.0, "loss": 9.0})
    assert weights_digest(pupil.net) == before and set(told) == {"finetuned_accuracy", "finetuned_loss"}
