"""The same families through Torch-Pruning 1.6.1 as shipped: half of every group's channels → peer.csv.

pip install --no-deps --target PEER torch-pruning==1.6.1
python experiments/coverage/peer.py --peer PEER [--limit SECONDS]
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from ofa.train.timm_import import timm  # noqa: F401, I001  (first: timm without the tracker that it imports along)
import torch
from torch import nn

from experiments.coverage.families import build, families

RESULTS = Path(__file__).parent / "peer.csv"
COLUMNS = ("family", "model", "status", "params", "params_left", "seconds", "reason")


def halve(family: str, name: str) -> dict[str, Any]:
    """Prune with the library's defaults: magnitude, ratio 0.5, the outputs' layers left alone."""
    import torch_pruning  # type: ignore[import-not-found]

    model, x = build(family, name)
    model.eval()
    before = sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        shape = model(x).shape
    started = time.perf_counter()
    outputs = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == shape[-1]]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model, x, torch_pruning.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=outputs
    )
    pruner.step()
    with torch.no_grad():
        after = model(x).shape
    left = sum(p.numel() for p in model.parameters()) / before
    status = "another output" if after != shape else "pruned" if left <= 0.6 else "partly"
    seconds = round(time.perf_counter() - started, 2)
    return {"status": status, "params": before, "params_left": round(left, 4), "seconds": seconds, "reason": ""}


def in_process_of_its_own(family: str, name: str, peer: str, limit: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--peer", peer, "--one", family, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"status": f"more than {limit:.0f} s"}
    lines = done.stdout.strip().splitlines()
    try:
        row: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        row = {"status": "crashed", "reason": (done.stderr.strip().splitlines() or ["?"])[-1][:160]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="folder that holds torch_pruning")
    parser.add_argument("--limit", type=float, default=120.0)
    parser.add_argument("--one", nargs=2, metavar=("FAMILY", "MODEL"))
    arguments = parser.parse_args()
    sys.path.append(arguments.peer)
    if arguments.one:
        try:
            row = halve(*arguments.one)
        except Exception as error:
            row = {"status": "crashed", "reason": f"{type(error).__name__}: {str(error)[:160]}"}
        print(json.dumps(row))
        return
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rows: dict[str, dict[str, Any]] = {row["family"]: row for row in csv.DictReader(lines)}
    for family, name in families():
        if family not in rows:
            row = in_process_of_its_own(family, name, arguments.peer, arguments.limit)
            rows[family] = {"family": family, "model": name, **row}
            with RESULTS.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, restval="")
                writer.writeheader()
                writer.writerows(rows.values())
            print(family, name, row["status"], row.get("reason", ""), flush=True)
    pruned = sum(row["status"] == "pruned" for row in rows.values())
    print(f"{pruned} of {len(rows)} families run with at most 60 % of their parameters")


if __name__ == "__main__":
    main()
