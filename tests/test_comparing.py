"""The console program `ofa-compare`: kinds by what differs, means, pairs over seeds, refusals."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from ofa.conf.program import comparing
from ofa.search.comparison import AREA

WHOLE = 1e6


def leave(folder: Path, seed: int, accuracies: dict[float, float], **settings: Any) -> None:
    """What a run leaves whose networks have these accuracies at shares of the MACs."""
    folder.mkdir(parents=True)
    rows = [
        {"name": f"n{share}", "macs": share * WHOLE, "accuracy": accuracy, "validation_accuracy": accuracy + 0.5}
        for share, accuracy in accuracies.items()
    ]
    teacher = {"name": "teacher", "macs": WHOLE, "accuracy": 98.0}
    content = [{**row, "subnet": None, "files": {}} for row in (teacher, *rows)]
    (folder / "front.json").write_text(json.dumps(content))
    stages = {"teacher": {"seed": seed, "data.size": 48, "data.seed": seed}, "search": settings}
    (folder / "settings.json").write_text(json.dumps(stages))
    (folder / "times.json").write_text(json.dumps({"teacher": 10.0, "search": 20.0 + seed}))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two engines, three seeds: one is better by 0.8, 1.0 and 1.2 points."""
    for seed, gain in enumerate((0.8, 1.0, 1.2)):
        for engine, more in (("guided", gain), ("random", 0.0)):
            figures = {0.2: 90.0 + seed + more, 0.4: 94.0 + more}
            leave(tmp_path / "sweep" / f"{engine}-{seed}", seed, figures, **{"search._target_": engine})
    return tmp_path / "sweep"


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    monkeypatch.setattr(sys, "argv", ["ofa-compare", *map(str, words)])
    try:
        comparing.main()
    except SystemExit as end:
        return f"{end.code} {capsys.readouterr().err}"
    return capsys.readouterr().out


def test_runs_of_a_sweep_are_told_apart_by_what_differs(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = said(monkeypatch, capsys, sweep, f"out={sweep / 'compared'}", "figure=at 50 %")
    assert "6 runs" in output and "1 is search._target_=guided: 3 runs, 31 ± 1 s each" in output
    assert max(map(len, output.partition("area:")[0].splitlines()[:5])) <= 80
    assert "search._target_=guided less search._target_=random: +1.00 ± 0.50 (3 seeds)" in output
    assert "told apart: search._target_=guided is better" in output
    table = {row["kind"]: row for row in csv.DictReader((sweep / "compared/table.csv").read_text().splitlines())}
    row = table["search._target_=guided"]
    assert (row["at 50 %"], row["at 25 %"], row["at 10 %"]) == ("95.00 ± 0.20", "92.00 ± 1.20", "-")
    assert row["seconds"] == "31 ± 1"
    assert {path.name for path in (sweep / "compared").iterdir()} == {
        "table.csv", "table.md", "table.tex", "table.html", "networks.csv", "picture.png",
    }  # fmt: skip
    assert len([*csv.DictReader((sweep / "compared/networks.csv").read_text().splitlines())]) == 12


def test_pairs_are_student_s_and_the_area_is_that_under_the_stairs(sweep: Path) -> None:
    comparison = comparing.compared([sweep])
    one, other = comparison.kinds.values()
    (pair,) = comparison.differences(AREA)
    a, b = ([run.figures[AREA] for run in runs] for runs in (one, other))
    assert a == pytest.approx([0.2 * (90.8 + 0) + 0.6 * 94.8, 0.2 * (91 + 1) + 0.6 * 95, 0.2 * (92 + 1.2) + 0.6 * 95.2])
    interval = ttest_rel(a, b).confidence_interval(0.95)
    assert (pair.mean - pair.half, pair.mean + pair.half) == pytest.approx((interval.low, interval.high))


def test_equal_kinds_are_not_told_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in range(8):
        for engine in ("a", "b"):
            leave(tmp_path / f"{engine}{seed}", seed, {0.5: 95 + float(rng.normal())}, engine=engine)
    (pair,) = comparing.compared([tmp_path]).differences("at 50 %")
    assert pair.verdict.startswith("not told apart; about ") and pair.needed is not None and pair.needed > 8


def test_what_validation_chose_counts_not_the_luckiest_on_the_test_split(tmp_path: Path) -> None:
    leave(tmp_path / "a", 0, {0.2: 97.0, 0.4: 95.0})
    content = json.loads((tmp_path / "a/front.json").read_text())
    content[2]["validation_accuracy"] = 99.0
    (tmp_path / "a/front.json").write_text(json.dumps(content))
    for rows in (content, content[::-1]):  # fronts by another cost are in another order
        (tmp_path / "a/front.json").write_text(json.dumps(rows))
        (outcome,) = comparing.compared([tmp_path / "a"]).outcomes
        assert outcome.accuracy(0.5) == 95.0 and outcome.accuracy(0.3) == 97.0


def test_kinds_by_some_settings(tmp_path: Path) -> None:
    for seed in (0, 1):
        for engine, epochs in (("a", 5), ("b", 9)):
            leave(tmp_path / f"{engine}{seed}", seed, {0.5: 95.0}, engine=engine, epochs=epochs)
    assert [*comparing.compared([tmp_path]).kinds] == ["engine=a, epochs=5", "engine=b, epochs=9"]
    assert [*comparing.compared([tmp_path], ["engine"]).kinds] == ["engine=a", "engine=b"]
    with pytest.raises(ValueError, match="by=engin: no run was told that; did you mean engine"):
        comparing.compared([tmp_path], ["engin"])


def test_refusals(sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(monkeypatch, capsys, sweep / "none").startswith("2 ofa-compare: no finished run in")
    other = sweep.parent / "other"
    leave(other, 0, {0.5: 90.0})
    settings = json.loads((other / "settings.json").read_text())
    settings["teacher"]["data.size"] = 28
    (other / "settings.json").write_text(json.dumps(settings))
    output = said(monkeypatch, capsys, sweep, other)
    assert "were tested on different pictures: data.size is 48, and 28" in output
    twice = sweep.parent / "twice"
    leave(twice, 0, {0.5: 90.0}, **{"search._target_": "guided"})
    assert "have the same settings and the seed 0" in said(monkeypatch, capsys, sweep, twice)
    assert "figure is one of teacher, at 75 %" in said(monkeypatch, capsys, sweep, "figure=at 60 %")
    (twice / "front.json").write_text("[]")
    assert "no networks beside the teacher" in said(monkeypatch, capsys, twice)
