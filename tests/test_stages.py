"""Stages: ours and a user's in their places, each done once, with files that are there; what a run leaves in words."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from composition import composed
from networks import small
from pruning_runs import TOY

from ofa.conf.program.building import CONF, build, converted
from ofa.conf.program.course import Course, ordered
from ofa.conf.program.exporters import Exporter, Onnx, Packed, Program, Weights
from ofa.conf.program.folder import RunFolder
from ofa.conf.program.run import Run
from ofa.conf.program.stage import Stage
from ofa.slicing import Plan
from ofa.train.backbones import origin

OURS = ["teacher", "supernet", "latency", "search", "prune", "finetune", "export"]


@dataclass(frozen=True)
class Marked(Stage):
    """Leaves a file."""

    name: ClassVar[str] = "marked"
    leaves: ClassVar[tuple[str, ...]] = ("marked.txt",)
    text: str = "here"

    def run(self, run: Run) -> None:
        (run.folder / "marked.txt").write_text(self.text)


class Early(Marked):
    name = "early"
    after = "teacher"


class Again(Marked):
    name = "again"
    repeatable = True


class Circle(Marked):
    name = "circle"
    after = "circle"


class Needy(Marked):
    name = "needy"
    needs, leaves = ("marked.txt",), ()


def course(folder: Path, stages: str, *overrides: str) -> Course:
    return Course.parse(composed(f"run={folder}", *TOY, f"stages={stages}", *overrides))


def names(folder: Path, stages: str, *overrides: str) -> list[str]:
    return [stage.name for stage in course(folder, stages, *overrides)]


def test_ours_keep_their_order_and_a_users_runs_where_the_list_has_it(tmp_path: Path) -> None:
    marked = "{_target_:test_stages.Marked}"
    assert names(tmp_path, "[export,search,teacher]") == ["teacher", "search", "finetune", "export"]
    assert names(tmp_path, "[export,search,teacher]", "finetune=off") == ["teacher", "search", "export"]
    assert names(tmp_path, f"[search,{marked},export]") == ["search", "marked", "finetune", "export"]
    assert names(tmp_path, f"[search,finetune,{marked},export]") == ["search", "finetune", "marked", "export"]
    assert names(tmp_path, f"[teacher,supernet,{marked},search]") == ["teacher", "supernet", "marked", "search"]
    assert names(tmp_path, "[{_target_:test_stages.Early},export]", "finetune=off") == ["early", "export"]
    assert [s.name for s in course(tmp_path, "[{_target_:test_stages.Early},export]").stages] == [
        "teacher", "early", *OURS[1:]
    ]  # fmt: skip
    assert names(tmp_path, "[search]", "objectives=[accuracy,latency_ms]") == ["latency", "search"]
    with pytest.raises(ValueError, match="stages: circle comes after itself"):
        ordered([Circle()])
    with pytest.raises(ValueError, match="stages: each once, got teacher, teacher"):
        names(tmp_path, "[teacher,teacher]")


def test_what_a_stage_is_made_with_holds_its_own_settings_and_those_before_it(tmp_path: Path) -> None:
    plan = course(tmp_path, "[teacher,{_target_:test_stages.Early,text:hello},supernet]")
    teacher, early, supernet = map(plan.made_with, plan)
    assert set(teacher) < set(early) < set(supernet)
    assert early["stage.early.text"] == supernet["stage.early.text"] == "hello"
    assert "data.size" in teacher and "space.divisor" not in early and "space.divisor" in supernet


def run_alone(folder: Path, stages: str, *overrides: str) -> None:
    plan = course(folder, stages, *overrides)
    plan.execute(Run.of(plan.settings))


def test_a_stage_is_done_once_and_refused_with_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_alone(tmp_path, "[{_target_:test_stages.Marked}]")
    (tmp_path / "marked.txt").write_text("not again")
    run_alone(tmp_path, "[{_target_:test_stages.Marked}]")
    assert "marked: done before" in capsys.readouterr().out
    assert (tmp_path / "marked.txt").read_text() == "not again"
    with pytest.raises(ValueError, match=r"holds a marked made with other settings \(stage.marked.text was here, is"):
        run_alone(tmp_path, "[{_target_:test_stages.Marked,text:there}]")
    (tmp_path / "marked.txt").unlink()  # nothing was made
    run_alone(tmp_path, "[{_target_:test_stages.Marked,text:there}]")
    assert (tmp_path / "marked.txt").read_text() == "there"


def test_what_a_folder_beside_has_finished_is_taken_from_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_alone(tmp_path / "one", "[{_target_:test_stages.Marked}]")
    (tmp_path / "one/marked.txt").write_text("theirs")
    run_alone(tmp_path / "two", "[{_target_:test_stages.Marked}]", "reuse=true")
    assert (tmp_path / "two/marked.txt").read_text() == "theirs"
    assert f"marked: taken from {tmp_path}/one, where it was made with the same settings" in capsys.readouterr().out
    run_alone(tmp_path / "two", "[{_target_:test_stages.Marked}]", "reuse=true")
    assert "marked: done before" in capsys.readouterr().out
    run_alone(tmp_path / "three", "[{_target_:test_stages.Marked}]", "reuse=true", "seed=1")
    assert (tmp_path / "three/marked.txt").read_text() == "theirs"  # nothing that it depends on is another
    run_alone(tmp_path / "four", "[{_target_:test_stages.Marked}]")
    run_alone(tmp_path / "five", "[{_target_:test_stages.Marked,text:there}]", "reuse=true")
    assert [(tmp_path / name / "marked.txt").read_text() for name in ("four", "five")] == ["here", "there"]
    for name in ("one", "two", "three", "four"):
        (tmp_path / name / "done.json").unlink()
    run_alone(tmp_path / "six", "[{_target_:test_stages.Marked}]", "reuse=true")
    assert (tmp_path / "six/marked.txt").read_text() == "here"  # what others began is not taken


def test_what_is_finished_is_made_again_by_force_alone(tmp_path: Path) -> None:
    again, other = "[{_target_:test_stages.Again}]", "[{_target_:test_stages.Again,text:there}]"
    run_alone(tmp_path, again)
    with pytest.raises(
        ValueError, match=r"\(stage.again.text was here, is now there\); choose another run=… or force=true"
    ):
        run_alone(tmp_path, other)
    assert (tmp_path / "marked.txt").read_text() == "here"
    run_alone(tmp_path, other, "force=true")
    assert (tmp_path / "marked.txt").read_text() == "there"
    (tmp_path / "done.json").unlink()
    run_alone(tmp_path, again)  # it had not been finished
    assert (tmp_path / "marked.txt").read_text() == "here"


def test_files_that_nobody_leaves_are_missed_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"marked\.txt is missing: run the stage 'marked' first"):
        run_alone(tmp_path, "[{_target_:test_stages.Needy},{_target_:test_stages.Marked}]")
    with pytest.raises(ValueError, match=r"teacher\.pt is missing: run the stage 'teacher' first \(stages=\[teacher,"):
        run_alone(tmp_path, "[{_target_:test_stages.Marked},supernet]")
    assert not (tmp_path / "marked.txt").exists()
    run_alone(tmp_path, "[{_target_:test_stages.Marked},{_target_:test_stages.Needy}]")


def test_a_folder_knows_what_is_finished_with_which_settings(tmp_path: Path) -> None:
    folder = RunFolder.at(tmp_path / "run")
    assert folder.made_with("teacher") is None and not folder.finished("teacher", {"seed": 0})
    folder.begin("teacher", {"seed": 0})
    assert folder.made_with("teacher") == {"seed": 0} and not folder.finished("teacher", {"seed": 0})
    folder.finish("teacher", {"seed": 0})
    assert folder.finished("teacher", {"seed": 0}) and not folder.finished("teacher", {"seed": 1})
    with pytest.raises(ValueError, match=r"holds a teacher made with other settings \(seed was 0, is now 1\); choose"):
        folder.refuse("teacher", {"seed": 1})
    reader = RunFolder(folder.path, writes=False)
    reader.finish("supernet", {})
    assert not folder.finished("supernet", {})


@pytest.mark.parametrize(("kind", "group"), [(Stage, "stage"), (Exporter, "exporter")])
def test_each_file_is_called_like_what_it_names(kind: type, group: str) -> None:
    paths = sorted((CONF / group).glob("*.yaml"))
    assert len(paths) >= 5
    for path in paths:
        target = re.findall(r"_target_: (\S+)", path.read_text())[0]
        assert build({"_target_": target}, group, kind).name == path.stem


USERS = {
    "theirs/__init__.py": "",
    "theirs/count.py": """
