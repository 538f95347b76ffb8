"""Train one supernet on Fashion-MNIST, and write what thousands of its subnets reach: random ones, and searched ones.

python experiments/search/table.py [--epochs 4] [--random 2400] [--searched 400] [--workers 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import ofa
from experiments.search.network import MobileNetV3
from ofa.search import Archive, Evolution, Problem, run
from ofa.search.engines import Engine, Listed
from ofa.search.evaluation import Evaluate, Map, Result
from ofa.search.sampling import skewed
from ofa.search.workers import workers
from ofa.train import FashionMNIST, Recipe, Sandwich, fit
from ofa.train.data import Splits
from ofa.train.sampling import SandwichRule

FOLDER = Path(__file__).parent
TABLE, SPACE, NOISE = FOLDER / "table.csv.gz", FOLDER / "space.json", FOLDER / "noise.csv"
OFFERED = ofa.SpaceConfig(policy="hidden", width=(0.25, 0.5, 0.75, 1.0), proof="quick")
SEEDS, REPEATED, REPEATS = 3, 40, 5  # searches; subnets evaluated again, with so many other calibrations
COSTS = ("macs", "params", "peak_bytes")


@dataclass(frozen=True)
class Scores:
    """Accuracy and loss of a subnet, with statistics from the pictures that `seed` draws."""

    learner: Sandwich
    seed: int = 0

    def __call__(self, subnet: ofa.Subnet) -> dict[str, float]:
        learner = replace(self.learner, rule=SandwichRule(seed=self.seed))
        return learner.evaluate_subnet(subnet)


def trained(splits: Splits, epochs: int, device: str, folder: Path) -> Sandwich:
    """The supernet, from scratch, its largest subnet teaching the others."""
    torch.manual_seed(0)
    supernet = ofa.Supernet(MobileNetV3(), splits.example, OFFERED).to(device)
    learner = Sandwich(supernet, splits, calibration_batch=256, calibration_batches=4, validation_batch=1000)
    fit(learner, Recipe(epochs, 256, "sgd", lr=0.1, weight_decay=1e-4), path=folder / "supernet.pt")
    return learner


def evaluated(learner: Sandwich, path: Path, random: int, searched: int, evaluate: Evaluate, map: Map) -> None:
    """Random subnets all over the costs, then what searches ask for; an archive goes on where it stopped."""
    space = learner.supernet.space
    drawn = np.unique(skewed(space, np.random.default_rng(0), random), axis=0)
    problem = Problem.parse(space, ["accuracy", "macs"], learner.supernet.costs)
    engines: list[Engine] = [Listed(tuple(space.decode(genome) for genome in drawn))]
    engines += [Evolution(evaluations=searched)] * SEEDS
    with Archive(path) as archive:
        for seed, engine in enumerate(engines):
            run(engine.start(problem, seed), evaluate, archive, told, map)


def told(result: Result) -> None:
    if result.done % 50 == 0:
        print(f"{result.done} of {result.total}: {result.metrics['accuracy']:.2f}", flush=True)


def write(learner: Sandwich, path: Path) -> None:
    """The archive as a table: option indices, accuracy, loss, exact costs."""
    space = learner.supernet.space
    SPACE.write_text(space.to_json())
    with Archive(path) as archive:
        genomes = np.stack([space.encode(subnet) for subnet in archive])
        costs = learner.supernet.costs(genomes)
        metrics = list(archive.values())
    with gzip.open(TABLE, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(choice.name for choice in space.choices), "accuracy", "loss", *COSTS])
        for i, (genome, found) in enumerate(zip(genomes, metrics, strict=True)):
            figures = [f"{found['accuracy']:.4f}", f"{found['loss']:.5f}", *(int(costs[name][i]) for name in COSTS)]
            writer.writerow([*genome.tolist(), *figures])


def noise(learner: Sandwich) -> None:
    """The same subnets with statistics from other pictures: how far an evaluation is from itself."""
    space = learner.supernet.space
    drawn = skewed(space, np.random.default_rng(1), REPEATED)
    with NOISE.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["macs", *(f"calibration {k}" for k in range(REPEATS))])
        for genome in drawn:
            scores = [Scores(learner, seed)(space.decode(genome))["accuracy"] for seed in range(REPEATS)]
            writer.writerow([int(learner.supernet.costs(genome[None])["macs"][0]), *(f"{s:.4f}" for s in scores)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--random", type=int, default=2400)
    parser.add_argument("--searched", type=int, default=400, help="evaluations of each of three searches")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:0")
    parser.add_argument("--data", default=FashionMNIST.folder)
    parser.add_argument("--folder", type=Path, default=Path("runs/search"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    splits = FashionMNIST(folder=given.data, size=28).load()
    learner = trained(splits, given.epochs, given.device, given.folder)
    print(f"{len(learner.supernet.space)} choices; the largest: {Scores(learner)(learner.supernet.space.largest)}")
    archive = given.folder / "archive.sqlite"
    devices = () if given.device == "cpu" else (given.device,)
    with workers(Scores(learner), given.workers, devices) as (evaluate, map):
        evaluated(learner, archive, given.random, given.searched, evaluate, map)
    write(learner, archive)
    noise(learner)


if __name__ == "__main__":
    main()
