"""The README's library example runs as it stands, and its words name things that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from experiments.coverage.table import written

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_library_example_runs() -> None:
    example, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line and not line.startswith(("import", "#"))]) <= 10
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    net, supernet = names["net"], names["supernet"]
    assert isinstance(net, nn.Module) and not any("ofa" in type(m).__module__.split(".") for m in net.modules())
    assert sum(p.numel() for p in net.parameters()) == supernet.cost(names["subnet"]).params  # type: ignore[attr-defined]


def test_the_search_of_ones_own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), names := dict[str, Any]())
    best, archive = names["front"].best("accuracy", nodes=1000), Path("forests.sqlite").stat().st_size
    assert best.subnet["trees"] * 2.0 ** best.subnet["depth"] <= 1000 and best.metrics["accuracy"] > 80
    assert Path("forests.html").exists() and archive > 1000


def test_the_support_table_is_the_measured_one() -> None:
    assert written(README) == README, "run python experiments/coverage/table.py"


@pytest.mark.parametrize(
    "page", ["README.md", "ofa/README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_linked_files_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
    assert links or page != "README.md"


def test_files_that_the_engine_s_page_names_exist() -> None:
    named = re.findall(r"\b([a-z_]+(?:/[a-z_]+)*\.py)\b", (ROOT / "ofa" / "README.md").read_text())
    rooms = [ROOT / "ofa", *(path.parent for path in (ROOT / "ofa").glob("*/__init__.py"))]
    assert named and [name for name in named if not any((room / name).exists() for room in rooms)] == []