from dataclasses import dataclass

from ofa.conf.program.run import Run
from ofa.conf.program.stage import Stage


@dataclass(frozen=True)
class Count(Stage):
    name, leaves = "count", ("count.txt",)
    word: str = "choices"

    def run(self, run: Run) -> None:
        assert not run.folder.has("search.json")
        (run.folder / "count.txt").write_text(f"{len(run.supernet.space)} {self.word}")
        run.say("count: [done]")
""",
    "conf/stage/count.yaml": "_target_: theirs.count.Count\nword: widths\n",
}


def test_a_users_package_and_yaml_run_in_their_place(tmp_path: Path) -> None:
    for name, text in USERS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    paths = os.pathsep.join([str(CONF.parent), str(Path(__file__).parent), str(tmp_path)])
    own = [f"hydra.searchpath=[file://{tmp_path}/conf]", "stages=[teacher,supernet,count,search,export]"]
    brief = ["supernet=given", "space.kernel=false", "search=random", "search.evaluations=4", "search.population=4"]
    command = [sys.executable, "-m", "ofa.conf.program.command", f"run={tmp_path}/run", *TOY, *own, *brief]
    command += ["export.subnets=1", "export.files=[weights,program]", "finetune.recipe.epochs=1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "run"
    assert (run / "count.txt").read_text() == "3 widths"
    assert list(json.loads((run / "done.json").read_text())) == [
        "teacher",
        "supernet",
        "count",
        "search",
        "finetune",
        "export",
    ]
    assert json.loads((run / "settings.json").read_text())["search"]["stage.count.word"] == "widths"
    kept, (teacher, row) = json.loads((run / "search.json").read_text()), json.loads((run / "front.json").read_text())
    assert len(kept["evaluated"]) == 4
    assert set(row["files"]) == {"weights", "program", "subnet"} and "onnx_difference" not in row
    assert_words(run, done.stdout)
    facts = json.loads((run / row["files"]["subnet"]).read_text())
    assert facts["subnet"] == row["subnet"] and facts["metrics"]["accuracy"] == row["accuracy"]
    assert (run / row["files"]["subnet"]).read_text().count('"0.0.0.width"') == 1
    program = torch.export.load(run / teacher["files"]["program"]).module()
    assert program(torch.zeros(1, 1, 16, 16)).shape == (1, 10)


def assert_words(run: Path, output: str) -> None:
    """What was said without a terminal stands on whole lines, and in ofa.log with the time."""
    log = (run / "ofa.log").read_text()
    for line in output.splitlines():
        assert line.rstrip() in log
    assert re.search(r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\]\[ofa\]\[INFO\] - count: \[done\]$", log, re.MULTILINE)
    assert re.search(
        r"^picture: \S+front\.png \(front\.html to look into\)   files: \S+front\.json$", output, re.MULTILINE
    )
    assert max(map(len, output.splitlines())) > 80 and "\x1b" not in output + log


@pytest.mark.parametrize("exporter", [Onnx(tolerance=1e-12), Program(tolerance=1e-12)])
def test_a_file_that_is_not_the_network_is_refused(exporter: Exporter, tmp_path: Path) -> None:
    net, picture = small().eval(), torch.randn(1, 1, 16, 16)
    plan = Plan({}, (), ())
    path = tmp_path / exporter.file
    torch.nn.init.normal_(net[-1].weight)
    close = build({"_target_": f"ofa.conf.program.exporters.{type(exporter).__name__}"}, "exporter", Exporter)
    assert all(figure < 1e-3 for figure in close.write(net, picture, path, plan, {}).values())

    class Restless(torch.nn.Module):
        """Another network at each call."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return net(x) + (0 if torch.compiler.is_exporting() else 1)

    with pytest.raises(ValueError, match=rf"{path} differs from the network by .*, above 1\.0e-12"):
        exporter.write(Restless(), picture, path, plan, {})


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "exporter").glob("*.yaml")))
def test_every_kind_of_file_names_the_classes(name: str, tmp_path: Path) -> None:
    exporter: Exporter = converted(name, Exporter, "export.files")
    path = tmp_path / exporter.file
    facts = {"classes": ["tawny owl", "wren"], "backbone": origin("networks.small", num_classes=10, in_chans=1)}
    exporter.write(small().eval(), torch.randn(1, 1, 16, 16), path, Plan({}, (), ()), facts)
    assert any(b"tawny owl" in file.read_bytes() for file in tmp_path.iterdir())


def test_there_is_nothing_to_pack_of_a_dense_network() -> None:
    assert not Packed().fits(Plan({}, (), ())) and Weights().fits(Plan({}, (), ()))
    with pytest.raises(ValueError, match="each kind of file once, got weights, weights"):
        composed_export("[weights,weights]")


def composed_export(files: str) -> None:
    build(composed(f"export.files={files}").export, "export")
