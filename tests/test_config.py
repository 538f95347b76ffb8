"""Configurations: every one composes and builds, and a mistake in one is said clearly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from composition import composed
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ofa.conf.program.building import build, converted
from ofa.search import Objective
from ofa.search.latency import LatencyDevice
from ofa.search.objectives import objectives
from ofa.slicing import Importance, importances
from ofa.train import FashionMNIST
from ofa.train.data import DataSet
from ofa.train.masks import MaskUpdate
from ofa.train.tasks import DistillationLoss, Task

ROOT = Path(__file__).parents[1] / "conf"
GROUPS = (
    "data",
    "task",
    "teacher",
    "space",
    "supernet",
    "latency",
    "search",
    "pruning",
    "finetune",
    "export",
    "tracking",
)
KINDS: dict[str, type] = {"data": DataSet, "task": Task, "latency": LatencyDevice}
FOLDER = ["data.folder=/pictures"]
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((ROOT / group).glob("*.yaml"))]


def nodes(config: DictConfig) -> dict[str, Any]:
    return {group: config[group] for group in GROUPS if config[group]}


@pytest.mark.parametrize("experiment", [None, "demo", "fashion"])
@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_composes_and_builds(group: str, name: str, experiment: str | None) -> None:
    overrides = [f"{group}={name}"] + ([f"experiment={experiment}"] if experiment else [])
    given = {
        "image_folder": FOLDER,
        "cifar10": FOLDER,
        "cifar100": FOLDER,
        "specified": ["search.path=subnet.json"],
        "given": ["teacher.checkpoint=mine.pt"],
        "remote": ["latency.command='run {onnx} {runs}'"],
        "published": ["supernet.checkpoint=theirs.pth"],
        "timm": ["data.name=x", "data.num_classes=2"],
    }
    config = composed(*overrides, *given.get(name, []))
    for path, node in nodes(config).items():
        build(node, path, KINDS.get(path))


def test_every_option_of_a_setting_builds_and_is_of_its_kind() -> None:
    for kind in (Objective, Importance, MaskUpdate, DistillationLoss):
        names = [p.stem for p in (ROOT / re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()).glob("*.yaml")]
        assert len(names) > 1
        for name in names:
            assert isinstance(converted(name, kind, "here"), kind)
    assert set(objectives()) == {p.stem for p in (ROOT / "objective").glob("*.yaml")}
    assert set(importances()) == {p.stem for p in (ROOT / "importance").glob("*.yaml")}


def test_every_method_composes() -> None:
    for path in (ROOT / "method").glob("*.yaml"):
        for name, node in nodes(composed(f"method={path.stem}")).items():
            build(node, name)


def test_values_below_a_group_need_no_plus() -> None:
    config = composed("data.shift=0.2", "space.width=[0.5,1.0]", "teacher.recipe.warmup=0.2")
    assert build(config.data, "data").shift == 0.2
    assert build(config.space, "space").width == (0.5, 1.0)
    assert build(config.teacher, "teacher").recipe.warmup == 0.2


@pytest.mark.parametrize("supernet", ["sandwich", "uniform", "progressive_shrinking"])
def test_a_large_data_set_says_how_long_to_train_and_the_command_line_wins(supernet: str) -> None:
    config = composed("teacher.recipe.epochs=7", f"supernet={supernet}", "data.size=28", "data=fashion_mnist")
    data, teacher, training = (build(config[name], name) for name in ("data", "teacher", "supernet"))
    assert data == FashionMNIST(size=28)
    assert (teacher.recipe.epochs, teacher.recipe.batch_size) == (7, 64)
    assert training.recipe.epochs < 10 < build(composed().supernet, "supernet").recipe.epochs
    assert build(composed("data=fashion_mnist", "experiment=demo").supernet, "supernet").recipe.epochs == 18


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.sise=48", r"data\.sise is no setting of Digits; did you mean size"),
        ("teacher.recipe.epochs=abc", r"teacher\.recipe\.epochs is a whole number, got 'abc'"),
        ("teacher.recipe.epochs=0", r"teacher\.recipe: at least 1 epoch"),
        ("space.width=[0.5,2]", r"width ratios lie in \(0, 1\]"),
        ("space.divisor=none", r"space\.divisor is a whole number, got 'none'"),
        ("space.proof=maybe", r"proof is off, quick or full"),
        ("data._target_=os.system", r"data\._target_: 'os.system' is no class that can be made"),
        ("data._target_=Digits", r"data\._target_ names a class by its module, such as package.module.Class"),
        ("data._target_=ofa.train.Nothing", r"there is no 'ofa.train.Nothing'"),
        ("data._target_=nowhere.Nothing", r"there is no 'nowhere.Nothing'$"),
        ("data._target_=ofa.train.Recipe", r"'ofa.train.Recipe' is no DataSet: it has no load"),
        ("task._target_=ofa.train.Recipe", r"no Task: it does not inherit from ofa.train.tasks.task.Task"),
        ("latency._target_=subprocess.Popen", r"'subprocess.Popen' is no LatencyDevice: it does not inherit from"),
        (
            "supernet.sort=l3",
            r"supernet.sort: there is no importance 'l3'; there are fisher, fpgm, l1, l2, random, scale, taylor",
        ),
        ("supernet.sort={_target_: ofa.train.Recipe}", r"supernet.sort._target_: .* is no Importance"),
        ("supernet.soft=sharp", r"there is no distillation loss 'sharp'; there are adaptive_soft, soft"),
        ("pruning.finetuning.masking.update=ste", r"there is no mask update 'ste'; did you mean sr_ste"),
        ("data=image_folder", r"data\.folder must be given"),
        ("teacher=given", r"teacher: weights that stay as they are come from a file \(teacher\.checkpoint=mine\.pt\)"),
    ],
)
def test_mistakes_are_said_clearly(override: str, message: str) -> None:
    config = composed(override)
    with pytest.raises(ValueError, match=message):
        for path, node in nodes(config).items():
            build(node, path, KINDS.get(path))


def test_a_misspelt_key_at_the_top_is_refused() -> None:
    with pytest.raises(HydraException, match="sed"):
        composed("sed=1")


def test_yaml_holds_no_value_that_is_the_default_already() -> None:
    for group, name in OPTIONS:
        node: Any = OmegaConf.to_container(OmegaConf.load(ROOT / group / f"{name}.yaml"))
        node = node.get(group, node)
        if "_target_" not in node or name in ("image_folder", "cifar10", "cifar100", "timm", "specified", "remote"):
            continue
        default = build({"_target_": node["_target_"]}, group)
        for key, value in node.items():
            if key != "_target_" and isinstance(value, (str, int, float)) and "$" not in str(value):
                assert getattr(default, key) != value, (group, name, key)


def test_a_component_without_a_target_is_that_of_the_annotation() -> None:
    node = {"_target_": "ofa.conf.program.schema.SupernetTraining", "recipe": {"epochs": 3}}
    assert build(node, "supernet").recipe.epochs == 3
    with pytest.raises(ValueError, match=r"supernet.rule.schedule needs a _target_: which Schedule is meant"):
        build({"_target_": "ofa.train.SandwichRule", "schedule": {"stages": 3}}, "supernet.rule")
