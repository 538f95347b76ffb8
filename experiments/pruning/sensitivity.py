"""What sensitivity analysis takes, on the full grid and on the adaptive one, and how far the two curves differ.

python experiments/pruning/sensitivity.py [--seeds 0 1 2] [--pictures 3000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import ofa
from experiments import results
from experiments.supernets.networks import build
from experiments.supernets.run import teacher
from ofa.search import Archive, Search, run
from ofa.search.evaluation import Evaluate
from ofa.search.objectives import Floats
from ofa.search.problem import Problem
from ofa.search.pruning import Analysis, Sensitivity
from ofa.train import FashionMNIST, Sandwich
from ofa.train.data.splits import TensorSplit

RESULTS = Path(__file__).parent / "sensitivity.csv"
SPACE = ofa.SpaceConfig(width="multiples", kernel=False, depth=False, divisor=2, proof="quick")
GRIDS = {"adaptive": Sensitivity(), "adaptive, no ceiling": Sensitivity(ceiling=10.0)}


def analysed(learner: Sandwich) -> tuple[Search, dict[str, Any]]:
    """The analysis on the full grid, its process time, and the share of it that is not the evaluations'."""
    search = Sensitivity(adaptive=False).start(
        Problem.parse(learner.supernet.space, ["accuracy"], learner.supernet.costs)
    )
    seconds, inside = timed(search, learner)
    return search, {"seconds": round(seconds, 1), "other": round(1 - inside / seconds, 4)}


def timed(search: Search, learner: Sandwich) -> tuple[float, float]:
    """Run a search; gives the process time that it took, and what of it was evaluations."""
    inside = 0.0

    def evaluate(subnet: ofa.Subnet) -> dict[str, float]:
        nonlocal inside
        begun = time.process_time()
        figures = learner.evaluate_subnet(subnet)
        inside += time.process_time() - begun
        return figures

    started = time.process_time()
    carry_out(search, evaluate)
    return time.process_time() - started, inside


def carry_out(search: Search, evaluate: Evaluate) -> None:
    """Run a search to its end; its archive is not kept."""
    with tempfile.TemporaryDirectory() as folder, Archive(Path(folder) / "archive.sqlite", "") as archive:
        run(search, evaluate, archive)


def compared(full: Search, learner: Sandwich, settings: Sensitivity) -> dict[str, Any]:
    """An adaptive grid, whose points are some of the full one's, beside it; gaps in points of accuracy."""
    few = settings.start(Problem.parse(learner.supernet.space, ["accuracy"], learner.supernet.costs))
    carry_out(few, full.results.__getitem__)
    base = full.problem.gains(full.results[full.problem.space.largest])[0]
    pairs = zip(damages(full), damages(few), analysis(full).grids, strict=True)
    gaps = np.concatenate([
        base * np.abs(a - b)[grid][a[grid] < settings.ceiling] for a, b, grid in pairs
    ])  # fmt: skip
    return {
        "evaluations": len(few.results), "of the full grid's": round(len(few.results) / len(full.results), 3),
        "median gap": round(float(np.median(gaps)), 3), "within a point": round(float(np.mean(gaps <= 1)), 3),
        "worst gap": round(float(gaps.max()), 3),
    }  # fmt: skip


def analysis(search: Search) -> Analysis:
    assert isinstance(search.proposer, Analysis)
    return search.proposer


def damages(search: Search) -> tuple[Floats, ...]:
    return analysis(search).curves(search.ledger).damages


def prepared(folder: Path, pictures: int, seed: int = 0) -> Sandwich:
    """The trained ResNet-20-like network, made elastic; part of the validation split."""
    splits = FashionMNIST(size=28).load()
    held = splits.validation
    assert isinstance(held, TensorSplit)
    splits = replace(splits, validation=replace(held, images=held.images[:pictures], labels=held.labels[:pictures]))
    student = build("resnet20")
    student.load_state_dict(teacher("resnet20", splits, seed, folder).state_dict())
    supernet = ofa.Supernet(student, splits.example, SPACE)
    supernet.sort()
    return Sandwich(supernet, splits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=3000, help="of the validation split")
    parser.add_argument("--folder", type=Path, default=Path("runs/supernets"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for seed, statistics in product(given.seeds, ("shared", "own")):
        learner = replace(prepared(given.folder, given.pictures, seed), recalibrate=statistics == "own")
        full, time_taken = analysed(learner)
        which = {"seed": seed, "statistics": statistics}
        rows.append({**which, "grid": "full", "evaluations": len(full.results), **time_taken})
        rows += [{**which, "grid": name, **compared(full, learner, settings)} for name, settings in GRIDS.items()]
    results.write(RESULTS, rows)


if __name__ == "__main__":
    main()
