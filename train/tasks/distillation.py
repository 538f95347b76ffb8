"""Losses from labels, and distances to a teacher (Hinton et al., 2015; AlphaNet, Wang et al., 2021).

Logits are (batch, classes); every loss is a mean over the batch, computed in float32 whatever the autocast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The loss from labels: class indices (batch,), or probabilities (batch, classes) as mixup makes them.

    >>> round(cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 3)
    0.127
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


@dataclass(frozen=True)
class DistillationLoss(ABC):
    """A distance from a student's outputs to a teacher's, which receives no gradient: one class, named in
    `conf/distillation_loss/NAME.yaml`. Outputs are logits, (batch, classes).

    >>> class Distance(DistillationLoss):
    ...     def per_sample(self, student, teacher):
    ...         return (student - teacher).square().mean(1)
    >>> Distance()(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])).item()
    2.0
    """

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over the batch.

        Raises:
            ValueError: student and teacher differ in the number of classes.
        """
        if student.shape != teacher.shape:
            raise ValueError(
                f"student's outputs {tuple(student.shape)}, teacher's outputs {tuple(teacher.shape)}:"
                " they need the same classes"
            )
        return self.per_sample(student.float(), teacher.detach().float()).mean()

    @abstractmethod
    def per_sample(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The distance of each sample, (batch,)."""


@dataclass(frozen=True)
class Soft(DistillationLoss):
    """KL(teacher ‖ student) at `temperature`, times its square so that gradients keep their size (Hinton et al., 2015).

    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> Soft(temperature=4.0)(logits, logits).item()
    0.0

    Raises:
        ValueError: the temperature is not above 0.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature is above 0, got {self.temperature}")

    def per_sample(self, student: Tensor, teacher: Tensor) -> Tensor:
        q, p = (F.log_softmax(logits / self.temperature, 1) for logits in (student, teacher))
        return (p.exp() * (p - q)).sum(1) * self.temperature**2


@dataclass(frozen=True)
class AdaptiveSoft(DistillationLoss):
    """The larger, per sample, of the alpha-divergences at `alpha_min` and `alpha_max` (AlphaNet).

    A positive alpha punishes a student that misses what the teacher believes, a negative one a student that
    believes what the teacher rules out. Ratios are clipped at `clip`, which bounds the gradient.

    >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    >>> bool(AdaptiveSoft()(student, teacher) > AdaptiveSoft()(teacher, teacher))
    True

    Raises:
        ValueError: an alpha of 0.
    """

    alpha_min: float = -1.0
    alpha_max: float = 1.0
    clip: float = 5.0

    def __post_init__(self) -> None:
        if self.alpha_min == 0 or self.alpha_max == 0:
            raise ValueError(f"alpha is not 0, got alpha_min={self.alpha_min}, alpha_max={self.alpha_max}")

    def per_sample(self, student: Tensor, teacher: Tensor) -> Tensor:
        q, p = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
        low, high = (alpha_divergence(q, p, alpha, self.clip) for alpha in (self.alpha_min, self.alpha_max))
        return torch.maximum(low, high)


def alpha_divergence(student: Tensor, teacher: Tensor, alpha: float, clip: float) -> Tensor:
    """D_alpha(teacher ‖ student) of log-probabilities, (batch,), with AlphaNet's gradient.

    The value is the divergence. The gradient is -Σ q rho_f(p/q) ∇log q: the divergence's own where
    nothing is clipped, and bounded where something is.

    >>> student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    >>> round(alpha_divergence(student, teacher, alpha=-1.0, clip=5.0).item(), 4)
    0.1667
    """
    if alpha == 1.0:  # the limit, KL(teacher ‖ student), whose ratio AlphaNet does not clip
        return (teacher.exp() * (teacher - student)).sum(1)
    q = student.detach().exp()
    ratio = ((teacher - student.detach()) * alpha).exp().clamp(max=clip)
    value = (q * (ratio - 1)).sum(1) / (alpha * (alpha - 1))
    surrogate = -(q * ratio / alpha * student).sum(1)
    return surrogate + (value - surrogate).detach()
