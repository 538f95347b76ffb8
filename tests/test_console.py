"""What the console programs say before a run: help, mistakes of a word, the first line, what is here, how to begin."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from composition import composed
from hydra.core.hydra_config import HydraConfig
from torch import nn

import ofa.conf
from ofa.conf.program import arguments, console, manual
from ofa.conf.program.building import options
from ofa.conf.program.command import execute
from ofa.conf.program.console import Console
from ofa.conf.program.course import Course
from ofa.conf.program.starter import STARTER, begin
from ofa.train import Digits, create, evaluate

ROOT = Path(__file__).resolve().parents[1]
BRIEF = ("data.size=16", "teacher.recipe.epochs=1", "stages=[teacher]")

PROGRAM = """
import sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("<torch>", flush=True)
sys.meta_path.insert(0, Watch())
from ofa.conf.program.{module} import main
sys.argv[0] = "ofa"
main()
"""


def called(folder: Path, *words: str, module: str = "command") -> subprocess.CompletedProcess[str]:
    """An installed program in a folder, which Python itself does not put on the path; says when torch is imported."""
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", PROGRAM.format(module=module), *words]
    return subprocess.run(command, cwd=folder, env=place, capture_output=True, text=True, timeout=300)


# ------------------------------------------------------------ mistakes of a word


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("data=imagefolder", "data=imagefolder: there is no data 'imagefolder'; did you mean image_folder?"),
        ("method=itertive", "method=itertive: there is no method 'itertive'; did you mean iterative?"),
        ("method=prune", "method=prune: there is no method 'prune'; there are fine_grained, iterative, once_for_all, "),
        ("experiment=foo", "experiment=foo: there is no experiment 'foo'; there are alphanet"),
        ("+unknown=3", "+unknown=3: there is no setting 'unknown'; there are backbone, budget, data, "),
        ("++sede=3", "++sede=3: there is no setting 'sede'; did you mean seed?"),
        ("objective=macs", "objective=macs: there is no setting 'objective'; did you mean objectives?"),
        ("tuning.trials=3", "tuning.trials=3: there is no setting 'tuning'"),
        ("data", "data: settings are given as name=value; did you mean data=…?"),
        ("docter", "docter: settings are given as name=value; did you mean doctor?"),
        ("data.size=[6,", "no viable alternative at input '[6,' (in data.size=[6,)"),
        ("backbone=digits data.size=[6,", "(in data.size=[6,); quotes in quotes let a text pass: \"name='text'\""),
        ("seed.x=3", "Could not override 'seed.x'"),
        ("-m data=digits,foo", "data=foo: there is no data 'foo'"),
        ("-m seed=0,1 method=uniform,unifrm", "method=unifrm: there is no method 'unifrm'; did you mean uniform?"),
        ("hydra.searchpath=[pkg://foreign.conf] data=strips", "there is no data 'strips'; did you mean stripes?"),
    ],
)
def test_a_mistake_is_said_in_one_line(given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        arguments.prepare("ofa", "config", given.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ofa: ") and message in line


def test_what_is_right_is_let_through() -> None:
    given = ["-m", "seed=0,1", "data.size=16,32", "experiment=demo", "hydra.searchpath=[pkg://foreign.conf]"]
    place = "hydra.sweep.subdir='seed-${typed:${seed}}-data.size-${typed:${data.size}}'"
    job = ["reuse=true", "hydra.sweep.dir=runs/sweep", place, "run='${hydra:sweep.dir}/${hydra:sweep.subdir}'"]
    ready = ["-m", "seed=0,1", "++data.size=16,32", *given[3:], *job]
    assert arguments.prepare("ofa", "config", given) == ready
    assert arguments.prepare("ofa", "config", ["hydra/launcher=basic", "~experiment"])
    assert arguments.prepare("ofa-tune", "tune", ["tuning.trials=3"]) == ["++tuning.trials=3"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("/Fotos (2)/Zürich", "/Fotos (2)/Zürich"),
        ("~/a=b#", "{home}/a=b#"),
        ("'~/a, b'", "~/a, b"),
        ("my pictures", "my pictures"),
        ("/a~/b", "/a~/b"),
    ],
)
def test_a_path_is_taken_as_it_is_typed(
    typed: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    overrides = arguments.overrides_of("config", ["data=image_folder", f"data.folder={typed}"])
    assert arguments.composed("config", overrides).data.folder == meant.format(home=tmp_path)


def test_the_run_folder_is_the_one_that_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for typed in ("'a b'", "Übung", "~/runs"):
        arguments.prepare("ofa", "config", [f"run={typed}"])
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {"a b", "Übung", "home", "home/runs"}
    assert "hydra.sweep.dir='Übung'" in arguments.prepare("ofa", "config", ["-m", "seed=0,1", "run=Übung"])


def test_a_setting_of_a_file_that_there_is_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nsede: 3\n")
    with pytest.raises(SystemExit):
        arguments.prepare("ofa", "config", [f"--config-dir={tmp_path}", "experiment=mine"])
    assert "there is no setting 'sede'; did you mean seed?" in capsys.readouterr().err


def test_a_mistake_of_a_word_does_not_wait_for_torch(tmp_path: Path) -> None:
    done = called(tmp_path, "data=imagefolder")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ofa: data=imagefolder: there is no data 'imagefolder'; did you mean image_folder?\n"
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------ help


@pytest.mark.parametrize("group", manual.titles("tune"))
def test_every_setting_and_every_option_says_what_it_does(group: str) -> None:
    for name in options(group):
        assert manual.summary(group, name), f"{group}={name} has neither a comment nor a docstring"
    rows = [row for chapter in manual.chapters(group, sorted(options(group)), set()) for row in chapter.rows]
    assert not [row.name for row in rows if not row.sense], "a sentence in the class' docstring names it in backticks"
    assert all(row.kind and row.default for row in rows)
    assert not [row for row in rows if row.sense.count("(") != row.sense.count(")")], "a sentence is torn"


def test_settings_are_shown_with_type_and_default() -> None:
    names = [name for title in manual.titles("tune") for name in options(title) if title in arguments.groups()]
    assert {"digits", "image_folder", "given", "iterative"} <= set(names)
    found = {}
    for group in ("data", "teacher", "search", "space", "tuning"):
        for chapter in manual.chapters(group, sorted(options(group)), set()):
            found |= {row.name: row for row in chapter.rows}
    assert found["data.seed"].default == "${seed}" and found["data.folder"].default == "null"
    warmup = found["teacher.recipe.warmup"]
    assert (warmup.kind, warmup.default) == ("number", "0.1") and "share of the steps" in warmup.sense
    assert found["teacher.recipe.precision"].kind == "float32, bfloat16, float16"
    assert found["teacher.recipe.mixing.cutmix"].default == "0.0"
    assert found["search.evaluations"].kind == "whole number or null"
    width = found["space.width"]
    assert width.default == "[0.25, 0.5, 0.75, 1.0]" and "fractions of the units" in width.sense
    assert found["tuning.trials"].default == "20"
    assert {row.name for row in manual.top_settings()} >= {"backbone", "seed", "device", "stages", "budget", "run"}


@pytest.mark.parametrize("module", ["command", "tune"])
def test_help_begins_with_examples_before_torch_and_holds_every_setting(module: str, tmp_path: Path) -> None:
    done = called(tmp_path, "--help", module=module)
    assert done.returncode == 0, done.stderr
    before, _, after = done.stdout.partition("<torch>")
    examples = manual.EXAMPLES["ofa" if module == "command" else "ofa-tune"]
    assert len(examples) == 3 and all(command in before for command, _ in examples)
    assert re.search(r"^ +seed +whole number +0 ", before + after, re.MULTILINE)
    for name in ("data.validation", "teacher.recipe.warmup", "search.evaluations", "space.width"):
        assert re.search(rf"^ +{re.escape(name)} +\w", after, re.MULTILINE), name
    assert ("tuning.pruner" in after) == (module == "tune")
    for command, _ in examples:
        arguments.overrides_of("tune", shlex.split(command)[1:])


@pytest.mark.parametrize("given", [["--help", "search"], ["search", "--help"], ["-h", "search=random"]])
def test_help_of_one_group(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    manual.explain("ofa", "config", given)
    shown = capsys.readouterr().out
    assert "search.evaluations" in shown and "teacher.recipe" not in shown and "data.size" not in shown
    assert ("search.spread" in shown) == ("search=random" not in given)


def test_help_of_an_unknown_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        manual.explain("ofa", "config", ["--help", "serach"])
    assert capsys.readouterr().err == "ofa: there is no group 'serach'; did you mean search, teacher?\n"


# ------------------------------------------------------------ the first line, and the folder of a run


def test_the_first_line_comes_before_torch(tmp_path: Path) -> None:
    done = called(tmp_path, "backbone=no_such_network", "stages=[teacher]")
    first, torch_imported, *_ = done.stdout.splitlines()
    assert re.fullmatch(r"ofa [\d.]+: no_such_network on digits, in runs/digits-no_such_network-0", first)
    assert torch_imported == "<torch>"


def test_a_stage_is_said_to_be_under_way_where_it_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SILENCE", 1.0)
    told, begun, said = Console(), time.monotonic(), ""
    with told.busy("search"):
        while time.monotonic() < begun + 1.5:
            told.print("a line of its own")
            time.sleep(0.05)
        assert "under way" not in capsys.readouterr().out
        while "under way" not in said and time.monotonic() < begun + 60:
            time.sleep(0.1)
            said += capsys.readouterr().out
    assert re.fullmatch(r"(search: under way for 0:00:\d\d\n)+", said)


@pytest.mark.parametrize(
    ("backbone", "folder"),
    [
        ("resnet18", "runs/digits-resnet18-0"),
        ("torchvision/resnet18", "runs/digits-torchvision-resnet18-0"),
        ("my_package.nets.make", "runs/digits-my_package.nets.make-0"),
        ("../mine/net.py:make", "runs/digits-net-make-0"),
        ("{_target_:my.make,width:32,stem:[3,5]}", "runs/digits-my.make-width-32-stem-3-5-0"),
        ("{_target_:my.make,given:{a b:'x=y'}}", "runs/digits-my.make-given-a-b-x-y-0"),
    ],
)
def test_a_run_folder_has_a_name_that_people_can_type(backbone: str, folder: str) -> None:
    config = arguments.composed("config", [f"backbone={backbone}"])
    assert config.run == folder and shlex.quote(folder) == folder


# ------------------------------------------------------------ networks of one's own


NET = """
from torch import nn
def make(num_classes, in_chans=3, width=16):
    return nn.Sequential(nn.Conv2d(in_chans, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(width, num_classes))
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a package, and with files that are called like modules of Python and of libraries."""
    (tmp_path / "own_package").mkdir()
    for name in ("own_package/nets.py", "other/net.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(NET)
    for name in ("random.py", "types.py", "timm.py", "data.py"):
        (tmp_path / name).write_text("raise SystemExit('the user\\'s own')\n")
    return tmp_path


@pytest.mark.parametrize("backbone", ["own_package.nets.make", "other/net.py:make"])
def test_the_folder_that_one_stands_in_is_on_the_path(own: Path, backbone: str) -> None:
    done = called(own, f"backbone={backbone}", *BRIEF)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (own / "runs" / f"digits-{ofa.conf.typed(backbone)}-0" / "teacher.pt").exists()


def test_a_mistake_inside_of_ones_own_network_is_one_line_with_its_place(tmp_path: Path) -> None:
    source = "from torch import nn\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return self.head(x)\n"
    (tmp_path / "wrong.py").write_text(source)
    done = called(tmp_path, "backbone=wrong.py:Net", *BRIEF)
    said = (
        "does not run on pictures (1, 16, 16): AttributeError: 'Net' object has no attribute 'head' (wrong.py, line 5)"
    )
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1]


def test_a_backbone_with_settings_takes_the_place_of_another(own: Path) -> None:
    (own / "experiment").mkdir()
    yaml = "# @package _global_\nbackbone: {_target_: net.make, width: 32}\n"
    (own / "experiment" / "mine.yaml").write_text(yaml)
    given = ["--config-dir=" + str(own), "experiment=mine", "backbone={_target_:other.make,depth:3}"]
    config = arguments.composed("config", arguments.overrides_of("config", given))
    assert config.backbone == {"_target_": "other.make", "depth": 3}


def test_a_typo_in_ones_own_network_is_one_line(own: Path) -> None:
    done = called(own, "backbone=own_package.net.make", *BRIEF)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "there is no module 'own_package.net' in " in line
    assert line.endswith("did you mean nets?")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was trained elsewhere, as torch saves it."""
    torch.manual_seed(0)
    splits, net = Digits(size=16).load(), create("test_efficientnet", 10, 1)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for epoch in range(3):
        for images, labels in splits.train.shuffled(64, 0, epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("elsewhere") / "mine.pt"
    torch.save(net.state_dict(), path)
    return path


def take(folder: Path, checkpoint: Path) -> None:
    given = (f"run={folder}", "backbone=test_efficientnet", "teacher=given", f"teacher.checkpoint={checkpoint}")
    execute(composed(*given, "data.size=16", "stages=[teacher]"))


def test_a_trained_network_is_taken_as_it_is(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take(tmp_path / "run", trained)
    output = capsys.readouterr().out
    said = re.search(r"teacher: not trained; accuracy ([\d.]+) % on 360 validation pictures", output)
    net, splits = create("test_efficientnet", 10, 1, checkpoint=trained), Digits(size=16, shift=0.05).load()
    expected = evaluate(net, splits.validation.ordered(256))["accuracy"]
    assert said and float(said[1]) == pytest.approx(expected, abs=0.01)
    assert expected > 50 and "warning" not in output
    kept = torch.load(tmp_path / "run/teacher.pt", weights_only=True)["model"]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in torch.load(trained, weights_only=True).items())
    assert not (tmp_path / "run/metrics.jsonl").exists(), "nothing was trained"
    take(tmp_path / "run", trained)
    assert "teacher: done before" in capsys.readouterr().out


def test_a_teacher_that_is_no_better_than_guessing_is_doubted(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(trained, weights_only=True)
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].roll(1, 0)  # the classes in another order
    torch.save(weights, tmp_path / "mine.pt")
    take(tmp_path / "run", tmp_path / "mine.pt")
    output = " ".join(capsys.readouterr().out.split())
    assert "warning: guessing gives 10 %. Likely causes: the classes are others, or in another order (10 here" in output
    assert "the pictures are prepared in another way (1 x 16 x 16 here" in output


def test_a_teacher_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    torch.save(create("test_efficientnet", 7, 1).state_dict(), tmp_path / "mine.pt")
    with pytest.raises(ValueError, match=r"mine\.pt holds the weights of another network: .*classifier"):
        take(tmp_path / "run", tmp_path / "mine.pt")


# ------------------------------------------------------------ ofa doctor, ofa init


def test_the_doctor_says_what_is_here(tmp_path: Path) -> None:
    done = called(tmp_path, "doctor")
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("ofa ") and "Python" in first
    assert [line.split()[0] for line in lines if line.startswith("  ")] >= ["processors", "memory"]
    text = done.stdout
    assert f"torch {torch.__version__.partition('+')[0]}" in text and "wandb" in text and "ray" in text
    assert text.index("writable") < text.index("<torch>") < text.index("devices") and not list(tmp_path.iterdir())


def test_the_doctor_says_what_a_run_would_cost_and_leaves_nothing(own: Path) -> None:
    before = sorted(own.iterdir())
    brief = (
        "data.size=16",
        "space.proof=off",
        "stages=[teacher,supernet,latency,search,export]",
        "space.width=[0.5,1.0]",
        "latency.samples=6",
        "search.evaluations=4",
    )
    done = called(own, "doctor", "backbone=other/net.py:make", *brief, "search.population=2", "export.subnets=2")
    assert done.returncode == 0, done.stdout + done.stderr
    _, _, bill = done.stdout.partition("a run with these settings, in runs/digits-net-make-0:")
    for stage in ("teacher", "supernet", "latency", "search", "finetune", "export", "together"):
        assert re.search(rf"^  {stage} +about [\d:]+", bill, re.MULTILINE), bill
    assert re.search(r"^  memory +about [\d.,]+ [MG]B", bill, re.MULTILINE)
    assert re.search(r"^  disk +up to [\d.]+ [kMG]B", bill, re.MULTILINE)
    assert "1,797" not in bill and re.search(r"1,077 to train, 360 to choose, 360 to test; 10 classes", bill)
    assert [path for path in sorted(own.iterdir()) if path.name != "__pycache__"] == before


def test_the_doctor_refuses_what_a_run_would(tmp_path: Path) -> None:
    done = called(tmp_path, "doctor", "data=imagefolder")
    assert done.returncode == 2 and done.stderr.startswith("ofa doctor: data=imagefolder: there is no data")
    done = called(tmp_path, "doctor", "teacher=given")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("ofa doctor: teacher: weights that stay as they are come from")


def test_a_starter_folder_runs_as_it_is(tmp_path: Path) -> None:
    done = called(tmp_path, "init", "first")
    folder, last = tmp_path / "first", done.stdout.splitlines()[-1]
    assert done.returncode == 0 and last == "cd first && ofa --config-dir=. experiment=mine", done.stderr
    assert "<torch>" not in done.stdout
    brief = ("teacher.recipe.epochs=1", "supernet.recipe.epochs=1", "space.proof=quick", "space.width=[0.5,1.0]")
    small = (
        "search.evaluations=3",
        "search.population=2",
        "latency.samples=6",
        "export.subnets=1",
        "finetune.recipe.epochs=1",
    )
    done = called(folder, *last.split()[4:], *brief, *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "runs/mine/front.json").exists()


def test_the_starters_page_gives_commands_that_compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin([str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```sh\n(.*?)```", (STARTER / "README.md").read_text(), re.DOTALL)
    commands = [shlex.split(line, comments=True)[1:] for line in block.replace("\\\n", "").splitlines()]
    assert len(commands) == 3
    for words in commands:
        config = arguments.composed("config", arguments.overrides_of("config", [w for w in words if w != "doctor"]))
        assert config.run in ("runs/mine", "runs/half")
        Course.parse(config)


def test_nothing_is_overwritten_by_a_starter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        begin([str(tmp_path)])
    assert "net.py would be overwritten; nothing was written" in capsys.readouterr().err
    assert (tmp_path / "net.py").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(SystemExit, match="2"):
        begin(["one", "two"])


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """What one composition told Hydra is nothing to the next test."""
    HydraConfig.instance().cfg = None
