"""Who may use whom: ofa ← ofa.train, ofa.search ← ofa.conf, rooms by their doors; and what an import must not cost."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"ofa": "ofa", "ofa.search": "search", "ofa.train": "train", "ofa.conf": "conf"}
DOORS = {"ofa.vitis": "ofa.search"}  # folders in ofa/ that only show what is behind them, by another program's names
ALLOWED = {
    "ofa": {"ofa"},
    "ofa.search": {"ofa.search", "ofa"},
    "ofa.train": {"ofa.train", "ofa"},
    "ofa.conf": {"ofa.conf", "ofa.search", "ofa.train", "ofa"},
}

# The rooms of each package from the bottom to the top: each imports from those before it.
ROOMS = {
    "ofa": ("space", "tracing", "groups", "sparsity", "slicing", "conversion", "costs", "onnx_files"),
    "ofa.search": ("engines", "learning", "pruning", "latency", "prediction", "vitis"),
    "ofa.train": ("collection", "data", "tasks", "sampling", "masks", "tracking", "published"),
    "ofa.conf": ("program",),
}
DOORED = [f"{package}.{name}" for package, names in ROOMS.items() for name in names]


def files(package: str) -> Iterator[Path]:
    """The package's own files: `ofa` without what is linked into it, and without its doors."""
    folder = ROOT / FOLDERS[package]
    own = (path for path in folder.rglob("*.py") if path.resolve().is_relative_to(folder))
    return (path for path in own if not any(opening(door) in path.parents for door in DOORS))


def opening(door: str) -> Path:
    """The folder of a door."""
    return ROOT / door.replace(".", "/")


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


def dotted(path: Path, package: str) -> str:
    """The module of a file."""
    return ".".join([package, *path.relative_to(ROOT / FOLDERS[package]).with_suffix("").parts]).removesuffix(
        ".__init__"
    )


def from_imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that a file imports from the project by `from … import …`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "ofa":
            yield from ((node.module, alias.name) for alias in node.names)


def room(module: str) -> str:
    """The room of a module, or the module itself where it stands beside the rooms."""
    return next((r for r in DOORED if module == r or module.startswith(f"{r}.")), module)


def arrows(units: Callable[[str], str]) -> dict[str, set[str]]:
    """Which unit imports from which others; `units` gives the unit of a module."""
    modules = {dotted(path, package): path for package in FOLDERS for path in files(package)}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        for source, name in from_imports(path):
            target = f"{source}.{name}" if f"{source}.{name}" in modules else source
            if units(target) != units(module):
                found.setdefault(units(module), set()).add(units(target))
    return found


@pytest.mark.parametrize("units", [str, room], ids=["modules", "rooms"])
def test_there_are_no_circles(units: Callable[[str], str]) -> None:
    list(TopologicalSorter(arrows(units)).static_order())  # a CycleError names the circle


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_use_those_before_them(package: str) -> None:
    order = [f"{package}.{name}" for name in ROOMS[package]]
    folders = {p.parent for p in files(package)} - {ROOT / FOLDERS[package]}
    assert {room(dotted(folder, package)) for folder in folders} == set(order)
    found = arrows(room)
    for number, one in enumerate(order):
        later = found.get(one, set()) & set(order[number:])
        assert not later, f"{one} imports from {sorted(later)}"
    for module in (m for m in found if m.startswith(f"{package}.") and m not in order):
        used = [other for other in order if module in found.get(other, ())]
        assert not used or not found[module] & set(order[order.index(used[0]) :]), module


@pytest.mark.parametrize("package", ROOMS)
def test_nobody_enters_a_room_but_by_its_door(package: str) -> None:
    for path in files(package):
        own = room(dotted(path, package))
        for module, name in from_imports(path):
            other = room(module)
            if other != own and other in DOORED:
                assert module == other, f"{path.relative_to(ROOT)} takes {name} of {module} through a window"
                assert name in importlib.import_module(other).__all__, f"{path.relative_to(ROOT)}: {other}.{name}"


@pytest.mark.parametrize("name", DOORED)
def test_a_room_says_what_comes_in_and_what_goes_out(name: str) -> None:
    door = importlib.import_module(name)
    if name != "ofa.conf.program":  # nobody enters
        assert door.__doc__ and "\nIn: " in door.__doc__ and " Out: " in door.__doc__
        assert door.__all__ and all(hasattr(door, shown) for shown in door.__all__)


@pytest.mark.parametrize("door", DOORS)
def test_a_door_shows_what_is_behind_it_and_nothing_else(door: str) -> None:
    shown = {path: ast.parse(path.read_text()).body[1:] for path in opening(door).rglob("*.py")}
    assert len(shown) > 1 and shown[opening(door) / "__init__.py"]
    for path, body in shown.items():
        if body:  # else it is the folder of others
            *others, assigned = body
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


def test_classes_are_named_by_settings_and_never_by_files() -> None:
    """Where modules are imported by a value, and where a pickle is read: docs/extending.md counts on it."""
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for package in FOLDERS for path in files(package)}
    named = {name for name, text in sources.items() if re.search(r"\b(?:import_module|find_spec|__import__)\(", text)}
    assert named == {"ofa/__init__.py", "conf/program/building.py", "train/backbones.py"}
    unpickling = {name for name, text in sources.items() if re.search(r"weights_only=False|\bpickle\.load", text)}
    assert unpickling == {"search/workers.py"}, "what this process has written for its own workers"
