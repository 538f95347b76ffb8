"""One import name: everything is below `ofa`, nothing goes by a short name, and a user's own files hide nothing."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

import ofa.search.vitis
import ofa.vitis

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
SHORT = ("search", "train", "conf")  # folders at the top of a checkout, and links in ofa/
FOLDERS = ("ofa", *SHORT, "tests", "experiments", "docs")
KINDS = (".py", ".yaml", ".yml", ".md", ".toml")
LOADERS = ("import_module", "__import__", "find_spec", "initialize_config_module")  # take a module by its name
NAME = rf"(?:{'|'.join(SHORT)})"
SAID = re.compile(
    rf"\bfrom {NAME}(?:\.\w+)* import\b|(?:^|[`;])\s*import (?:[\w.]+, )*{NAME}\b(?! \w)"
    rf"|_target_\W+{NAME}\.|pkg://{NAME}\b|-m {NAME}(?![\w=])",
    re.MULTILINE,
)
DOTTED = re.compile(rf"(?<![\w./$-])({NAME})\.(\w+)")


def documents() -> Iterator[Path]:
    """Every file of the project in which a module may be named."""
    yield from (path for path in ROOT.iterdir() if path.suffix in KINDS or path.name == "Makefile")
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in KINDS and path.resolve() == path:
                yield path


@cache
def modules(package: str) -> set[str]:
    """What a dotted name may go on with: modules of the folder, and names that it exports."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    exported = {name for node in tree.body if isinstance(node, ast.ImportFrom) for name in (a.name for a in node.names)}
    return exported | {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or path.is_dir()}


def said(text: str) -> list[str]:
    """Modules by a short name in a text; `search.evaluations` (a setting) and `search.json` (a file) are none."""
    dotted = [match[0] for match in DOTTED.finditer(text) if match[2] in modules(match[1])]
    return [match[0].strip() for match in SAID.finditer(text)] + dotted


def texts(source: str) -> Iterator[str]:
    """Strings and comments of a program, not its code, where a variable may have such a name."""
    yield from (node.value for node in ast.walk(ast.parse(source)) if is_text(node))
    yield from (t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT)


def is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def used(source: str) -> list[str]:
    """Modules by a short name in a program: imported, loaded by name, or said in a string or comment."""
    names = [name for node in ast.walk(ast.parse(source)) for name in named(node) if name.partition(".")[0] in SHORT]
    return names + [name for text in texts(source) for name in said(text)]


def named(node: ast.AST) -> list[str]:
    """The modules and classes that a piece of a program says by itself to be some."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case ast.Call(args=[ast.Constant(value=str(name)), *_]) if ast.unparse(node.func).split(".")[-1] in LOADERS:
            return [name]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return [v.value for k, v in pairs if k and ast.unparse(k) == "'_target_'" and is_text(v)]
    return []


def test_nothing_says_a_short_name() -> None:
    read = {path.relative_to(ROOT): path.read_text() for path in documents()}
    assert {"README.md", "conf/config.yaml", "search/vitis/sparse_and_slim.py", "tests/test_names.py"} <= {
        *map(str, read)
    }
    found = {str(path): used(text) if path.suffix == ".py" else said(text) for path, text in read.items()}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("package", SHORT)
def test_short_names_are_found_wherever_they_are(package: str) -> None:
    module = {"search": "archive", "train": "fitting", "conf": "program"}[package]
    for program in (
        "import {0}", "import {0}.x as y", "import sys, {0}", "def f():\n    from {0} import y", "from {0}.x import y",
        "importlib.import_module('{0}')", "script = 'import {0}'", "script = '''\nfrom {0}.x import y\n'''",
        "x = 1  # see {0}.{1}", "'''The engine, `{0}.{1}.X`.'''", "f('-m {0}.program')", "setattr('{0}.{1}.f', None)",
        "initialize_config_module('{0}', version_base=None)", "build({{'_target_': '{0}.Nothing'}})",
    ):  # fmt: skip
        assert used(program.format(package, module)), program
        assert not used(program.format(f"ofa.{package}", module)), program
    for text in ("_target_: {0}.Nothing", "- pkg://{0}", "python -m {0}.program", "`{0}.{1}`", "`from {0} import …`"):
        assert said(text.format(package, module)), text
        assert not said(text.format(f"ofa.{package}", module)), text
    assert not used(f"{package} = start()\n{package}.{module}, splits.{package}.{module}")


def test_what_is_no_module_is_left_alone() -> None:
    for text in (
        "search.evaluations=4",
        "`search.json`",
        "from train and test",
        "train/data/datasets.py",
        "ofa -m search=a,b",
    ):
        assert not said(text), text


EVERYTHING = """
import collections, importlib, os, pathlib, pkgutil, sys
import ofa
for found in pkgutil.walk_packages(ofa.__path__, "ofa."):
    importlib.import_module(found.name)
