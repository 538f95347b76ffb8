"""Put faults into the conversions of networks, and count those that their proofs notice.

python experiments/proof/run.py NAME… [--most 200] [--again]

A name is torchvision's, timm's, `module:factory` (it returns a network and an example input), or `all`: every family of
experiments/coverage. Results are appended to results.csv; what has a row there is not run again unless asked.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from ofa.train.zoo import timm  # noqa: I001  (first: timm without the tracker that it imports along)
import torch
import torchvision
from torch import nn

from experiments.coverage.families import build, families
from experiments.proof.power import Power, line, power

RESULTS = Path(__file__).parent / "results.csv"
COLUMNS = ("name", "tried", "noticed", "equal", "sensitivity", "seconds", "missed")


def network(name: str) -> tuple[nn.Module, Any]:
    """A network in evaluation mode, and the smallest image that it runs on."""
    module, _, factory = name.partition(":")
    if factory:
        model, example = getattr(importlib.import_module(module), factory)()
        return model.eval(), example
    known = torchvision.models.list_models()
    library = "torchvision" if name in known and name not in timm.list_models() else "timm"
    return build(f"{library if name not in known else 'torchvision'}.x", name)


def measure(name: str, most: int) -> None:
    """One network: its line, and its row."""
    torch.manual_seed(0)
    start = time.perf_counter()
    model, example = network(name)
    found = power(name, model, example, most)
    seconds = time.perf_counter() - start
    print(line(found, seconds), flush=True)
    for missed in found.missed:
        print(f"  missed: {missed}", flush=True)
    append(found, seconds)


def append(found: Power, seconds: float) -> None:
    rows = {row["name"]: row for row in known()}
    sensitivity, missed = f"{found.sensitivity:.1e}", " | ".join(found.missed)
    values = (found.name, found.tried, found.noticed, found.equal, sensitivity, f"{seconds:.0f}", missed)
    rows[found.name] = dict(zip(COLUMNS, map(str, values), strict=True))
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))


def known() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open() as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--most", type=int, default=200, help="faults that are tried in a network")
    parser.add_argument("--again", action="store_true", help="with `all`: also networks that have a row")
    parser.add_argument("--limit", type=float, default=600, help="with `all`: seconds for one network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.names != ["all"]:
        for name in options.names:
            measure(name, options.most)
        return
    done = set() if options.again else {row["name"] for row in known()}
    for _, name in families():
        if name not in done:
            command = [sys.executable, __file__, name, "--most", str(options.most)]
            try:
                status = subprocess.run(command, timeout=options.limit, check=False).returncode
            except subprocess.TimeoutExpired:
                status = f"more than {options.limit:.0f} s"
            if status:
                print(f"{name} failed: {status}", flush=True)


if __name__ == "__main__":
    main()
