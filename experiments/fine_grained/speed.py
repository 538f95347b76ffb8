"""Time a network under N:M masks against the same network without, training steps and evaluation, in turns.

python experiments/fine_grained/speed.py [--rounds 9] [--models resnet50 mobilenetv2_100] [--sizes 64]
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from ofa.search.vitis import SparsePruner
from ofa.sparsity import Pattern, eligible, sparsify_inputs
from ofa.train.masks import SRSTE, Fixed, Magnitude, Masking
from ofa.train.masks.masking import Masks
from ofa.train.timm_import import timm

RESULTS = Path(__file__).parent / "speed.csv"
UPDATES = {"fixed": Fixed(), "magnitude": Magnitude(), "sr_ste": SRSTE()}
VARIANTS = (  # update, zeros of the weights, zeros of the activations
    ("fixed", Pattern(2, 4), None),
    ("magnitude", Pattern(2, 4), None),
    ("sr_ste", Pattern(2, 4), None),
    ("sr_ste", Pattern(8, 16), None),
    ("sr_ste", Pattern(12, 16), None),
    ("sr_ste", Pattern(12, 16), Pattern(8, 16)),
)
Work = Callable[[], object]


def seconds(work: Work) -> float:
    """Process time: with one thread, what the machine's other work does not take part in."""
    started = time.process_time()
    work()
    return time.process_time() - started


def training(net: nn.Module, images: Tensor, masks: Masks | None) -> Work:
    """A whole step: forward, backward, and an optimiser that takes little time itself."""
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    if masks is not None:
        masks.attach(optimizer)

    def step() -> None:
        net.train()
        optimizer.zero_grad()
        net(images).logsumexp(1).mean().backward()
        optimizer.step()

    return step


def evaluation(net: nn.Module, images: Tensor, masks: Masks | None) -> Work:
    def evaluate() -> None:
        net.eval()
        with torch.no_grad():
            net(images)

    return evaluate


def ratio(sparse: Work, dense: Work, rounds: int) -> float:
    """The median of sparse over dense of every round; who goes first changes from round to round."""
    rows = []
    for i in range(-2, rounds):
        order = (sparse, dense) if i % 2 else (dense, sparse)
        took = {work: seconds(work) for work in order}
        rows += [took[sparse] / took[dense]] if i >= 0 else []
    return median(rows)


def variants(dense: nn.Module) -> Iterator[tuple[list[str], nn.Module, Masks | None]]:
    """What is sparse and how it is renewed, the sparse copy of a network, and the masks that follow its optimiser."""
    for update, pattern, activations in VARIANTS:
        sparse = copy.deepcopy(dense)
        masks = Masking(UPDATES[update]).start(sparse, eligible(sparse, pattern)[0])
        if activations is not None:
            sparsify_inputs(sparse, eligible(sparse, activations)[0])
        yield [update, str(pattern), str(activations or "dense")], sparse, masks
    yield ["SparsePruner", "8:16", "dense"], SparsePruner(dense).sparse_model(0.5), None


def measure(name: str, size: int, rounds: int) -> Iterator[list[str]]:
    images, dense = torch.randn(32, 3, size, size), timm.create_model(name)
    for texts, sparse, masks in variants(dense):
        found = [
            ratio(make(sparse, images, masks), make(dense, images, None), rounds) for make in (training, evaluation)
        ]
        yield [name, str(size), *texts, *(f"{r:.3f}" for r in found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", nargs="+", default=["resnet50", "mobilenetv2_100"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "size", "update", "weights", "activations", "training", "evaluation"])
        for name in options.models:
            for size in options.sizes:
                for row in measure(name, size, options.rounds):
                    writer.writerow(row)
                    file.flush()
                    print(*row, flush=True)


if __name__ == "__main__":
    main()
