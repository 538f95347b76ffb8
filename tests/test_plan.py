"""The plan before a training: honest about what was measured, and without a trace in the model."""

import timm
import torch
from rich.console import Console

from ofa import SpaceConfig, Supernet
from ofa.train.data import Digits
from ofa.train.plan import estimates, known_rules, table
from ofa.train.recipe import Recipe
from ofa.train.sampling import ProgressiveShrinking, SandwichRule, UniformRule
from ofa.train.sampling.rules import MacsUniformRule
from ofa.train.sandwich import Sandwich


def test_a_plan_compares_rules_and_leaves_the_model_as_it_is() -> None:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", num_classes=10, in_chans=1)
    learner = Sandwich(Supernet(model, torch.zeros(1, 1, 32, 32), SpaceConfig(proof="off")), Digits().load())
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    recipe = Recipe(batch_size=32, epochs=10)
    passes: list[None] = []
    clock = learner.model.register_forward_hook(lambda *_: passes.append(None))
    rows = estimates(learner, recipe, known_rules(learner.rule), clock=lambda: float(len(passes)))  # whatever the load
    clock.remove()
    assert [row.name for row in rows] == ["sandwich", "uniform", "progressive shrinking"]
    assert [row.nets for row in rows] == [4, 1, 1]
    assert [row.step_seconds for row in rows] == [4, 1, 1]
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert all(p.grad is None for p in learner.model.parameters())
    console = Console(width=120, record=True, quiet=False)
    console.print(table(rows, recipe.epochs))
    text = console.export_text()
    assert "sandwich (chosen)" in text and "10 epochs of 33 steps" in text


def test_the_chosen_rule_comes_first_whatever_it_is() -> None:
    assert next(iter(known_rules(SandwichRule(randoms=5)))) == "sandwich"
    assert next(iter(known_rules(UniformRule(schedule=ProgressiveShrinking())))) == "progressive shrinking"
    names = list(known_rules(MacsUniformRule()))
    assert names == ["MacsUniformRule", "sandwich", "uniform", "progressive shrinking"]
