"""The console program `ofa-search`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from toy_space import toy_rows

from ofa.conf.program import searching
from ofa.search import Front, ScoredNetwork
from ofa.search.front import TEACHER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a search leaves."""
    rows = toy_rows()
    teacher = ScoredNetwork(TEACHER, None, {"accuracy": 99.0, "macs": 2 * max(row.metrics["macs"] for row in rows)})
    front = Front.of(rows, ["accuracy", "macs"], teacher)
    content = {"front": front.to_json(), "evaluated": [row.to_json() for row in rows], "missed": ""}
    (tmp_path / "search.json").write_text(json.dumps(content))
    return tmp_path


def said(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["ofa-search", *words])
    searching.main()
    return capsys.readouterr().out


def shown(output: str) -> set[str]:
    """The networks in a table."""
    return {row.name for row in toy_rows() if re.search(rf"│ {row.name} ", output)}


def test_the_best_within_limits_is_the_best_of_all_that_was_evaluated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = sorted(row.metrics["params"] for row in toy_rows())
    limit = costs[len(costs) // 2]
    best = max((r for r in toy_rows() if r.metrics["params"] <= limit), key=lambda r: r.metrics["accuracy"])
    output = said([str(folder), f"params={limit}"], monkeypatch, capsys)
    assert f"best within the limits: {best.name}, " in output and "teacher" in output
    assert f"{len(toy_rows())} evaluated, validation split" in output
    inside = [row for row in toy_rows() if row.metrics["params"] <= limit]
    assert shown(output) == {row.name for row in Front.of(inside, ["accuracy", "macs"]).rows}


def test_another_front_of_the_same_networks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "search.json").read_bytes()
    words = [str(folder), "objectives=[accuracy,params]", f"page={folder / 'other.html'}"]
    output = said(words, monkeypatch, capsys)
    assert shown(output) == {row.name for row in Front.of(toy_rows(), ["accuracy", "params"]).rows}
    assert (folder / "other.html").exists() and (folder / "search.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere/search.json is missing: run the stage 'search' there first"),
        (["{folder}", "mac=0.5"], "no figure 'mac' of what was evaluated; did you mean macs"),
        (["{folder}", "macs=half"], "macs=half: a limit is a number"),
        (["{folder}", "macs=0.00001"], "macs at most 1e-05 of the largest; they reach from"),
        (["{folder}", "objectives=acuracy"], "no objective 'acuracy'"),
        (["{folder}", "other"], "one run folder is asked, got"),
        (["macs=0.5"], "one run folder is asked, got none"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit, match="2"):
        said([word.format(folder=folder) for word in words], monkeypatch, capsys)
    error = capsys.readouterr().err
    assert error.startswith("ofa-search: ") and message in error and error.count("\n") == 1
