"""Time a subnet's ONNX file sliced from its supernet's graph, and exported, in turns.

python experiments/export/run.py [--subnets 8]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import ofa
from experiments import results
from ofa.export import export_onnx
from ofa.onnx_files import OnnxSupernet, difference
from ofa.train.timm_import import timm

RESULTS = Path(__file__).parent / "results.csv"
DEMO = ofa.SpaceConfig(policy="compound", width=(0.15, 0.25, 0.5, 0.75, 1.0), divisor=4)
NETWORKS = {  # edge of the pictures, channels, space
    "mobilenetv3_small_050": (32, 1, DEMO),  # the demo's
    "resnet50": (224, 3, ofa.SpaceConfig(proof="off")),
    "vit_small_patch16_224": (224, 3, ofa.SpaceConfig(proof="off")),
}


def seconds(work: Callable[..., object], *given: object) -> float:
    """CPU time of this thread."""
    started = time.thread_time()
    work(*given)
    return time.thread_time() - started


def timed(name: str, subnets: int) -> dict[str, object]:
    """Medians over subnets, each exported and sliced in turn."""
    edge, channels, space = NETWORKS[name]
    example = torch.randn(1, channels, edge, edge)
    model = timm.create_model(name, num_classes=10, in_chans=channels).eval()
    supernet, rng = ofa.Supernet(model, example, space), np.random.default_rng(0)
    exporter, apart = OnnxSupernet(supernet, print), []
    times: dict[str, list[float]] = {"exported": [], "sliced": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        first = seconds(exporter.export, supernet.extract(supernet.space.largest), example, path)
        for _ in range(subnets):
            network = supernet.extract(supernet.space.sample(rng))
            times["exported"].append(seconds(export_onnx, network, example, path))
            times["sliced"].append(seconds(exporter.export, network, example, path))
            apart.append(difference(path, network, example))
    figures = {f"{way}_s": f"{median(found):.3f}" for way, found in times.items()}
    return {
        "network": name,
        "first_s": f"{first:.1f}",
        **figures,
        "subnets": subnets,
        "difference": f"{max(apart):.1e}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subnets", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    for name in NETWORKS:
        results.put(RESULTS, row := timed(name, options.subnets), "network")
        print(row, flush=True)


if __name__ == "__main__":
    main()
