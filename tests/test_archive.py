import math
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from toy_space import accuracy, toy_costs, toy_space

from ofa import Subnet
from ofa.search import Archive, Evolution, run
from ofa.search.problem import Problem

FIRST, SECOND = Subnet({"width": 8, "kernel": 3}), Subnet({"width": 16, "kernel": 5})


def test_a_mapping_in_order_of_evaluation(tmp_path: Path) -> None:
    with Archive(tmp_path / "new" / "archive.sqlite") as archive:
        archive.add(SECOND, {"accuracy": 90}, seconds=1.5)
        archive.add(FIRST, {"accuracy": math.nan, "loss": math.inf})
    with Archive(tmp_path / "new" / "archive.sqlite") as archive:
        assert list(archive) == [SECOND, FIRST]
        assert archive[SECOND] == {"accuracy": 90.0}
        assert archive.record(SECOND).seconds == 1.5
        assert math.isnan(archive[FIRST]["accuracy"]) and archive[FIRST]["loss"] == math.inf
        assert Subnet({"kernel": 5, "width": 16}) in archive  # the order of choices does not matter
        assert Subnet({"width": 24, "kernel": 3}) not in archive


def test_nothing_is_added_twice(tmp_path: Path) -> None:
    with Archive(tmp_path / "archive.sqlite") as archive:
        archive.add(FIRST, {"accuracy": 1.0})
        with pytest.raises(ValueError, match="already holds"):
            archive.add(Subnet({"kernel": 3, "width": 8}), {"accuracy": 2.0})
        assert archive[FIRST] == {"accuracy": 1.0}


def test_metrics_are_numbers(tmp_path: Path) -> None:
    with Archive(tmp_path / "archive.sqlite") as archive, pytest.raises(ValueError, match="numbers by name"):
        archive.add(FIRST, {"accuracy": "high"})  # type: ignore[dict-item]


def test_other_context_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "archive.sqlite"
    with Archive(path, {"space": "a1", "weights": "b2"}) as archive:
        archive.add(FIRST, {"accuracy": 1.0})
    with pytest.raises(ValueError, match=r"weights was 'b2', is 'c3'; use another folder") as caught:
        Archive(path, {"space": "a1", "weights": "c3"})
    assert "space" not in str(caught.value).split("context:")[1]
    with pytest.raises(ValueError, match="context was 'not given', is 'd4'"):
        Archive(path, "d4")
    with Archive(path, {"weights": "b2", "space": "a1"}) as archive:
        assert len(archive) == 1


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 100)


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _holed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(bytes(content))


def _forged(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("UPDATE evaluations SET metrics = '{\"accuracy\": '")
    database.commit()
    database.close()


@pytest.mark.parametrize("damage", [_garbage, _torn, _holed, _forged])
def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "archive.sqlite"
    with Archive(path) as archive:
        for width in range(200):
            archive.add(Subnet({"width": width}), {"accuracy": 1.0})
    damage(path)  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"the archive .*archive\.sqlite is damaged"):
        Archive(path)
    assert path.read_bytes() == before


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match=r"cannot write the archive .*file/archive\.sqlite"):
        Archive(tmp_path / "file" / "archive.sqlite")
    with pytest.raises(ValueError, match="cannot write the archive"):
        Archive(tmp_path)


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
from toy_space import accuracy, toy_costs, toy_space
from ofa.search import Archive, Evolution, run
from ofa.search.problem import Problem

def evaluate(subnet):
    if len(archive) == {survivors}:
        os.kill(os.getpid(), signal.SIGKILL)
    return accuracy(subnet)

archive = Archive(sys.argv[1], "toy")
problem = Problem.parse(toy_space(), ["accuracy", "macs"], toy_costs)
search = Evolution(population=12, evaluations=40).start(problem, seed=3)
run(search, evaluate, archive)
"""


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    here = Path(__file__).parent
    script = KILLED.format(paths=[str(here), str(here.parent)], survivors=17)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "killed.sqlite")], env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL

    fronts, orders, evaluated = [], [], []
    for name in ("killed", "whole"):
        calls: list[Subnet] = []
        search = Evolution(population=12, evaluations=40).start(
            Problem.parse(toy_space(), ["accuracy", "macs"], toy_costs), 3
        )
        with Archive(tmp_path / f"{name}.sqlite", "toy") as archive:
            fronts.append(run(search, lambda subnet, calls=calls: calls.append(subnet) or accuracy(subnet), archive))
            orders.append([(subnet, archive[subnet]) for subnet in archive])
        evaluated.append(len(calls))
    assert evaluated == [23, 40]
    assert orders[0] == orders[1]
    assert fronts[0] == fronts[1]


def test_the_evaluation_of_the_faster_process_counts(tmp_path: Path) -> None:
    """Two archives of one file: both know what the first one found, and only one row is there."""
    subnet, path = Subnet({"stem": 8}), tmp_path / "archive.sqlite"
    with Archive(path) as first, Archive(path) as second:
        first.add(subnet, {"accuracy": 90.0}, 2.0)
        second.add(subnet, {"accuracy": 80.0}, 1.0)
        assert second.record(subnet) == first.record(subnet) and second[subnet] == {"accuracy": 90.0}
        with pytest.raises(ValueError, match="already holds"):
            second.add(subnet, {"accuracy": 70.0})
    with Archive(path) as third:
        assert dict(third) == {subnet: {"accuracy": 90.0}}
