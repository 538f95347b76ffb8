"""Convert one small model of every family, prove it, and write what is elastic into results.csv.

python experiments/coverage/run.py [--only GLOB] [--again] [--limit SECONDS]
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from ofa.train.timm_import import timm  # noqa: F401, I001  (first: timm without the tracker that it imports along)
import numpy as np
import torch

import ofa
from experiments.coverage.families import build, families
from ofa.groups import constrain, find_groups
from ofa.tracing import trace

RESULTS = Path(__file__).parent / "results.csv"


@dataclass(frozen=True)
class Row:
    """One family: `status` is converted, partly (less than half of the parameters elastic), or what went wrong."""

    family: str
    model: str
    status: str
    edge: int = 0
    params: int = 0
    widths: int = 0
    kernels: int = 0
    depths: int = 0
    frozen_groups: int = 0
    params_elastic: float = 0.0
    params_elastic_with_depth: float = 0.0
    params_in_all_dimensions: float = 0.0
    params_in_some: float = 0.0
    params_in_none: float = 0.0
    macs_elastic: float = 0.0
    largest_macs: int = 0
    smallest_macs: int = 0
    error: float = 0.0
    largest_is_original: bool = False
    extracted_is_active: bool = False
    trace_seconds: float = 0.0
    convert_seconds: float = 0.0
    peak_mb: int = 0
    reasons: str = ""


def convert(family: str, name: str) -> Row:
    """Convert and check one model."""
    torch.set_num_threads(1)
    model, x = build(family, name)
    start = time.process_time()
    flow = trace(model, (x,), {})
    groups = find_groups(flow, constrain(flow, lambda _: None))
    traced = time.process_time() - start
    supernet = ofa.Supernet(model, x).eval()
    seconds = time.process_time() - start - traced
    space, report, found = supernet.space, supernet.report, supernet.conversion
    kinds = Counter(choice.kind for choice in space.choices)
    names = {choice.name for choice in space.choices if choice.kind in ("width", "kernel")}
    sized = sum(layer.params for layer in report.layers if names & set(layer.choices))
    params = sum(layer.params for layer in report.layers)
    frozen: Counter[str] = Counter()
    for layer in report.layers:
        frozen[layer.reason] += layer.params * (not layer.choices)
    share = sized / params
    every, some, none = report.shares
    largest, smallest = (supernet.cost(subnet).macs for subnet in (space.largest, space.smallest))
    return Row(
        family, name, "converted" if share >= 0.5 else "partly", x.shape[-1], params,
        kinds["width"], kinds["kernel"], kinds["depth"],
        sum(group.name in found.proved.failures for group in found.groups.groups),
        round(share, 4), round(report.elastic_share, 4), round(every, 4), round(some, 4), round(none, 4),
        round(macs_share(flow, groups, names), 4), largest, smallest,
        float(f"{report.error:.2g}"), same(model(x), supernet(x)), extracts(supernet, x),
        round(traced, 2), round(seconds, 1), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        " | ".join(f"{n / params:.0%} {why}" for why, n in frozen.most_common(4) if n),
    )  # fmt: skip


def macs_share(flow: Any, groups: Any, names: set[str]) -> float:
    """Share of the MACs in products of which at least one size is a choice."""
    numbers = [g for g, group in enumerate(groups.groups) if group.name in names]
    total = elastic = 0
    for product in flow.macs:
        macs = product.constant * int(np.prod([len(v) for v in product.vectors]))
        total += macs
        elastic += macs * any(np.isin(groups.group_of[v], numbers).any() for v in product.vectors)
    return elastic / max(total, 1)


def extracts(supernet: ofa.Supernet, x: torch.Tensor) -> bool:
    """Whether the smallest and two random subnets equal what is extracted, bit for bit."""
    rng, equal = np.random.default_rng(0), True
    for subnet in (supernet.space.smallest, *(supernet.space.sample(rng) for _ in range(2))):
        supernet.activate(subnet)
        equal = equal and same(supernet(x), supernet.extract()(x))
    return equal


def same(a: Any, b: Any) -> bool:
    left, right = (torch.utils._pytree.tree_leaves(t) for t in (a, b))
    return len(left) == len(right) and all(torch.equal(s, t) for s, t in zip(left, right, strict=True))


def in_process_of_its_own(family: str, name: str, limit: float) -> dict[str, Any]:
    """One row, whatever happens: a crash, or more than `limit` seconds, is a status."""
    command = [sys.executable, __file__, "--one", family, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return asdict(Row(family, name, f"more than {limit:.0f} s"))
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return asdict(Row(family, name, "crashed", reasons=lines[-1][:300]))


def known() -> dict[str, dict[str, Any]]:
    if not RESULTS.exists():
        return {}
    with RESULTS.open() as file:
        return {row["family"]: row for row in csv.DictReader(file)}


def write(rows: dict[str, dict[str, Any]]) -> None:
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[family] for family in sorted(rows))


def summary(rows: dict[str, dict[str, Any]]) -> str:
    half = [r for r in rows.values() if r["status"] == "converted"]
    proved = [r for r in half if str(r["largest_is_original"]) == str(r["extracted_is_active"]) == "True"]
    return (
        f"{len(proved)} of {len(rows)} families ({len(proved) / max(len(rows), 1):.1%}) at least half elastic, proved"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="glob on the family's name")
    parser.add_argument("--again", action="store_true", help="also families that have a row")
    parser.add_argument("--limit", type=float, default=180, help="seconds for one family")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with torch.no_grad():
            print(json.dumps(asdict(convert(*options.one))))
        return
    rows = known()
    for family, name in families():
        if not fnmatch.fnmatch(family, options.only) or (family in rows and not options.again):
            continue
        rows[family] = row = in_process_of_its_own(family, name, options.limit)
        write(rows)
        figures = f"{row['status']:10} {row['params_elastic']:6} {row['convert_seconds']:6}"
        print(f"{family:32} {figures} {row['reasons'][:140]}", flush=True)
    print(summary(rows))


if __name__ == "__main__":
    main()
