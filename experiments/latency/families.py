"""Measure a hundred networks of many families, and see how well half of them predict the other half.

python experiments/latency/families.py [--networks 20] [--seconds 1]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments import results
from experiments.latency.run import PREDICTORS, SPLITS, scores, table_of
from experiments.latency.spaces import traced
from ofa.search import LatencyModel
from ofa.search.latency import Artefact, DeviceFile, Measurement, Meter, OnnxRuntime
from ofa.search.prediction import draw_predictions

HERE = Path(__file__).parent
MEASURED, ERRORS = HERE / "families.csv", HERE / "families_errors.csv"
SIZE, ANCHOR, GROUP = 128, "resnet18", 10
FITTED = 50  # or half of those that are measured, where they are fewer than twice as many
NETWORKS = (HERE / "families.txt").read_text().split()  # small ones of each family of timm


def main() -> None:
    given = arguments()
    torch.set_num_threads(1)
    measure(NETWORKS[: given.networks], given.seconds)
    predict()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=len(NETWORKS), help="how many, in order")
    parser.add_argument("--seconds", type=float, default=1.0, help="at most, a network")
    return parser.parse_args()


def measure(names: list[str], seconds: float) -> None:
    """Rows of families.csv, those that are not there, ten networks in turns."""
    device, anchor = OnnxRuntime(seconds=seconds), artefact(ANCHOR)
    known = {row["network"] for row in results.read(MEASURED)}
    left = [name for name in names if name not in known]
    with DeviceFile(HERE / "families.sqlite", device) as file:
        meter = Meter(device, file, anchor)
        for start in range(0, len(left), GROUP):
            group = {name: made for name in left[start : start + GROUP] if (made := runnable(name, device)) is not None}
            if not group:
                continue
            found = meter.measure(list(group.values()), list(group), afresh=True)
            print(f"measured again {meter.noise_percent(list(group.values())):.1f} %", flush=True)
            results.append(MEASURED, *map(row_of, found))


def row_of(one: Measurement) -> dict[str, str]:
    milliseconds = {"ms": f"{one.latency.median_ms:.5g}", "interval": f"{one.latency.share:.4f}"}
    return {"network": one.name, **milliseconds, "features": json.dumps(one.features)}


def artefact(name: str) -> Artefact:
    """A network of random weights, its statistics fitted: else what shrinks from layer to layer ends in denormals."""
    torch.manual_seed(0)
    try:
        network = timm.create_model(name, img_size=SIZE)
    except TypeError:
        network = timm.create_model(name)
    return Artefact(fitted(network), torch.rand(1, 3, SIZE, SIZE), traced)


@torch.no_grad()
def fitted(network: nn.Module) -> nn.Module:
    """With the statistics of one batch."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(torch.rand(8, 3, SIZE, SIZE))
    return network.eval()


def runnable(name: str, device: OnnxRuntime) -> Artefact | None:
    """A network that the device runs; the reason is shown where it does not."""
    try:
        one = artefact(name)
        device.load(one)
        assert one.features
    except (ValueError, RuntimeError, AssertionError) as error:
        print(f"{name}: {str(error).strip().splitlines()[:1]}", flush=True)
        return None
    return one


def predict() -> None:
    """Rows of families_errors.csv: every predictor, fitted to a random half, on the others, and a picture."""
    rows = results.read(MEASURED)
    table, ms = table_of(rows)
    fresh: list[dict[str, Any]] = []
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(rows))
        mine, others = np.split(order, [min(FITTED, len(rows) // 2)])
        part, rest = table.rows(mine), table.rows(others)
        model = LatencyModel.fit(part.features, ms[mine])
        low, high = model.interval(rest.features)
        inside = 100 * float(((low <= ms[others]) & (ms[others] <= high)).mean())
        predicted = {name: predictor.fit(part, ms[mine])(rest) for name, predictor in PREDICTORS.items()}
        for name, values in {**predicted, "chosen": model.predict(rest.features)}.items():
            error, rank = scores(values, ms[others])
            row = {"split": split, "predictor": name, "mape": f"{error:.2f}", "spearman": f"{rank:.4f}"}
            fresh.append(row | {"inside": f"{inside:.1f}" if name == "chosen" else ""})
    names = [rows[i]["network"] for i in others]
    title = f"timm at {SIZE} pixels, from {len(mine)} networks"
    draw_predictions(HERE / "pictures/families.png", ms[others], predicted["physical"], model.band, names, title)
    results.write(ERRORS, fresh)


if __name__ == "__main__":
    main()
