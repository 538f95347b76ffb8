"""Recipes of the field: every one composes and builds, its network converts, its space is as large as the paper's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from composition import composed

import ofa
from ofa.conf.program.course import Course
from ofa.train import create

ROOT = Path(__file__).parents[1] / "conf/experiment"
NAMES = sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*.yaml"))
SMALL = [name for name in NAMES if name.endswith("/small")]
TWINS_OF_OTHERS = ("alphanet", "bignas", "depgraph", "fpgm", "taylor", "vitis")  # the same network and space
RECIPES = sorted(path.parent.name for path in ROOT.glob("*/small.yaml"))


def course(name: str) -> Course:
    folder = ["data.folder=/pictures"] if name in RECIPES else []
    return Course.parse(composed(f"experiment={name}", "run=runs/here", *folder))


def space_of(name: str, channels: int, classes: int) -> ofa.Supernet:
    settings = course(name).settings
    backbone, arguments = settings.backbone
    size = getattr(settings.data, "size", None) or 32
    network = create(backbone, num_classes=classes, in_chans=channels, **arguments).eval()
    return ofa.Supernet(network, torch.randn(2, channels, size, size), replace(settings.space, proof="off"))


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_composes_and_builds(name: str) -> None:
    assert course(name).settings.backbone[0]


def test_every_recipe_says_where_it_is_from_what_was_published_and_how_it_is_run() -> None:
    for name in RECIPES:
        text = (ROOT / f"{name}.yaml").read_text()
        assert re.search(r"arXiv:\d|munoz22a|README|Cai et al|ModelOpt", text), name
        assert f"experiment={name}" in text and "not run here" in text, name


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n.partition("/")[0] in TWINS_OF_OTHERS else []) for n in SMALL]
)
def test_small_twins_convert(name: str) -> None:
    supernet = space_of(name, 1, 10)
    assert supernet.space.distinct > 1
    assert supernet.cost(supernet.space.smallest).macs < supernet.cost(supernet.space.largest).macs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "networks", "largest"),
    [("ofa_mobilenetv3", 4 * (9**2 + 9**3 + 9**4) ** 5, 566), ("compofa", 4 * 3**5 * 3**5, 566)],
)
def test_spaces_are_as_large_as_published(name: str, networks: float, largest: float) -> None:
    """Of once-for-all: 3 kernels and 3 expansions a block, 2 to 4 blocks, 5 stages; here at 4 resolutions."""
    supernet = space_of(name, 3, 1000)
    assert supernet.space.distinct == networks
    assert supernet.cost(supernet.space.largest).macs / 1e6 == pytest.approx(largest, rel=1e-3)
