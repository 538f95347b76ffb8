"""Train small supernets on Fashion-MNIST in several ways for the same time, and write what their subnets reach.

python experiments/supernets/run.py [--seconds 80] [--seeds 0 1 2] [--folder FOLDER] [--only VARIANT …]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import ofa
from experiments import results
from experiments.supernets.networks import build
from ofa.train import FashionMNIST, Recipe, Sandwich, Supervised, evaluate, fit
from ofa.train.data import Splits
from ofa.train.data.splits import TensorSplit
from ofa.train.plan import estimates
from ofa.train.sampling import ProgressiveShrinking, Rule, SandwichRule, UniformRule
from ofa.train.sandwich import middle
from ofa.train.tasks import AdaptiveSoft, DistillationLoss
from ofa.train.tasks.distillation import Soft

RESULTS = Path(__file__).parent / "results.csv"
SPACE = ofa.SpaceConfig(width=(0.25, 0.5, 0.75, 1.0), divisor=4)
BATCH = 64
SIZES = ("smallest", "middle", "largest", "teacher")
SHARED = 0.5  # of a lone subnet's loss comes from the teacher


@dataclass(frozen=True)
class Variant:
    """A way to train: which subnets, what distance to whom, and whether units are sorted before."""

    rule: Rule
    soft: DistillationLoss = field(default_factory=AdaptiveSoft)
    taught: bool = True
    sort: bool = True


VARIANTS = {
    "sandwich": Variant(SandwichRule()),
    "shrinking": Variant(UniformRule(teacher_share=SHARED, schedule=ProgressiveShrinking())),
    "uniform": Variant(UniformRule(teacher_share=SHARED)),
    "sandwich, labels alone": Variant(SandwichRule(label_share=1.0), taught=False),
    "sandwich, soft": Variant(SandwichRule(), Soft()),
    "sandwich, in place": Variant(SandwichRule(), taught=False),
    "sandwich, unsorted": Variant(SandwichRule(), sort=False),
    "sandwich, half the time": Variant(SandwichRule()),
}
BOTH = ("sandwich", "shrinking", "uniform", "sandwich, half the time")  # on both backbones


def cut(splits: Splits, steps: int, validation: int = 1000) -> tuple[Splits, int]:
    """So many training pictures that a whole number of epochs has `steps` steps; gives that number, too."""
    train, held = splits.train, splits.validation
    assert isinstance(train, TensorSplit) and isinstance(held, TensorSplit)
    epochs = math.ceil(steps * BATCH / len(train))
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: steps // epochs * BATCH]
    part = replace(train, images=train.images[chosen], labels=train.labels[chosen])
    few = replace(held, images=held.images[:validation], labels=held.labels[:validation])
    return replace(splits, train=part, validation=few), epochs


def recipe(epochs: int, seed: int) -> Recipe:
    return Recipe(epochs, BATCH, "sgd", lr=0.1, weight_decay=1e-4, seed=seed)


def teacher(backbone: str, splits: Splits, seed: int, folder: Path) -> torch.nn.Module:
    """The backbone, trained alone for 1500 steps."""
    torch.manual_seed(seed)
    model = build(backbone)
    part, epochs = cut(splits, 1500)
    fit(Supervised(model, part), recipe(epochs, seed), path=folder / f"{backbone}-{seed}.pt")
    return model.requires_grad_(False)


def run(backbone: str, name: str, seed: int, seconds: float, splits: Splits, folder: Path) -> dict[str, Any]:
    """One training, and its subnets on the test split."""
    variant = VARIANTS[name]
    master = teacher(backbone, splits, seed, folder)
    student = build(backbone)
    student.load_state_dict(master.state_dict())
    supernet = ofa.Supernet(student, splits.example, SPACE)
    if variant.sort:
        supernet.sort()
    rule = replace(variant.rule, seed=seed)
    given = (supernet, splits, rule, variant.soft, master if variant.taught else None)
    learner = Sandwich(*given, calibration_batches=8)
    (estimate,) = estimates(learner, recipe(1, seed), {name: rule}, measured=12, clock=time.process_time)
    budget = seconds / 2 if "half" in name else seconds
    steps = max(int(budget / estimate.step_seconds), 20)
    part, epochs = cut(splits, steps)
    learner = replace(learner, splits=part)
    started = time.process_time()
    fit(learner, recipe(epochs, seed))
    row: dict[str, Any] = {"backbone": backbone, "variant": name, "seed": seed, "steps": steps}
    row["seconds"] = round(time.process_time() - started, 1)
    space = supernet.space
    for size, subnet in (("smallest", space.smallest), ("middle", middle(space)), ("largest", space.largest)):
        supernet.activate(subnet)
        supernet.calibrate(learner.calibration)
        row[size] = round(evaluate(supernet, splits.test.ordered(256))["accuracy"], 2)
    row["teacher"] = round(evaluate(master, splits.test.ordered(256))["accuracy"], 2)
    return row


def table() -> str:
    """Mean and standard deviation over the seeds, as Markdown."""
    lines = []
    for (backbone, name), rows in results.by(results.read(RESULTS), "backbone", "variant").items():
        steps = mean(float(row["steps"]) for row in rows)
        reached = [
            results.spread(row[figure] for row in rows) for figure in ("smallest", "middle", "largest", "teacher")
        ]
        lines.append([backbone, name, len(rows), f"{steps:.0f}", *reached])
    headings = ["backbone", "variant", "seeds", "steps", "smallest", "middle", "largest", "teacher"]
    return results.markdown(headings, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=80, help="of CPU time, for each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--folder", type=Path, default=Path("runs/supernets"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = FashionMNIST(size=28).load()
    known = results.by(results.read(RESULTS), "backbone", "variant", "seed")
    for seed, backbone in product(options.seeds, ("resnet20", "mobilenetv2")):
        for name in (n for n in options.only if backbone == "resnet20" or n in BOTH):
            if (backbone, name, str(seed)) not in known:
                results.append(RESULTS, run(backbone, name, seed, options.seconds, splits, options.folder))
    print(table())


if __name__ == "__main__":
    main()
