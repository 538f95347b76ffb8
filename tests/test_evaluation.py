"""Evaluation: percent, over samples, leaving the model as it was."""

import pytest
import torch
from torch import Tensor, nn

from ofa.tracing import evaluating
from ofa.train import evaluate
from ofa.train.tasks import Mean, Metric, Task


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
        assert not model.training and not model[0].training
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    first, second = evaluate(model, batches((30,))), evaluate(model, batches((30,)))
    assert first == second  # no dropout, no statistics moved


def test_nothing_to_evaluate_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="no batches"):
        evaluate(Echo(), [])


class Distance(Task):
    """How far outputs are from the targets, as numbers."""

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return (outputs - targets).abs().mean()

    def metrics(self, device: torch.device) -> dict[str, Metric]:
        return {"distance": Mean(lambda outputs, targets: (outputs - targets).abs(), device)}


class Scored(Distance):
    def metrics(self, device: torch.device) -> dict[str, Metric]:
        distance = super().metrics(device)["distance"]
        near = Mean(lambda outputs, targets: 100.0 * ((outputs - targets).abs() < 1), device)
        return {"accuracy": near, "loss": distance}


def test_another_task_has_metrics_of_its_own() -> None:
    batch = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.5, 5.0])
    assert evaluate(Echo(), [batch], Scored()) == {"accuracy": pytest.approx(200 / 3), "loss": pytest.approx(2.5 / 3)}
    with pytest.raises(ValueError, match="Distance has the metrics distance; it lacks accuracy"):
        evaluate(Echo(), [batch], Distance())
