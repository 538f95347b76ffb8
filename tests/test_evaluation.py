"""Evaluation: percent, over samples, leaving the model as it was."""

import pytest
import torch
from torch import Tensor, nn

from ofa.train.evaluation import evaluate, evaluating


class Echo(nn.Module):
    """Its outputs are its inputs."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def batches(sizes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(sum(sizes), 4, generator=generator)
    labels = torch.randint(0, 4, (sum(sizes),), generator=generator)
    return list(zip(logits.split(sizes), labels.split(sizes), strict=True))


def test_accuracy_is_in_percent_and_loss_a_mean_over_samples() -> None:
    logits = torch.tensor([[9.0, 0], [0, 9.0], [9.0, 0], [9.0, 0]])
    labels = torch.tensor([0, 1, 0, 1])
    figures = evaluate(Echo(), [(logits, labels)])
    assert figures["accuracy"] == 75.0
    assert figures["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item())


def test_neither_order_nor_size_of_the_batches_matters() -> None:
    whole = evaluate(Echo(), batches((100,)))
    parts = batches((40, 40, 13, 7))
    assert evaluate(Echo(), parts) == evaluate(Echo(), parts[::-1]) == pytest.approx(whole)


def test_every_module_gets_its_own_flag_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4))
    model.train()
    model[1].eval()
    with evaluating(model):
        assert not model.training and not model[0].training and not torch.is_grad_enabled()
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert torch.is_grad_enabled()
    first, second = evaluate(model, batches((30,))), evaluate(model, batches((30,)))
    assert first == second  # no dropout, no statistics moved


def test_nothing_to_evaluate_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="no batches"):
        evaluate(Echo(), [])
