import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from toy_space import REFERENCE, toy_front, toy_rows

from ofa import Subnet
from ofa.search import Front, ScoredNetwork

TEACHER = ScoredNetwork("teacher", None, {"accuracy": 72.0, "macs": 2e6, "params": 40_000.0, "latency_ms": 0.9})


def row(name: str, accuracy: float, macs: float) -> ScoredNetwork:
    return ScoredNetwork(name, Subnet({"width": int(macs)}), {"accuracy": accuracy, "macs": macs})


SMALL = [
    row("d", 90, 40),
    row("a", 70, 10),
    row("beaten", 69, 30),
    row("b", 85, 20),
    row("twin", 85, 20),
    row("c", 87, 30),
]


def test_non_dominated_from_cheap_to_dear() -> None:
    front = Front.of(SMALL, ["accuracy", "macs"])
    assert [r.name for r in front.rows] == ["a", "b", "c", "d"]
    assert len(front.evaluated) == 6
    assert front.points.tolist() == [[70, 10], [85, 20], [87, 30], [90, 40]]


def test_front_is_what_dominance_says_by_brute_force() -> None:
    rows = toy_rows()
    gains = np.array([[r.metrics["accuracy"], -r.metrics["macs"]] for r in rows])
    beaten = [bool(((gains >= g).all(axis=1) & (gains > g).any(axis=1)).any()) for g in gains]
    expected = {tuple(g) for g, lost in zip(gains.tolist(), beaten, strict=True) if not lost}
    assert {(a, -m) for a, m in toy_front().points.tolist()} == expected


def test_hypervolume_is_the_area() -> None:
    front = Front.of(SMALL[:2], ["accuracy", "macs"])
    assert front.hypervolume({"accuracy": 60, "macs": 50}) == 10 * 40 + 20 * 10
    assert Front.of([], ["accuracy", "macs"]).hypervolume({"accuracy": 60, "macs": 50}) == 0.0
    assert toy_front().hypervolume(REFERENCE) > 0


def test_knee_and_best() -> None:
    front = Front.of(SMALL, ["accuracy", "macs"])
    assert front.knee().name == "b"
    assert front.best(macs=35).name == "c"
    assert front.best("accuracy", {"macs": 0.5}).name == "b"  # of the dearest row
    assert replace(front, teacher=row("teacher", 95, 60)).best("accuracy", macs=0.5).name == "c"
    with pytest.raises(ValueError, match="no row of the front has macs at most 5; they reach from 10 to 40"):
        front.best(macs=5)
    with pytest.raises(ValueError, match="the front is empty"):
        Front.of([], ["accuracy"]).knee()


def test_spread_keeps_both_ends() -> None:
    front = toy_front()
    assert len(front.rows) > 8
    for number in range(2, 9):
        thin = front.spread(number)
        assert len(thin.rows) == number
        assert (thin.rows[0], thin.rows[-1]) == (front.rows[0], front.rows[-1])
    assert front.spread(1).rows == (front.knee(),)
    assert front.spread(10_000) is front
    with pytest.raises(ValueError, match="1 row or more, got 0"):
        front.spread(0)
    same = replace(front, rows=tuple(replace(r, metrics=front.rows[0].metrics) for r in front.rows))
    assert len({r.name for r in same.spread(5).rows}) == 5


def test_rows_round_trip_through_strict_json() -> None:
    rows = [replace(r, files={"onnx": f"subnets/{r.name}/model.onnx"}) for r in toy_front().rows]
    rows[0] = replace(rows[0], metrics={**rows[0].metrics, "loss": 0.5})
    front = replace(toy_front(), rows=tuple(rows), teacher=TEACHER, evaluated=())
    text = json.dumps(front.to_json(), allow_nan=False)
    assert Front.from_json(json.loads(text), ["accuracy", "macs"]) == front
    first = json.loads(text)[0]
    assert list(first) == ["name", "accuracy", "macs", "params", "latency_ms", "subnet", "files"]
    assert (first["name"], first["subnet"], first["files"]) == ("teacher", None, {})
    assert json.loads(text)[1]["latency_ms"] is None


@pytest.mark.parametrize("bad", [{"name": "a"}, {"name": "a", "subnet": 3, "files": {}}, 7])
def test_other_json_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="a row has name, metrics, subnet and files"):
        Front.from_json([bad], ["accuracy"])  # type: ignore[list-item]


