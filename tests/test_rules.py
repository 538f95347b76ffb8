"""Which subnets a step trains: every rule draws valid ones, by the seed and the step alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch

from ofa import SpaceConfig, Subnet, Supernet
from ofa.space import sample_at_cost
from ofa.train.sampling import ProgressiveShrinking, Rule, SandwichRule, UniformRule
from ofa.train.sampling.forecast import LossForecast
from ofa.train.sampling.rules import AttentiveRule, MacsUniformRule
from ofa.train.sampling.schedules import Everything
from ofa.train.tasks import Step

RULES: list[Rule] = [SandwichRule(), UniformRule(nets=2), MacsUniformRule(nets=2), AttentiveRule(candidates=4)]


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", num_classes=10, in_chans=1)
    return Supernet(model, torch.zeros(1, 1, 32, 32), SpaceConfig(width=(0.25, 0.5, 0.75, 1.0), proof="off"))


def names(rule: Rule) -> str:
    return type(rule).__name__


@pytest.mark.parametrize("rule", RULES, ids=names)
@pytest.mark.parametrize("schedule", [Everything(), ProgressiveShrinking()], ids=names)  # type: ignore[arg-type]
def test_a_rule_draws_subnets_by_seed_and_step_alone(supernet: Supernet, rule: Rule, schedule: Any) -> None:
    from dataclasses import replace

    rule = replace(rule, schedule=schedule)
    drawn = [rule.draw(supernet, Step(number, 10)) for number in range(10)]
    assert drawn == [rule.draw(supernet, Step(number, 10)) for number in range(10)]
    assert drawn != [replace(rule, seed=1).draw(supernet, Step(number, 10)) for number in range(10)]
    for subnets in drawn:
        assert subnets
        for subnet in subnets:
            supernet.space.check(subnet)
            assert supernet.space.canonical(subnet) == subnet
    if isinstance(rule, SandwichRule):
        assert all(subnets[0] == supernet.space.largest for subnets in drawn)
        assert drawn[-1][1] == supernet.space.smallest and len(drawn[-1]) == 4


def test_macs_uniform_covers_the_range_that_uniform_leaves_out(supernet: Supernet) -> None:
    def macs(rule: Rule) -> np.ndarray[Any, Any]:
        subnets = [subnet for step in range(200) for subnet in rule.draw(supernet, Step(step, 200))]
        return supernet.costs(np.stack([supernet.space.encode(s) for s in subnets]))["macs"]

    low, high = (supernet.cost(s).macs for s in (supernet.space.smallest, supernet.space.largest))
    shares = {}
    for rule in (UniformRule(nets=2), MacsUniformRule(nets=2)):
        shares[type(rule)] = np.histogram(macs(rule), bins=5, range=(low, high))[0] / 400
    assert shares[MacsUniformRule].min() > 0.13  # a fifth each, but for chance
    assert shares[UniformRule].min() < 0.02


def test_targets_are_met(supernet: Supernet) -> None:
    low, high = (supernet.cost(s).macs for s in (supernet.space.smallest, supernet.space.largest))
    targets = np.linspace(low, high, 50)
    genomes = sample_at_cost(supernet.space, lambda g: supernet.costs(g)["macs"], targets, np.random.default_rng(0))
    found = supernet.costs(genomes)["macs"]
    assert np.median(np.abs(found - targets) / high) < 0.01
    assert found[0] == low and found[-1] == high
    assert len(np.unique(genomes, axis=0)) > 45


def test_attention_turns_to_the_best_or_the_worst_of_equal_macs(supernet: Supernet) -> None:
    space = supernet.space
    wide = next(choice for choice in space.choices if choice.kind == "width")

    def share(best: bool) -> float:
        """How often the width that lowers the loss is at its largest."""
        rule = AttentiveRule(candidates=6, best=best, examined=40, forecast=LossForecast())
        for _ in range(3):
            probes = rule.probes(space)
            rule.learn(space, probes, [0.0 if p[wide.name] == wide.largest else 1.0 for p in probes])
        drawn = [s for step in range(40) for s in rule.draw(supernet, Step(step, 40))[2:]]
        return sum(s[wide.name] == wide.largest for s in drawn) / len(drawn)

    assert share(best=True) > share(best=False) + 0.3


def test_a_forecast_is_kept_and_taken_up_again(supernet: Supernet) -> None:
    rule, other = AttentiveRule(forecast=LossForecast()), AttentiveRule(forecast=LossForecast())
    probes = rule.probes(supernet.space)
    rule.learn(supernet.space, probes, [0.1, 0.2, 0.3, 0.4])
    other.load_state_dict(rule.state_dict())
    assert other.probes(supernet.space) == rule.probes(supernet.space) != probes
    assert np.array_equal(other.forecast(supernet.space, probes), rule.forecast(supernet.space, probes))
    rule.learn(supernet.space, probes, [float("nan")] * 4)
    assert np.isfinite(rule.forecast(supernet.space, probes)).all()


def test_progressive_shrinking_opens_kernel_then_depth_then_width(supernet: Supernet) -> None:
    whole, schedule = supernet.space, ProgressiveShrinking(stages=2, last=1.0)
    kinds = [kind for kind, _, _ in schedule.phases(whole)]
    assert [k for i, k in enumerate(kinds) if k not in kinds[:i]] == ["kernel", "depth", "width"]

    def opened(progress: float) -> dict[str, int]:
        space = schedule.space(whole, progress)
        assert space.largest == whole.largest
        counts: dict[str, int] = {}
        for choice in space.choices:
            counts[choice.kind] = max(counts.get(choice.kind, 1), len(choice.options))
        return counts

    assert opened(0.0)["depth"] == opened(0.0)["width"] == 1 and opened(0.0)["kernel"] > 1
    middle = opened(0.5)
    assert middle["kernel"] > 1 and middle["depth"] > 1
    steps = [schedule.space(whole, p / 100).size for p in range(100)]
    assert steps == sorted(steps) and steps[-1] == whole.size


def test_progressive_shrinking_of_a_space_without_kernels_starts_with_what_there_is(supernet: Supernet) -> None:
    widths = [choice for choice in supernet.space.choices if choice.kind != "width"]
    space = supernet.space.restrict({choice.name: choice.options[-1:] for choice in widths})
    schedule = ProgressiveShrinking(stages=3)
    assert {kind for kind, _, _ in schedule.phases(space)} == {"width"}
    assert 1 < schedule.space(space, 0.0).size < space.size == schedule.space(space, 0.99).size


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (SandwichRule, {"randoms": -1}),
        (SandwichRule, {"teacher_share": 1.5}),
        (SandwichRule, {"label_share": -0.5}),
        (UniformRule, {"nets": 0}),
        (AttentiveRule, {"candidates": 0}),
        (AttentiveRule, {"examined": 0}),
        (ProgressiveShrinking, {"kinds": ("width", "colour")}),
        (ProgressiveShrinking, {"stages": 0}),
        (LossForecast, {"memory": 0.0}),
    ],
)
def test_meaningless_rules_are_refused(cls: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        cls(**wrong)


def test_a_subnet_of_a_part_is_one_of_the_whole(supernet: Supernet) -> None:
    part = ProgressiveShrinking().space(supernet.space, 0.5)
    rule = MacsUniformRule(nets=3, schedule=ProgressiveShrinking())
    for subnet in rule.draw(supernet, Step(5, 10)):
        part.check(subnet)
        assert isinstance(subnet, Subnet) and supernet.cost(subnet).macs > 0
