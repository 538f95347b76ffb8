"""Time subnets on slices against the same subnets extracted, training and evaluation, in turns.

python experiments/speed/slices.py [--rounds 15] [--subnets 4] [--device cuda]
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import ofa
from ofa.train.timm_import import timm

RESULTS = Path(__file__).parent / "slices.csv"


def seconds(work: Callable[[], object], device: str) -> float:
    """Process time: with one thread, what the machine's other work does not take part in; of a GPU, wall time."""
    clock = time.process_time if device == "cpu" else synchronised
    started = clock()
    work()
    return clock() - started


def synchronised() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def train(net: nn.Module, images: Tensor) -> None:
    """Forward and backward, as a training does: the gradients are there already and added to."""
    net(images).logsumexp(1).sum().backward()


def evaluate(net: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        net(images)


def ratios(work: Callable[[nn.Module, Tensor], None], active: nn.Module, static: nn.Module, rounds: int) -> list[float]:
    """Active over static of every round; who goes first changes from round to round."""
    device = next(static.parameters()).device.type
    images, rows = torch.randn(32, 3, 112, 112, device=device), []
    for i in range(-2, rounds):
        order = (active, static) if i % 2 else (static, active)
        took = {net: seconds(lambda net=net: work(net, images), device) for net in order}  # type: ignore[misc]
        rows += [took[active] / took[static]] if i >= 0 else []
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--subnets", type=int, default=4)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS if options.device == "cpu" else RESULTS.with_name("slices_cuda.csv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "subnet", "macs_share", "training", "evaluation"])
        for name in ("resnet50", "mobilenetv2_100"):
            supernet = ofa.Supernet(timm.create_model(name), torch.randn(1, 3, 112, 112)).to(options.device)
            space, rng = supernet.space, np.random.default_rng(0)
            whole = supernet.cost(space.largest).macs
            drawn = [space.largest, space.smallest, *(space.sample(rng) for _ in range(options.subnets))]
            every: dict[str, list[float]] = {"training": [], "evaluation": []}
            for i, subnet in enumerate(drawn):
                static = supernet.extract(subnet)
                supernet.activate(subnet)
                found = {}
                for mode, work in (("training", train), ("evaluation", evaluate)):
                    supernet.train(mode == "training")
                    static.train(mode == "training")
                    found[mode] = ratios(work, supernet, static, options.rounds)
                    every[mode] += found[mode]
                label = ("largest", "smallest")[i] if i < 2 else f"random {i - 1}"
                share = supernet.cost(subnet).macs / whole
                writer.writerow([name, label, f"{share:.2f}", *(f"{median(v):.3f}" for v in found.values())])
                file.flush()
                print(name, label, f"{share:.2f}", {m: round(median(v), 3) for m, v in found.items()}, flush=True)
            writer.writerow([name, "all", "", *(f"{median(v):.3f}" for v in every.values())])
            print(name, "all", {m: round(median(v), 3) for m, v in every.items()}, flush=True)


if __name__ == "__main__":
    main()
