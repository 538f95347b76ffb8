"""Measure networks of several spaces on several devices, and see how well few of them predict the others.

python experiments/latency/run.py [--devices onnxruntime_cpu …] [--spaces resnet18 …] [--every 2] [--seconds 1]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import permutations
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments import results
from experiments.latency.spaces import FAMILIES, artefacts, population
from ofa.search import LatencyModel
from ofa.search.latency import DeviceFile, LatencyDevice, Meter, OnnxRuntime, OpenVino, TorchCpu
from ofa.search.prediction import (
    Boosted,
    Gaussian,
    MacsLine,
    Physical,
    Predictor,
    Table,
    Transferred,
    d_optimal,
    draw_errors,
    draw_predictions,
    maximin,
)

HERE = Path(__file__).parent
MEASURED, ERRORS, TRANSFER = (HERE / name for name in ("measured.csv", "errors.csv", "transfer.csv"))
DEVICES: dict[str, LatencyDevice] = {
    "onnxruntime_cpu": OnnxRuntime(),
    "torch_cpu": TorchCpu(),
    "openvino_cpu": OpenVino(),
    "onnxruntime_cpu-2": OnnxRuntime(threads=2),
    "torch_cpu-2": TorchCpu(threads=2),
}
NUMBERS = (10, 20, 50, 100)
SPLITS = 5
PREDICTORS: dict[str, Predictor] = {p.name: p for p in (MacsLine(), Physical(), Gaussian(), Boosted())}


def main() -> None:
    given = arguments()
    torch.set_num_threads(1)
    for device in given.devices:
        for space in given.spaces:
            measure(device, space, given.every, given.seconds)
            predict(device, space)
    for old, new in permutations(DEVICES, 2):
        for space in given.spaces:
            transfer(old, new, space)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", choices=list(DEVICES), default=["onnxruntime_cpu"])
    parser.add_argument("--spaces", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--every", type=int, default=2, help="measure every so many of 120 networks")
    parser.add_argument("--seconds", type=float, default=1.0, help="at most, a network")
    return parser.parse_args()


def measure(device: str, space: str, every: int, seconds: float) -> None:
    """Rows of measured.csv, unless they are there."""
    if known(device, space):
        return
    supernet, example = FAMILIES[space].supernet()
    networks, started = artefacts(supernet, example, population(supernet)[::every]), time.perf_counter()
    [anchor] = artefacts(supernet, example, supernet.space.encode(supernet.space.largest)[None])
    tool = type(DEVICES[device])(**{**vars(DEVICES[device]), "seconds": seconds})
    with DeviceFile(HERE / "devices.sqlite", tool) as file:
        meter = Meter(tool, file, anchor)
        latencies = [one.latency for one in meter.measure(networks, [space] * len(networks))]
        took, noise = time.perf_counter() - started, meter.noise_percent(networks)
    rows = [
        {"device": device, "space": space, "ms": f"{one.median_ms:.5g}", "interval": f"{one.share:.4f}"}
        | {"noise_percent": f"{noise:.2f}", "seconds": f"{took:.0f}", "features": json.dumps(network.features)}
        for one, network in zip(latencies, networks, strict=True)
    ]
    results.save(MEASURED, [*results.read(MEASURED), *rows])
    print(f"{device} {space}: {len(rows)} networks in {took:.0f} s, measured again {noise:.1f} %", flush=True)


def known(device: str, space: str) -> list[results.Row]:
    """What was measured."""
    return [row for row in results.read(MEASURED) if (row["device"], row["space"]) == (device, space)]


def table_of(rows: list[results.Row]) -> tuple[Table, np.ndarray[Any, Any]]:
    return Table.of_rows([json.loads(row["features"]) for row in rows]), np.array([float(row["ms"]) for row in rows])


def taken(table: Table, ms: np.ndarray[Any, Any], number: int, seed: int) -> tuple[list[int], list[int]]:
    """Networks to measure, chosen as the program chooses, from a random three quarters; the others are to predict."""
    pool = np.random.default_rng(seed).permutation(len(table))[: max(number, len(table) * 3 // 4)]
    mine = table.rows(pool)
    first = maximin(mine, min(6, number))
    guess = Physical().fit(mine.rows(first), ms[pool[first]])(mine)
    chosen = pool[first + d_optimal(mine, guess, first, number - len(first))].tolist()
    return chosen, sorted(set(range(len(table))) - set(chosen))


def predict(device: str, space: str) -> None:
    """Rows of errors.csv: every predictor at every number of networks, means over the splits."""
    rows = known(device, space)
    table, ms = table_of(rows)
    noise, curves = float(rows[0]["noise_percent"]), {name: dict[int, float]() for name in (*PREDICTORS, "chosen")}
    kept = [row for row in results.read(ERRORS) if (row["device"], row["space"]) != (device, space)]
    fresh: list[dict[str, Any]] = []
    for number in (n for n in NUMBERS if n <= len(table) - 10):
        found: dict[str, list[list[float]]] = {}
        for seed in range(SPLITS):
            chosen, others = taken(table, ms, number, seed)
            part, rest = table.rows(chosen), table.rows(others)
            for name, predictor in PREDICTORS.items():
                predicted = predictor.fit(part, ms[chosen])(rest)
                found.setdefault(name, []).append([*scores(predicted, ms[others]), np.nan, np.nan])
            model = LatencyModel.fit(part.features, ms[chosen])
            (low, high), predicted = model.interval(rest.features), model.predict(rest.features)
            inside = 100 * float(((low <= ms[others]) & (ms[others] <= high)).mean())
            assert model.held_out is not None
            found.setdefault("chosen", []).append([*scores(predicted, ms[others]), inside, model.held_out.percent])
        for name, each in found.items():
            error, rank, inside, held_out = (float(x) for x in np.mean(each, axis=0))
            curves[name][number] = error
            row = {"device": device, "space": space, "networks": number, "predictor": name, "mape": f"{error:.2f}"}
            row |= {"spearman": f"{rank:.4f}", "inside": f"{inside:.1f}", "held_out": f"{held_out:.2f}"}
            fresh.append(row | {"noise": f"{noise:.2f}"})
    results.save(ERRORS, [*kept, *fresh])
    draw_errors(HERE / f"pictures/{device}-{space}.png", curves, noise, f"{space} on {device}")
    chosen, others = taken(table, ms, 20, 0)
    model = LatencyModel.fit(table.rows(chosen).features, ms[chosen])
    names = [f"{table.macs[i] / 1e6:.1f} M" for i in others]
    predicted = model.predict(table.rows(others).features)
    title = f"{space} on {device}, from 20 networks"
    draw_predictions(HERE / f"pictures/{device}-{space}-20.png", ms[others], predicted, model.band, names, title)
    print(
        *(f"{r['networks']:>4} {r['predictor']:9} {r['mape']} % {r['spearman']}" for r in fresh), sep="\n", flush=True
    )


def scores(predicted: np.ndarray[Any, Any], true: np.ndarray[Any, Any]) -> list[float]:
    """Mean absolute error in per cent, and Spearman's rank correlation."""
    return [float(100 * np.abs(predicted / true - 1).mean()), float(spearmanr(predicted, true).statistic)]


def transfer(old: str, new: str, space: str) -> None:
    """Rows of transfer.csv: five and ten networks with an old device, beside as many and 20 from nothing."""
    there, here = known(old, space), known(new, space)
    if not there or not here or len(there) != len(here):
        return
    (table, before), (_, ms) = table_of(there), table_of(here)
    kept = [row for row in results.read(TRANSFER) if (row["old"], row["device"], row["space"]) != (old, new, space)]
    fresh = []
    for number in (5, 10, 20):
        errors: dict[str, list[float]] = {"transferred": [], "alone": []}
        for seed in range(SPLITS):
            chosen, others = taken(table, ms, number, seed)
            part, rest = table.rows(chosen), table.rows(others)
            for name, predictor in (("transferred", Transferred(table, before)), ("alone", Physical())):
                errors[name].append(scores(predictor.fit(part, ms[chosen])(rest), ms[others])[0])
        row = {"old": old, "device": new, "space": space, "networks": number}
        fresh.append(row | {name: f"{mean(values):.2f}" for name, values in errors.items()})
    results.save(TRANSFER, [*kept, *fresh])
    print(*fresh, sep="\n", flush=True)


if __name__ == "__main__":
    main()
