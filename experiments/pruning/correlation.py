"""How well EagleEye's score ranks subnets before they are finetuned: plain, and after a short sandwich training.

python experiments/pruning/correlation.py [--seeds 0 1 2] [--candidates 30] [--steps 150]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from scipy.stats import kendalltau, spearmanr

sys.path.insert(0, str(Path(__file__).parents[2]))

import ofa
from experiments import results
from experiments.supernets.networks import build
from experiments.supernets.run import cut, recipe, teacher
from ofa.search.problem import Problem
from ofa.search.pruning import OneStep
from ofa.train import FashionMNIST, Sandwich, Supervised, evaluate, fit
from ofa.train.data import Splits
from ofa.train.data.splits import TensorSplit

RESULTS = Path(__file__).parent / "correlation.csv"
SPACE = ofa.SpaceConfig(width="multiples", kernel=False, depth=False, divisor=4, proof="quick")
BAND = (0.24, 0.25)  # of the MACs
SCORES = ("accuracy", "loss", "warmed accuracy", "warmed loss")


def supernet_of(master: torch.nn.Module, splits: Splits) -> ofa.Supernet:
    student = build("resnet20")
    student.load_state_dict(master.state_dict())
    supernet = ofa.Supernet(student, splits.example, SPACE)
    supernet.sort()
    return supernet


def candidates(supernet: ofa.Supernet, number: int, seed: int) -> list[ofa.Subnet]:
    """Random subnets inside the band."""
    engine = OneStep(population=number, evaluations=number)
    return engine.start(Problem.parse(supernet.space, ["accuracy"], supernet.costs, {"macs": BAND}), seed).ask()


def scored(learner: Sandwich, subnets: list[ofa.Subnet], prefix: str = "") -> list[dict[str, float]]:
    rows = [learner.evaluate_subnet(subnet) for subnet in subnets]
    return [{f"{prefix}{name}": round(row[name], 4) for name in ("accuracy", "loss")} for row in rows]


def finetuned(learner: Sandwich, subnet: ofa.Subnet, steps: int, seed: int, master: torch.nn.Module) -> float:
    """Accuracy on the validation split after so many steps: nothing here is chosen by test pictures."""
    learner.supernet.activate(subnet)
    learner.supernet.calibrate(learner.calibration)
    part, epochs = cut(learner.splits, steps)
    net = learner.supernet.extract()
    fit(Supervised(net, part, teacher=master), replace(recipe(epochs, seed), lr=0.02))
    return evaluate(net, learner.splits.validation.ordered(256))["accuracy"]


def run(seed: int, number: int, steps: int, splits: Splits, folder: Path) -> list[dict[str, Any]]:
    """One seed: every candidate's scores and what it reaches."""
    master = teacher("resnet20", splits, seed, folder)
    learner = Sandwich(supernet_of(master, splits), splits, teacher=master)
    subnets = candidates(learner.supernet, number, seed)
    plain = scored(learner, subnets)
    reached = [finetuned(learner, subnet, steps, seed, master) for subnet in subnets]
    warm = Sandwich(supernet_of(master, splits), cut(splits, steps)[0], teacher=master)
    fit(warm, replace(recipe(cut(splits, steps)[1], seed), lr=0.02))
    after = scored(replace(warm, splits=splits), subnets, "warmed ")
    rows = zip(plain, after, reached, strict=True)
    return [{"seed": seed, "candidate": i, **p, **w, "finetuned": round(r, 2)} for i, (p, w, r) in enumerate(rows)]


def table() -> str:
    """Rank correlations of each score with the finetuned accuracy, as Markdown; a loss counts negatively."""
    rows = results.read(RESULTS)
    lines = []
    for score in SCORES:
        sign = -1 if "loss" in score else 1
        rho, tau, picked, best, level = [], [], [], [], []
        for mine in results.by(rows, "seed").values():
            values = [sign * float(row[score]) for row in mine]
            reached = [float(row["finetuned"]) for row in mine]
            rho.append(float(spearmanr(values, reached)[0]))
            tau.append(float(kendalltau(values, reached)[0]))
            picked.append(reached[values.index(max(values))])
            best.append(max(reached))
            level.append(abs(mean(values)))
        lines.append([score, *(results.spread(v, 2) for v in (level, rho, tau, picked, best))])
    headings = ["score", "mean", "Spearman", "Kendall", "best of the score, finetuned", "best of all"]
    return results.markdown(headings, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--candidates", type=int, default=30)
    parser.add_argument("--steps", type=int, default=150, help="of finetuning, and of warming")
    parser.add_argument("--folder", type=Path, default=Path("runs/supernets"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    splits = FashionMNIST(size=28).load()
    held = splits.validation
    assert isinstance(held, TensorSplit)
    splits = replace(splits, validation=replace(held, images=held.images[:3000], labels=held.labels[:3000]))
    done = {int(row["seed"]) for row in results.read(RESULTS)}
    for seed in (s for s in given.seeds if s not in done):
        results.append(RESULTS, *run(seed, given.candidates, given.steps, splits, given.folder))
    print(table())


if __name__ == "__main__":
    main()