def test_table_measures_against_the_teacher() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(replace(toy_front(), teacher=TEACHER).spread(5).table())
    text = console.export_text()
    assert "teacher" in text and "72.00 %" in text and "0.9 ms" in text and "100.0 %" in text
    assert len([line for line in text.splitlines() if "subnet-" in line]) == 5


@pytest.mark.parametrize("name", ["front.png", "front.svg"])
def test_picture(tmp_path: Path, name: str) -> None:
    front = Front.of(toy_rows(), ["accuracy", "macs"], TEACHER)
    path = front.picture(tmp_path / "new" / name)
    assert path.stat().st_size > 10_000
    if name.endswith("svg"):
        content = path.read_text()
        assert "Accuracy (%)" in content and "MACs (M)" in content and "teacher" in content


def test_costs_that_differ_widely_stand_by_their_logarithms(tmp_path: Path) -> None:
    rows = [replace(row, metrics={**row.metrics, "macs": 1e6 * 2**i}) for i, row in enumerate(toy_rows()[:6])]
    wide = Front.of(rows, ["accuracy", "macs"]).picture(tmp_path / "wide.svg").read_text()
    near = Front.of(rows[:3], ["accuracy", "macs"]).picture(tmp_path / "near.svg").read_text()
    ticks = [re.findall(r"<!-- ([\d.]+) -->", text) for text in (wide, near)]
    assert {"1", "2", "5", "10", "20"} <= set(ticks[0]) and "3.0" in ticks[1]


def test_a_page_has_every_network_and_loads_nothing(tmp_path: Path) -> None:
    rows = [ScoredNetwork(f"n{i}", Subnet({"stem": 8 * i}), row.metrics) for i, row in enumerate(toy_rows()[:20], 1)]
    front = Front.of(rows, ["accuracy", "macs"], TEACHER)
    tested = replace(
        front.rows[0], name="taken", metrics={**front.rows[0].metrics, "accuracy_low": 1.0, "accuracy_high": 99.0}
    )
    text = front.page(tmp_path / "new" / "front.html", "Toy <b>", [tested]).read_text()
    own = text[text.rindex("Plotly.newPlot(") :]
    assert all(f'"n{i}\\n  accuracy' in own and f"stem  {8 * i}" in own for i in range(1, 21))
    assert "\\u003cb\\u003etaken" in own and "teacher" in own and "plotly_click" in own
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", text)
    assert Front.of([], ["accuracy"]).page(tmp_path / "none.html").exists()


def test_the_hypervolume_grows_with_what_is_evaluated() -> None:
    front = Front.of(toy_rows(), ["accuracy", "macs"])
    growth, worst = (
        front.growth(),
        {
            "accuracy": min(r.metrics["accuracy"] for r in front.evaluated),
            "macs": max(r.metrics["macs"] for r in front.evaluated),
        },
    )
    assert growth.shape == (len(toy_rows()),) and growth[-1] == 1.0 and (np.diff(growth) >= 0).all()
    half = Front.of(toy_rows()[: len(toy_rows()) // 2], ["accuracy", "macs"])
    assert growth[len(half.evaluated) - 1] == pytest.approx(half.hypervolume(worst) / front.hypervolume(worst))
    broken = ScoredNetwork("broken", None, {"accuracy": float("nan"), "macs": 1.0})
    assert Front.of([broken, *toy_rows()], ["accuracy", "macs"]).growth()[0] == 0.0
    assert Front.of([], ["accuracy"]).growth().shape == (0,) and Front.of([broken], ["accuracy"]).growth().tolist() == [
        0.0
    ]


def test_picture_of_little(tmp_path: Path) -> None:
    assert Front.of([], ["accuracy"]).picture(tmp_path / "none.png").exists()
    assert Front.of(SMALL, ["accuracy"]).picture(tmp_path / "one.png").exists()
    assert replace(toy_front(), teacher=TEACHER).picture(tmp_path / "other.png", across="latency_ms").exists()


def test_importing_search_imports_no_heavy_library() -> None:
    heavy = ["timm", "hydra", "wandb", "ray", "onnx", "onnxruntime", "matplotlib", "sklearn", "ofa.train", "ofa.conf"]
    code = f"import sys, ofa.search; print([m for m in {heavy} if m in sys.modules], len(ofa.search.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, exported = done.stdout.rsplit(maxsplit=1)
    assert loaded == "[]"
    assert int(exported) <= 15
