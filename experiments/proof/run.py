"""Put faults into the conversions of networks, and count those that their proofs notice.

python experiments/proof/run.py NAME… [--most 200] [--again]

A name is torchvision's or timm's (`timm.vgg11` where both have it), `module:factory` (it returns a network and an
example input), or `all`: every family of experiments/coverage. Each has a row in results.csv, and `all` leaves out
those that have one.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torchvision
from torch import nn

from experiments import results
from experiments.coverage.families import build, families
from experiments.proof.power import line, power

RESULTS = Path(__file__).parent / "results.csv"
LIBRARIES = ("torchvision", "timm")


def network(name: str) -> tuple[nn.Module, Any]:
    """A network in evaluation mode, and the smallest image that it runs on."""
    module, _, factory = name.partition(":")
    if factory:
        model, example = getattr(importlib.import_module(module), factory)()
        return model.eval(), example
    library, _, rest = name.partition(".")
    if library in LIBRARIES:
        return build(library, rest)
    return build(LIBRARIES[name not in torchvision.models.list_models()], name)


def measure(name: str, most: int) -> None:
    """One network: its line, and its row."""
    torch.manual_seed(0)
    start = time.perf_counter()
    found = power(name, *network(name), most)
    seconds = time.perf_counter() - start
    print(line(found, seconds), flush=True)
    for missed in found.missed:
        print(f"  missed: {missed}", flush=True)
    row = {**asdict(found), "sensitivity": f"{found.sensitivity:.1e}", "seconds": f"{seconds:.0f}"}
    results.put(RESULTS, {**row, "missed": " | ".join(found.missed)}, "name")


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
    done = set() if options.again else {row["name"] for row in results.read(RESULTS)}
    for family, model in families():
        name = f"{family.partition('.')[0]}.{model}"
        if name not in done:
            command = [sys.executable, __file__, name, "--most", str(options.most)]
            try:
                status = str(subprocess.run(command, timeout=options.limit, check=False).returncode or "")
            except subprocess.TimeoutExpired:
                status = f"more than {options.limit:.0f} s"
            if status:
                print(f"{name} failed: {status}", flush=True)


if __name__ == "__main__":
    main()
