"""Tasks: what a network learns from a batch, and how it is scored.

In: a network, `Splits`. Out: a loss, metrics. Uses `ofa.train.data`.
"""

from ofa.train.tasks.distillation import AdaptiveSoft, SoftTargets, cross_entropy
from ofa.train.tasks.task import Constrained, Lesson, Step, Supervised

__all__ = [
    "AdaptiveSoft",
    "Constrained",
    "Lesson",
    "SoftTargets",
    "Step",
    "Supervised",
    "cross_entropy",
]