for path in pathlib.Path("experiments").rglob("*.py"):
    importlib.import_module(".".join(path.with_suffix("").parts))
names = collections.defaultdict(list)
for name, module in list(sys.modules.items()):
    if os.path.isabs(getattr(module, "__file__", None) or ""):
        names[os.path.realpath(module.__file__)].append(name)
own = {path: found for path, found in names.items() if path.startswith(sys.argv[1]) and "site-packages" not in path}
print(len(own), [name for name in sys.modules if name.partition(".")[0] in ("search", "train", "conf")],
      [found for found in own.values() if len(found) > 1])
"""


def test_every_module_is_imported_under_one_name() -> None:
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", EVERYTHING, f"{ROOT}{os.sep}"]
    done = subprocess.run(command, env=place, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    number = sum(path.suffix == ".py" and ROOT / "tests" not in path.parents for path in documents())
    assert done.stdout.strip() == f"{number} [] []"


def test_the_drop_ins_door_shows_everything() -> None:
    assert ofa.vitis.__all__ == ofa.search.vitis.__all__
    assert all(getattr(ofa.vitis, name) is getattr(ofa.search.vitis, name) for name in ofa.vitis.__all__)


SCRIPT = """
import torch
from torch import nn

import ofa
import ofa.search, ofa.train
import ofa.conf.program.command
from ofa.vitis import get_pruning_runner

def score(model):
    with torch.no_grad():
        return float(model(x).std())

x = torch.randn(2, 3, 8, 8)
model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(),
                      nn.Linear(256, 4)).eval()
runner = get_pruning_runner(model, x, "iterative")
runner.ana(score, grid=(0.5,), mode="max")
slim = runner.prune(0.5, mode="slim")
assert slim(x).shape == (2, 4) and slim[0].out_channels < 16
print("pruned")
"""


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder of the user's own, with files of the names that this project has at its top."""
    for name in (*SHORT, "tests", "experiments"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__name__} is the user\\'s own')\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def printed(command: list[str], folder: Path) -> str:
    """What Python prints in a folder."""
    place = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=folder, env=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "command", [["script.py"], ["-m", "ofa.conf.program.command", "--help"]], ids=["library", "program"]
)
def test_files_of_the_users_own_hide_nothing(command: list[str], crowded: Path) -> None:
    found = printed(command, crowded)
    assert "pruned" in found or "search=evolution" in found


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_finds_its_configuration_as_an_installed_script_calls_it(name: str, crowded: Path) -> None:
    """Hydra looks elsewhere than for a module that is run by itself."""
    module, _, function = PROGRAMS[name].partition(":")
    script = f"import sys; from {module} import {function}; sys.argv = [{name!r}, '--help']; {function}()"
    found = printed(["-c", script], crowded)
    shown = {
        "ofa": ["search=evolution"],
        "ofa-tune": ["search=evolution", "tuning.trials"],
        "ofa-latency": ["torch_cpu"],
        "ofa-search": ["macs=0.25"],
        "ofa-compare": ["by=method"],
    }
    assert all(text in found for text in shown[name])
