"""A task: probabilities at a small squared distance (Brier, 1950); one more metric than needed."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ofa.train.tasks import Mean, Metric, Task


@dataclass(frozen=True)
class Brier(Task):
    def distances(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.softmax(1) - F.one_hot(targets, outputs.shape[1])).square().sum(1)  # (batch,)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        return self.distances(outputs, targets).mean()

    def metrics(self, device: torch.device) -> dict[str, Metric]:
        right = Mean(lambda outputs, targets: 100.0 * (outputs.argmax(1) == targets), device)
        sure = Mean(lambda outputs, targets: 100.0 * outputs.softmax(1).amax(1), device)
        return {"accuracy": right, "loss": Mean(self.distances, device), "sureness": sure}
