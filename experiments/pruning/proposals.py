"""How many one-step proposals are inside the budget, beside drawing and rejecting, and where the time goes.

python experiments/pruning/proposals.py [--proposals 1000] [--candidates 20] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import ofa
from experiments import results
from experiments.pruning.sensitivity import prepared, timed
from ofa.search.problem import Problem
from ofa.search.pruning import OneStep
from ofa.space import Genome, SearchSpace

RESULTS = Path(__file__).parent / "proposals.csv"
NETWORKS = ("resnet18", "mobilenetv2_100", "mobilenetv3_small_100", "resnet50")
KEPT = (0.7, 0.5, 0.3)


def rejected(space: SearchSpace, removed: float, number: int, rng: np.random.Generator) -> Genome:
    """Draws as Vitis' one-step runner makes them: a normal distribution around a mean below the ratio."""
    low, high = (removed / 2, removed) if removed >= 0.5 else (0.0, removed / 2)
    mean, spread = rng.uniform(low, high, (number, 1)), rng.uniform(0, 0.3, (number, 1))
    kept = 1 - np.clip(rng.normal(mean, spread, (number, len(space))), 0.05, 0.9)
    return space.canonical_genomes(np.rint(kept * (space.counts - 1)).astype(np.int64))


def inside(macs: Any, band: tuple[float, float]) -> float:
    return round(float(np.mean((macs >= band[0]) & (macs <= band[1]))), 3)


def proposals(name: str, number: int) -> list[dict[str, Any]]:
    """One network's rows: shares of proposals inside the band, and seconds for so many."""
    torch.manual_seed(0)
    space = ofa.SpaceConfig(width="multiples", kernel=False, depth=False, divisor=8, proof="quick")
    supernet = ofa.Supernet(timm.create_model(name), torch.randn(1, 3, 64, 64), space)
    whole = supernet.cost(supernet.space.largest).macs
    rows = []
    for kept in KEPT:
        band = (kept - 0.01, kept + 0.01)
        search = OneStep(population=10).start(
            Problem.parse(supernet.space, ["accuracy"], supernet.costs, {"macs": list(band)})
        )
        started = time.process_time()
        proposed = search.proposer.propose(search.ledger, number, search.rng)
        seconds = time.process_time() - started
        drawn = rejected(supernet.space, 1 - kept, number, np.random.default_rng(0))
        accepted = len(search.problem.repaired(proposed, search.rng)) / number
        rows.append({
            "network": name, "MACs kept": kept, "constructed": inside(supernet.costs(proposed)["macs"] / whole, band),
            "accepted": round(accepted, 3), "drawn": inside(supernet.costs(drawn)["macs"] / whole, band),
            "ms": round(1e3 * seconds / number, 2),
        })  # fmt: skip
    return rows


def share_of_evaluations(folder: Path, candidates: int) -> float:
    """One search on the ResNet-20-like network with 1000 pictures: how much of its time is the evaluations'."""
    learner = prepared(folder, 1000)
    supernet = learner.supernet
    engine = OneStep(evaluations=candidates)
    search = engine.start(Problem.parse(supernet.space, ["accuracy"], supernet.costs, {"macs": [0.49, 0.5]}))
    seconds, inside = timed(search, learner)
    return inside / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proposals", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("runs/supernets"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in NETWORKS for row in proposals(name, given.proposals)]
    results.write(RESULTS, rows)
    print(f"evaluations: {share_of_evaluations(given.folder, given.candidates):.1%} of a search's time")


if __name__ == "__main__":
    main()
