"""Every method with every search and every pruning: refused before the first epoch, or its search begins."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from composition import composed
from torch import nn

import ofa
from ofa.conf.program.building import build
from ofa.conf.program.course import Course
from ofa.search import Problem

CONF = Path(__file__).parents[1] / "conf"
METHODS, SEARCHES, PRUNINGS = (
    sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in ("method", "search", "pruning")
)
BUDGETS = ("null", "0.7")


def network() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


@cache
def supernet(space: str, kinds: tuple[str, ...]) -> ofa.Supernet:
    """The small network in the space of a method."""
    given: ofa.SpaceConfig = build(composed(f"space={space}").space, "space", ofa.SpaceConfig)
    assert given.kinds == kinds
    return ofa.Supernet(network(), torch.randn(2, 3, 8, 8), given)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("method", METHODS)
def test_settings_are_refused_before_the_first_epoch_or_the_search_begins(
    method: str, search: str, pruning: str, budget: str, tmp_path: Path
) -> None:
    path = tmp_path / "subnet.json"
    path.write_text(json.dumps({"subnet": {}, "network": "none"}))
    given = [f"search.path={path}"] if search == "specified" else []
    overrides = [f"method={method}", f"search={search}", f"pruning={pruning}", f"budget.macs={budget}", *given]
    config = composed(*overrides, f"run={tmp_path}")
    try:
        settings = Course.parse(config).settings
    except ValueError as problem:
        assert "budget" in str(problem) or "the space offers" in str(problem), problem
        return
    net = supernet(SPACES[method], settings.space.kinds)
    if search == "specified":
        path.write_text(json.dumps({"subnet": dict(net.space.smallest), "network": "none"}))
    problem = Problem.parse(net.space, settings.objectives, net.costs, settings.constraints, net.importance)
    assert settings.search.start(problem).ask()


SPACES = {method: "fine_grained" if method == "fine_grained" else "pruning" for method in METHODS} | {
    "once_for_all": "default"
}


def test_some_are_refused_and_most_are_not(tmp_path: Path) -> None:
    wrong = {
        ("method=once_for_all", "search=ranked"): "goes to a budget, and there is none",
        ("method=uniform", "budget.macs=null"): "pruning needs a budget",
        ("method=fine_grained", "search=ranked", "budget.macs=0.5"): "Ranked works on width, the space offers sparsity",
        ("method=uniform", "pruning.schedule=[0.8,0.6]"): "the schedule ends at 0.6, the budget is 0.5 of the network",
        ("method=iterative", "search=specified", "search.path=nowhere.json"): "nowhere.json holds no subnet",
        ("method=fine_grained", "pruning.schedule=[0.8,0.6]"): "this search stops by itself",
        ("method=uniform", "budget=0.5"): "a budget is a limit by cost, such as budget.macs=0.5, got budget=0.5",
        ("seed=first",): "^seed is a whole number, got 'first'",
        ("threads=0",): "^threads is a number of torch, at least 1, got 0",
        ("data=image_folder", "data.folder=pictures", "data.size=0"): "^data: size is the edge of a picture in pixels",
    }
    for overrides, words in wrong.items():
        with pytest.raises(ValueError, match=words.replace("[", r"\[")):
            Course.parse(composed(*overrides, f"run={tmp_path}"))
    assert np.prod([len(names) for names in (METHODS, SEARCHES, PRUNINGS, BUDGETS)]) >= 160
