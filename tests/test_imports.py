"""Who may use whom: ofa ← ofa.train, ofa.search ← ofa.conf; and what an import must not cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"ofa": "ofa", "ofa.search": "search", "ofa.train": "train", "ofa.conf": "conf"}
DOORS = {"ofa.vitis": "ofa.search"}  # modules in ofa/ that only show what is behind them
ALLOWED = {
    "ofa": {"ofa"},
    "ofa.search": {"ofa.search", "ofa"},
    "ofa.train": {"ofa.train", "ofa"},
    "ofa.conf": {"ofa.conf", "ofa.search", "ofa.train", "ofa"},
}


def files(package: str) -> Iterator[Path]:
    """The package's own files: `ofa` without what is linked into it, and without its doors."""
    folder = ROOT / FOLDERS[package]
    doors = {ROOT / f"{door.replace('.', '/')}.py" for door in DOORS}
    return (path for path in folder.rglob("*.py") if path.resolve().is_relative_to(folder) and path not in doors)


def imported(path: Path) -> set[str]:
    """The packages that a file imports from, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: relative import in line {node.lineno}"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {owner(name) for name in names}


def owner(name: str) -> str:
    head, package = name.partition(".")[0], ".".join(name.split(".")[:2])
    return DOORS.get(package, package if package in FOLDERS else head)


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    for path in files(package):
        own = imported(path) & {*FOLDERS, "experiments", "tests"}
        assert own <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {sorted(own - ALLOWED[package])}"


@pytest.mark.parametrize("door", DOORS)
def test_a_door_shows_what_is_behind_it_and_nothing_else(door: str) -> None:
    path = ROOT / f"{door.replace('.', '/')}.py"
    *others, assigned = ast.parse(path.read_text()).body[1:]
    assert all(isinstance(node, ast.ImportFrom) for node in others) and isinstance(assigned, ast.Assign)
    assert imported(path) == {DOORS[door]}


@pytest.mark.parametrize("package", ["ofa", "ofa.search", "ofa.train"])
def test_importing_a_package_stays_light(package: str) -> None:
    others = tuple(name for name in FOLDERS if name not in ALLOWED[package])
    heavy = ("timm", "hydra", "wandb", "ray", "onnx", "onnxruntime", "matplotlib", "optuna", *others)
    script = (
        f"import sys, {package}, torch; heavy = {heavy}\n"
        "print([m for m in heavy if m in sys.modules], torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[] False"


def test_files_are_nouns_of_the_field_and_no_standard_modules() -> None:
    banned = {"utils", "util", "helpers", "helper", "common", "base", "core", "misc"}
    for package in FOLDERS:
        for path in files(package):
            assert path.stem not in banned, path
            assert path.stem not in sys.stdlib_module_names or path.stem == "__init__", path
