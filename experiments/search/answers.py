"""Answers for every subnet, learned from a table: an ensemble of small networks, none of them a Gaussian process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import ofa
from experiments.search.network import MobileNetV3
from experiments.search.spaces import FOLDER, Known, Table, read
from experiments.search.table import OFFERED
from ofa.arrays import FloatArray
from ofa.search import Problem
from ofa.space import Genome, SearchSpace

MEMBERS, STEPS, HIDDEN = 5, 1500, 96


def encoded(space: SearchSpace, genomes: Genome) -> Tensor:
    """Every option of every choice as one number of 0 or 1; those of what is skipped all 0."""
    there = ~space.skipped(genomes)
    columns = [(genomes[:, i] == k) & there[:, i] for i, count in enumerate(space.counts) for k in range(count)]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def network(inputs: int) -> nn.Module:
    hidden = [nn.Linear(inputs, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU()]
    return nn.Sequential(*hidden, nn.Linear(HIDDEN, 1))


def fitted(inputs: Tensor, targets: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = network(inputs.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(inputs), (256,))
        loss = (net(inputs[rows])[:, 0] - targets[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


class Answers:
    """The ensemble's mean, in per cent."""

    def __init__(self, space: SearchSpace, nets: list[nn.Module], centre: float, scale: float) -> None:
        self.space, self.nets, self.centre, self.scale = space, nets, centre, scale

    @torch.no_grad()
    def __call__(self, genomes: Genome) -> FloatArray:
        inputs = encoded(self.space, genomes)
        mean = torch.stack([net(inputs)[:, 0] for net in self.nets]).mean(0).double().numpy()
        return np.asarray(self.centre + self.scale * mean)


def answers(table: Table, rows: slice = slice(None)) -> Answers:
    """Learned from some rows of the table."""
    accuracy = table.figures["accuracy"][rows]
    centre, scale = float(accuracy.mean()), float(accuracy.std())
    targets = torch.from_numpy(((accuracy - centre) / scale).astype(np.float32))
    inputs = encoded(table.space, table.genomes[rows])
    return Answers(table.space, [fitted(inputs, targets, seed) for seed in range(MEMBERS)], centre, scale)


def learned(table: Table) -> Known:
    """The table as a problem: costs from the backbone itself, which is converted again, untrained."""
    supernet = ofa.Supernet(MobileNetV3(), torch.zeros(2, 1, 28, 28), OFFERED)
    assert supernet.space.to_json() == table.space.to_json(), "the table is of another space"
    truth = answers(table)
    problem = Problem.parse(supernet.space, ["accuracy", "macs"], supernet.costs)
    return Known("fashion-mnist", problem, truth, table.noise)


def main() -> None:
    """How well the ensemble answers for rows that it has not learned from."""
    table = read(FOLDER / "table.csv.gz")
    order = np.random.default_rng(0).permutation(len(table.genomes))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    truth = answers(table, kept)  # type: ignore[arg-type]
    said, true = truth(table.genomes[held]), table.figures["accuracy"][held]
    print(
        f"{len(kept)} rows learned, {len(held)} held out: Kendall {kendalltau(said, true)[0]:.3f},"
        f" deviation {np.std(said - true):.3f} points; the noise of an evaluation is {table.noise:.3f}"
    )


if __name__ == "__main__":
    main()
