"""Distillation losses against their closed forms."""

import math

import pytest
import torch
from torch import Tensor

from ofa.train.tasks import AdaptiveSoft, DistillationLoss, cross_entropy
from ofa.train.tasks.distillation import Soft, alpha_divergence

EVERY = [Soft(), Soft(temperature=4.0), AdaptiveSoft(), AdaptiveSoft(alpha_min=-0.5, alpha_max=2.0, clip=10)]


def logits(seed: int, scale: float = 0.3) -> Tensor:
    return scale * torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


def gradient(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at)[0]


def chi_square(student: Tensor, teacher: Tensor) -> Tensor:
    """Half of Σ q²/p - 1, the alpha-divergence at -1."""
    q, p = student.softmax(1), teacher.softmax(1)
    return ((q**2 / p).sum(1) - 1) / 2


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(1)


@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(loss: DistillationLoss) -> None:
    student = logits(0).requires_grad_()
    value = loss(student, student.detach() + 3.0)  # adding a constant changes no probability
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert gradient(value, student).abs().max() < 1e-6


@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_losses_are_means_over_the_batch_in_float32(loss: DistillationLoss) -> None:
    student, teacher = logits(0), logits(1)
    assert loss(student, teacher) > 0
    twice = loss(torch.cat([student, student]), torch.cat([teacher, teacher]))
    assert torch.allclose(twice, loss(student, teacher))
    assert loss(student.bfloat16(), teacher.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_the_teacher_gets_no_gradient_and_extremes_stay_finite(loss: DistillationLoss) -> None:
    student = (300 * logits(0)).requires_grad_()
    teacher = (-300 * logits(0)).requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert student.grad is not None and torch.isfinite(student.grad).all()
    assert teacher.grad is None


@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_other_classes_are_refused(loss: DistillationLoss) -> None:
    with pytest.raises(ValueError, match="same classes"):
        loss(torch.zeros(2, 5), torch.zeros(2, 7))


def test_soft_is_the_scaled_divergence_of_softened_outputs() -> None:
    student, teacher = logits(0), logits(1)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    assert Soft(3.0)(student, teacher).item() == pytest.approx(9 * kl(p, q).mean().item(), rel=1e-5)


@pytest.mark.parametrize("alpha", [-1.0, -0.5, 2.0, 1.0])
def test_alpha_divergences_have_the_value_and_gradient_of_their_closed_form(alpha: float) -> None:
    student, teacher = logits(0).double().requires_grad_(), logits(1).double()
    p, q = teacher.softmax(1), student.softmax(1)
    closed = kl(p, q) if alpha == 1 else ((p**alpha * q ** (1 - alpha)).sum(1) - 1) / (alpha * (alpha - 1))
    value = alpha_divergence(student.log_softmax(1), teacher.log_softmax(1), alpha, clip=math.inf)
    assert torch.allclose(value, closed)
    assert torch.allclose(gradient(value.sum(), student), gradient(closed.sum(), student))


def test_adaptive_soft_takes_the_larger_divergence_of_each_sample() -> None:
    student, teacher = logits(0), logits(1)
    low, high = chi_square(student, teacher), kl(teacher.softmax(1), student.softmax(1))
    assert 0 < (low > high).sum() < len(low)  # both sides win somewhere
    expected = torch.maximum(low, high)
    assert torch.allclose(AdaptiveSoft(clip=math.inf).per_sample(student, teacher), expected, atol=1e-6)


def test_clipping_bounds_the_ratio() -> None:
    student = torch.tensor([[8.0, 0.0]], requires_grad=True)  # q / p of the first class is far above 5
    teacher = torch.tensor([[0.0, 8.0]])
    q = student.detach().softmax(1)
    value = AdaptiveSoft(alpha_max=-1.0).per_sample(student, teacher)
    ratio = torch.tensor([5.0, (q[0, 1] / teacher.softmax(1)[0, 1]).item()])
    assert value.item() == pytest.approx(((q[0] * (ratio - 1)).sum() / 2).item(), rel=1e-5)
    steps = q[0] * ratio  # the gradient of Σ q ratio log q, ratio and q held
    assert torch.allclose(gradient(value.sum(), student)[0], steps - q[0] * steps.sum(), atol=1e-6)


def test_cross_entropy_takes_classes_or_probabilities() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    smooth = 0.9 * one_hot + 0.1 / 5
    assert torch.allclose(cross_entropy(logits(0), labels), cross_entropy(logits(0), one_hot))
    assert torch.allclose(cross_entropy(logits(0), labels, 0.1), cross_entropy(logits(0), smooth))


@pytest.mark.parametrize("make", [lambda: Soft(0.0), lambda: AdaptiveSoft(alpha_min=0.0)])
def test_meaningless_settings_are_refused(make: type) -> None:
    with pytest.raises(ValueError, match="got"):
        make()
