"""Tasks: what is learned from labels and how it is scored, and the learners that a batch teaches.

In: a network, `Splits`. Out: a loss, metrics. Uses `ofa.train.data`.
"""

from ofa.train.tasks.distillation import AdaptiveSoft, DistillationLoss, cross_entropy
from ofa.train.tasks.evaluation import device_of, evaluate, outputs
from ofa.train.tasks.learner import Constrained, Learner, Step, Supervised
from ofa.train.tasks.task import Classification, Mean, Metric, Task

__all__ = [
    "AdaptiveSoft",
    "Classification",
    "Constrained",
    "DistillationLoss",
    "Learner",
    "Mean",
    "Metric",
    "Step",
    "Supervised",
    "Task",
    "cross_entropy",
    "device_of",
    "evaluate",
    "outputs",
]
