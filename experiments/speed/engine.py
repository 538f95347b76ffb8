"""Time the engine: tracing and grouping, its memory, `activate`, `extract`, and the costs of a population.

python experiments/speed/engine.py
"""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import ofa
from ofa.groups import constrain, find_groups
from ofa.tracing import trace
from ofa.train.timm_import import timm

RESULTS = Path(__file__).parent / "engine.csv"


def seconds(work: Callable[[], object], times: int = 5) -> float:
    """Median process time, on one thread."""
    took = []
    for _ in range(times):
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return median(took)


def grouped(model: torch.nn.Module, x: torch.Tensor) -> None:
    flow = trace(model, (x,), {})
    find_groups(flow, constrain(flow, lambda _: None))


def added_mb(name: str, traced: bool) -> float:
    """Peak memory that one tracing, or one forward pass, adds to the loaded network; a fresh process, Linux."""
    torch.set_num_threads(1)
    model, x = timm.create_model(name).eval(), torch.randn(1, 3, 224, 224)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = status_kb("VmRSS")
    if traced:
        grouped(model, x)
    else:
        with torch.no_grad():
            model(x)
    return (status_kb("VmHWM") - before) / 1024


def status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def fresh_mb(name: str, traced: bool) -> float:
    """`added_mb` in a process of its own."""
    command = [sys.executable, __file__, "--memory", name, str(int(traced))]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    torch.set_num_threads(1)
    rows: list[tuple[str, str, float, str]] = []
    x = torch.randn(1, 3, 224, 224)
    for name in ("resnet50", "densenet121"):
        model = timm.create_model(name).eval()
        grouped(model, x)
        rows.append((name, "trace and group, s", seconds(lambda model=model: grouped(model, x)), "1.5"))  # type: ignore[misc]
        forward, tracing = (median(fresh_mb(name, traced) for _ in range(3)) for traced in (False, True))
        rows.append((name, "memory of tracing / of a forward pass", tracing / forward, "3"))
    supernet = ofa.Supernet(timm.create_model("resnet50"), x, ofa.SpaceConfig(proof="off")).eval()
    rng = np.random.default_rng(0)
    subnets = [supernet.space.sample(rng) for _ in range(21)]
    turns = iter(subnets)
    rows.append(("resnet50", "activate, first time, s", seconds(lambda: supernet.activate(next(turns)), 21), ""))
    turns = iter(subnets)
    rows.append(("resnet50", "activate, again, s", seconds(lambda: supernet.activate(next(turns)), 21), "0.005"))
    turns = iter(subnets)
    rows.append(("resnet50", "extract, s", seconds(lambda: supernet.extract(next(turns)), 21), "0.3"))
    genomes = rng.integers(0, supernet.space.counts, (10_000, len(supernet.space)))
    rows.append(("resnet50", "costs of one subnet, s", seconds(lambda: supernet.costs(genomes[0]), 21), ""))
    rows.append(("resnet50", "costs of 10,000 subnets, s", seconds(lambda: supernet.costs(genomes)), "0.5"))
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "what", "measured", "goal, below"))
        writer.writerows((model, what, f"{value:.3g}", goal) for model, what, value, goal in rows)
    print(RESULTS.read_text())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print(added_mb(sys.argv[2], bool(int(sys.argv[3]))))
    else:
        main()
