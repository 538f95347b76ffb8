"""A distillation loss: the distance of the logits themselves (Ba & Caruana, 2014)."""

from dataclasses import dataclass

from torch import Tensor

from ofa.train.tasks import DistillationLoss


@dataclass(frozen=True)
class LogitDistance(DistillationLoss):
    weight: float = 0.5

    def per_sample(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.weight * (student - teacher).square().mean(1)  # (batch,)
