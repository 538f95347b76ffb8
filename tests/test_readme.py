"""The README's library example runs as it stands, and its words name things that exist."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from experiments.coverage.table import written

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_library_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line and not line.startswith(("import", "#"))]) <= 10
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    net, supernet = names["net"], names["supernet"]
    assert isinstance(net, nn.Module) and not any("ofa" in type(m).__module__.split(".") for m in net.modules())
    assert sum(p.numel() for p in net.parameters()) == supernet.cost(names["subnet"]).params  # type: ignore[attr-defined]


def test_the_support_table_is_the_measured_one() -> None:
    assert written(README) == README, "run python experiments/coverage/table.py"


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links)
