"""Sockets: the page that shows how to extend is true, and the main job runs with a foreign class in each of them."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign.data import Stripes
from foreign.importance import Spread
from foreign.network import small
from foreign.objective import EnergyMj
from foreign.task import Brier
from networks import build

import ofa
from ofa.search import Constraint, Front, ScoredNetwork
from ofa.search.objectives import CostObjective, Macs, priced
from ofa.search.problem import Problem
from ofa.train.saliency import gather
from ofa.train.tasks import Classification

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extending.md").read_text()
SHOWN = re.findall(r"^`foreign/(\S+)`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LINES = 25


def test_the_page_shows_the_foreign_package_as_it_is() -> None:
    shown = {name for name, _ in SHOWN}
    assert {path.name for path in (ROOT / "tests/foreign").glob("*.py")} - {"__init__.py"} <= shown
    for name, text in SHOWN:
        assert text == (ROOT / "tests/foreign" / name).read_text(), name
        assert len(text.splitlines()) < LINES, name


EXAMPLES = [
    path
    for folder in ("ofa", "search", "train", "conf")
    for path in (ROOT / folder).rglob("*.py")
    if re.search(r"^\s+>>> ", path.read_text(), re.MULTILINE)
]
OWN = sorted({path.resolve().relative_to(ROOT) for path in EXAMPLES})


@pytest.mark.parametrize("path", OWN, ids=str)
def test_examples_in_docstrings_run(path: Path) -> None:
    name = ".".join(path.with_suffix("").parts)
    module = importlib.import_module(name if path.parts[0] == "ofa" else f"ofa.{name}")
    done = doctest.testmod(module, extraglobs={"torch": torch, "nn": torch.nn})
    assert done.attempted and not done.failed


DOORS = sorted(
    ".".join(path.resolve().relative_to(ROOT).parent.parts)
    for folder in ("ofa", "search", "train")
    for path in (ROOT / folder).rglob("__init__.py")
    if "vitis" not in path.parts and "__all__" in path.read_text()
)


@pytest.mark.parametrize("door", DOORS)
def test_all_that_a_door_offers_has_an_example(door: str) -> None:
    """In its own docstring or a method's; an abstract class may have it on the page."""
    module = importlib.import_module(door if door.partition(".")[0] == "ofa" else f"ofa.{door}")
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            methods = vars(thing).values() if inspect.isclass(thing) else ()
            texts = [getattr(part, "__doc__", None) or "" for part in (thing, *methods)]
            assert any(">>> " in text for text in texts) or f"({name})" in PAGE, f"{door}.{name}"


def foreign(*more: str) -> subprocess.CompletedProcess[str]:
    """The page's command, from a folder of its own, as one who has installed both packages gives it."""
    (command,) = re.findall(r"^```sh\nofa (.*?)```$", PAGE, re.MULTILINE | re.DOTALL)
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    words = [sys.executable, "-m", "ofa.conf.program.command", *shlex.split(command.replace("\\\n", "")), *more]
    return subprocess.run(words, env=place, capture_output=True, text=True, timeout=500)


