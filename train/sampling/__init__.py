"""Sampling: which subnets are trained in a step.

In: a search space, the step. Out: subnets. Uses `ofa.space`.
"""

from ofa.train.sampling.rules import Rule, SandwichRule, UniformRule
from ofa.train.sampling.schedules import ProgressiveShrinking

__all__ = [
    "ProgressiveShrinking",
    "Rule",
    "SandwichRule",
    "UniformRule",
]
