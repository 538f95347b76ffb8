"""Prune two backbones on Fashion-MNIST by every method to one budget, and write what the finetuned networks reach.

python experiments/pruning/run.py [--seeds 0 1 2] [--macs 0.25] [--epochs 3] [--folder FOLDER] [--only METHOD …]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from hydra import compose, initialize_config_module

from experiments import results
from ofa.conf.program.arguments import relaxed
from ofa.conf.program.command import execute

RESULTS = Path(__file__).parent / "results.csv"
BACKBONES = {
    "resnet20": "{_target_:experiments.supernets.networks.build,name:resnet20}",
    "mobilenetv2": "{_target_:experiments.supernets.networks.build,name:mobilenetv2}",
}
METHODS: dict[str, tuple[str, ...]] = {
    "uniform": ("method=uniform",),
    "ranked by L1": ("method=uniform", "search=ranked"),
    "ranked by Taylor": ("method=uniform", "search=ranked", "search.measure=taylor", "supernet.sort=taylor"),
    "one-step": ("method=one_step", "search.evaluations=20"),
    "iterative": ("method=iterative", "pruning.steps=3", "pruning.tolerance=null", "pruning.finetuning.trials=0"),
}


def settings(backbone: str, name: str, seed: int, macs: float, epochs: int) -> list[str]:
    """All methods have the same number of finetuning epochs, which iterative pruning shares out among its steps."""
    band = f"[{0.97 * macs},{macs}]" if name == "one-step" else str(macs)
    return [
        f"backbone={BACKBONES[backbone]}", f"seed={seed}", "data=fashion_mnist", "data.size=28",
        "teacher.recipe.epochs=2", "teacher.recipe.batch_size=64", *METHODS[name], "space.divisor=4",
        "space.proof=quick", f"pruning.finetuning.recipe.epochs={epochs // 3 if name == 'iterative' else epochs}",
        "pruning.validation_stride=2", f"budget.macs={band}",
    ]  # fmt: skip


def run(backbone: str, name: str, seed: int, macs: float, epochs: int, folder: Path) -> dict[str, Any]:
    """One method on one backbone; all methods begin with the same trained backbone."""
    shared, place = folder / f"{backbone}-{seed}", folder / f"{backbone}-{seed}-{name.replace(' ', '-')}"
    given = settings(backbone, name, seed, macs, epochs)
    execute(composed(f"run={shared}", *settings(backbone, "uniform", seed, macs, epochs), "stages=[teacher]"))
    if not place.exists():
        place.mkdir(parents=True)
        for file in ("teacher.pt", "done.json", "settings.json"):
            shutil.copy(shared / file, place / file)
    started = time.perf_counter()
    execute(composed(f"run={place}", *given))
    seconds = time.perf_counter() - started
    whole, *rows = json.loads((place / "front.json").read_text())
    row = min(rows, key=lambda r: r["macs"])
    figures = {"macs": row["macs"] / whole["macs"], "pruned": row["proposed_accuracy"], "test": row["accuracy"]}
    rounded = {key: round(value, 4) for key, value in {**figures, "teacher": whole["accuracy"]}.items()}
    return {"backbone": backbone, "method": name, "seed": seed, **rounded, "seconds": round(seconds)}


def composed(*overrides: str) -> Any:
    with initialize_config_module("ofa.conf", version_base="1.3"):
        return compose("config", overrides=[relaxed(o) for o in overrides])


def table() -> str:
    """Mean and standard deviation over the seeds, as Markdown."""
    lines = []
    for (backbone, name), rows in results.by(results.read(RESULTS), "backbone", "method").items():
        reached = [results.spread(row[figure] for row in rows) for figure in ("pruned", "test", "teacher")]
        lines.append([backbone, name, len(rows), f"{mean(float(row['macs']) for row in rows):.3f}", *reached])
    headings = ["backbone", "method", "seeds", "share of the MACs", "as pruned", "finetuned, test", "original, test"]
    return results.markdown(headings, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--macs", type=float, default=0.25, help="share of the MACs that is kept")
    parser.add_argument("--epochs", type=int, default=3, help="of finetuning, in all")
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--folder", type=Path, default=Path("runs/pruning"))
    given = parser.parse_args()
    known = results.by(results.read(RESULTS), "backbone", "method", "seed")
    for seed, backbone, name in product(given.seeds, given.backbones, given.only):
        if (backbone, name, str(seed)) not in known:
            results.append(RESULTS, run(backbone, name, seed, given.macs, given.epochs, given.folder))
    print(table())


if __name__ == "__main__":
    main()