def test_the_main_job_runs_with_foreign_classes_in_all_sockets(tmp_path: Path) -> None:
    done = foreign(f"run={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "mJ" in done.stdout and "Ends (chosen)" in done.stdout
    teacher, *others = json.loads((tmp_path / "front.json").read_text())
    assert others and all(0 < row["energy_mj"] <= 0.5 * teacher["energy_mj"] for row in others)
    assert all(0 < row["sureness"] <= 100 and row["latency_ms"] > 0 for row in (teacher, *others))
    state = torch.load(tmp_path / "pruning/01/finetuned.pt", weights_only=True)
    assert state["learner"]["masks"]["made"]["update"] == "Slower(pace=0.5)"
    assert all(
        (tmp_path / row["files"]["half"]).exists() and row["half_difference"] < 0.1 for row in (teacher, *others)
    )
    assert (tmp_path / "card.md").read_text().startswith("# Striped networks\n\n- teacher: ")
    assert "prune/macs " in (tmp_path / "figures.txt").read_text()
    targets = (tmp_path / "settings.json").read_text()
    for name in ("data.Stripes", "task.Brier", "device.Clock", "rule.Ends"):
        assert f"foreign.{name}" in targets


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objectives=[accuracy,energy]", "objectives: there is no objective 'energy'; did you mean energy_mj"),
        ("budget.sureness=0.5", "a budget limits macs, params, weight_bytes, peak_bytes, latency_ms, got 'sureness'"),
        ("task=classification +task.smooth=1", "task.smooth is no setting of task=classification"),
        ("supernet.sort=breadth", "supernet.sort: there is no importance 'breadth'"),
        ("latency._target_=foreign.task.Brier", "latency._target_: 'foreign.task.Brier' is no LatencyDevice"),
        ("export.files=[weights,quarter]", "export.files: there is no exporter 'quarter'; there are half, onnx"),
        (
            "tracking._target_=foreign.task.Brier",
            "'foreign.task.Brier' is no Tracking: it has no start",
        ),
        ("stages=[teacher,{_target_:foreign.task.Brier}]", "stages._target_: 'foreign.task.Brier' is no Stage"),
        ("stages=[teacher,cart]", "stages: there is no stage 'cart'; did you mean card"),
        ("latency.warm_ups=many", "latency.warm_ups is a whole number, got 'many'"),
    ],
)
def test_a_mistake_in_a_foreign_part_is_said_in_one_line(override: str, message: str, tmp_path: Path) -> None:
    done = foreign(f"run={tmp_path}", *override.split())
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def supernet() -> ofa.Supernet:
    model, x = build("resnet")
    return ofa.Supernet(model, x, ofa.SpaceConfig(proof="off"))


def test_a_cost_of_ones_own_is_an_objective_and_a_limit_in_its_unit() -> None:
    net, energy = supernet(), EnergyMj()
    space = net.space
    problem = Problem.parse(space, ["accuracy", energy], priced(net, [energy]), [Constraint(energy, upper=0.5)])
    whole = problem.cost(space.largest)
    assert whole["energy_mj"] == pytest.approx(1e-9 * (4.6 * whole["macs"] + 640 * whole["weight_bytes"]))
    assert problem.constraints[0].range == (0.0, 0.5 * whole["energy_mj"])
    with pytest.raises(
        ValueError, match=r"energy_mj at most 1e-09 mJ; this space reaches energy_mj from .* mJ to .* mJ"
    ):
        limits = [Constraint(energy, upper=1e-9, absolute=True)]
        Problem.parse(space, ["accuracy"], priced(net, [energy]), limits).pool(np.random.default_rng(0), 4)


def test_costs_of_another_shape_are_refused() -> None:
    class Wrong(CostObjective):
        name, label = "wrong", "Wrong"

        def costs(self, supernet: ofa.Supernet, genomes: np.ndarray) -> np.ndarray:
            return np.zeros(3)

    net = supernet()
    with pytest.raises(ValueError, match=r"Wrong\.costs gives one number for each of 1 genomes, got shape \(3,\)"):
        priced(net, [Wrong()])(net.space.encode(net.space.largest)[None])


def test_a_picture_has_the_label_and_the_unit_of_ones_own_cost(tmp_path: Path) -> None:
    rows = [ScoredNetwork(f"n{i}", None, {"accuracy": 50.0 + i, "energy_mj": 0.5 + i}) for i in range(3)]
    text = Front.of(rows, ["accuracy", EnergyMj()]).picture(tmp_path / "front.svg").read_text()
    assert "Energy (mJ)" in text and "Accuracy (%)" in text
    assert Macs().axis(2e9) == ("MACs (G)", 1e9)


def test_an_importance_of_ones_own_orders_the_units() -> None:
    net = supernet().eval()
    net.sort(Spread())
    scores = net.importance(Spread())
    assert all((np.diff(values) <= 1e-4 * values.max()).all() for values in scores.values() if values.ndim == 1)


def test_gradients_for_an_importance_are_those_of_the_task() -> None:
    torch.manual_seed(0)
    splits = Stripes().load()
    net = ofa.Supernet(small(4, 1), splits.example, ofa.SpaceConfig(proof="off"))
    found = []
    for task in (Brier(), Classification(), None):
        gather(net, "taylor", splits, task, batches=1)
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    brier, classes, default = found
    assert not any(torch.equal(a, b) for a, b in zip(brier, classes, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(classes, default, strict=True))
    gather(net, Spread(), splits)
    assert all(p.grad is None for p in net.parameters())
