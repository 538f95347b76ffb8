"""Who may use whom: ofa ← train, search ← conf; and what an import must not cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ofa", "search", "train", "conf", "experiments")
ALLOWED = {
    "ofa": {"ofa"},
    "search": {"search", "ofa"},
    "train": {"train", "ofa"},
    "conf": {"conf", "search", "train", "ofa"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        own = imported(path) & set(PACKAGES)
        assert own <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {sorted(own - ALLOWED[package])}"


@pytest.mark.parametrize("package", ["ofa", "search", "train"])
def test_importing_a_package_stays_light(package: str) -> None:
    heavy = ("timm", "hydra", "wandb", "ray", "onnx", "onnxruntime", "matplotlib", "optuna")
    script = (
        f"import sys, {package}, torch; heavy = {heavy}\n"
        "print([m for m in heavy if m in sys.modules], torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[] False"


def test_files_are_nouns_of_the_field_and_no_standard_modules() -> None:
    banned = {"utils", "util", "helpers", "helper", "common", "base", "core", "misc"}
    for package in ALLOWED:
        for path in (ROOT / package).rglob("*.py"):
            assert path.stem not in banned, path
            assert path.stem not in sys.stdlib_module_names or path.stem == "__init__", path
