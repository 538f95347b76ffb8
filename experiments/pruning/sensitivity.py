"""What sensitivity analysis takes, on the full grid and on the adaptive one, and how far the two curves differ.

python experiments/pruning/sensitivity.py [--pictures 2000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import ofa
from experiments.supernets.networks import build
from experiments.supernets.run import teacher
from search import Archive, run
from search.sensitivity import Sensitivity, SensitivitySearch
from train import FashionMNIST, Sandwich
from train.splits import TensorSplit

RESULTS = Path(__file__).parent / "sensitivity.csv"
SPACE = ofa.SpaceConfig(width="multiples", kernel=False, depth=False, divisor=2, proof="quick")


def analysed(lesson: Sandwich, settings: Sensitivity) -> tuple[SensitivitySearch, dict[str, Any]]:
    """One analysis, and the time that is the evaluations'."""
    supernet = lesson.supernet
    started = time.process_time()
    search = settings.start(supernet.space, ["accuracy"], supernet.costs, {"macs": 0.5})
    inside = 0.0

    def evaluate(subnet: ofa.Subnet) -> dict[str, float]:
        nonlocal inside
        begun = time.process_time()
        figures = lesson.examine(subnet)
        inside += time.process_time() - begun
        return figures

    with tempfile.TemporaryDirectory() as folder, Archive(Path(folder) / "archive.sqlite", "") as archive:
        run(search, evaluate, archive)
    seconds = time.process_time() - started
    figures = {
        "evaluations": len(search.results),
        "seconds": round(seconds, 1),
        "other": round(1 - inside / seconds, 4),
    }
    return search, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000, help="of the validation split")
    parser.add_argument("--folder", type=Path, default=Path("runs/supernets"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    splits = FashionMNIST(size=28).load()
    held = splits.validation
    assert isinstance(held, TensorSplit)
    few = replace(held, images=held.images[: given.pictures], labels=held.labels[: given.pictures])
    splits = replace(splits, validation=few)
    master = teacher("resnet20", splits, 0, given.folder)
    student = build("resnet20")
    student.load_state_dict(master.state_dict())
    supernet = ofa.Supernet(student, splits.example, SPACE)
    supernet.sort()
    rows = []
    for recalibrate in (False, True):
        lesson = Sandwich(supernet, splits, recalibrate=recalibrate)
        full, whole = analysed(lesson, Sensitivity(adaptive=False))
        for name, ceiling in (("adaptive", 0.2), ("adaptive, no ceiling", 10.0)):
            few_points, figures = analysed(lesson, Sensitivity(ceiling=ceiling))
            base = full.problem.gains(full.results[full.problem.space.largest])[0]
            pairs = zip(full.curves.damages, few_points.curves.damages, full.grids, strict=True)
            gaps = [(base * np.abs(a - b)[grid], base * a[grid]) for a, b, grid in pairs]
            below = [gap[damage < ceiling * base] for gap, damage in gaps]
            rows.append({
                "statistics": "own" if recalibrate else "shared", "grid": name, **figures,
                "of the full grid's": round(figures["evaluations"] / whole["evaluations"], 3),
                "median gap": round(float(np.median(np.concatenate(below))), 3),
                "worst gap": round(max(float(gap.max(initial=0.0)) for gap in below), 3),
            })  # fmt: skip
        rows.append({"statistics": rows[-1]["statistics"], "grid": "full", **whole, "of the full grid's": 1.0})
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
