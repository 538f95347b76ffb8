"""How good are the networks of `make demo`, over seeds, and how long does it take?

A row of results.csv is a network that leaves (or the teacher), one of times.csv a stage; what is there is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from experiments import results
from experiments.finetune.run import composed
from ofa.conf.program.run import Run
from ofa.search.front import TEACHER

RESULTS, TIMES = (Path(__file__).with_name(name) for name in ("results.csv", "times.csv"))
SHARES = (0.1, 0.25, 0.5, 1.0)


def demo(folder: Path, seed: int, overrides: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The networks of one run with their figures, and the seconds of its stages."""
    course = composed("experiment=demo", f"seed={seed}", f"run={folder}", *overrides)
    run = Run.of(course.settings)
    took = course.execute(run)
    rows = run.folder.read("front.json")
    whole = next(row["macs"] for row in rows if row["name"] == TEACHER)
    return [{"seed": seed} | figures(row, whole) for row in rows], [
        {"seed": seed, "stage": stage, "seconds": round(seconds, 1)} for stage, seconds in took.items()
    ]


def figures(row: dict[str, Any], whole: float) -> dict[str, Any]:
    """Test and validation figures of a network, and what it has learned in finetuning."""
    names = ("accuracy", "accuracy_low", "accuracy_high", "validation_accuracy", "proposed_accuracy", "latency_ms")
    shown = {name: "" if row.get(name) is None else round(row[name], 4) for name in names}
    return {"network": row["name"], "share": round(row["macs"] / whole, 4), **shown}


def best(rows: Sequence[results.Row], share: float) -> results.Row | None:
    """The network that one would take under a share of the MACs: by the validation split, of equals the cheapest."""
    fitting = [row for row in rows if row["network"] != TEACHER and float(row["share"]) <= share]
    return max(fitting, key=lambda row: (float(row["validation_accuracy"]), -float(row["share"])), default=None)


def table() -> str:
    """Each seed's teacher and the best network under each share of the MACs, on the test split, as Markdown."""
    lines, below = [], dict[float, list[float]]()
    for (seed,), rows in results.by(results.read(RESULTS), "seed").items():
        teacher = next(float(row["accuracy"]) for row in rows if row["network"] == TEACHER)
        cells = []
        for share in SHARES:
            row = best(rows, share)
            below.setdefault(share, []).extend([] if row is None else [teacher - float(row["accuracy"])])
            cells.append("-" if row is None else f"{float(row['accuracy']):.2f} ({100 * float(row['share']):.0f} %)")
        lines.append([seed, f"{teacher:.2f}", *cells])
    gaps = [f"{results.spread(gap, 2)}, worst {max(gap):.2f}" if gap else "-" for gap in below.values()]
    lines.append(["below the teacher", "", *gaps])
    return results.markdown(["seed", "teacher", *(f"at most {share:g} of the MACs" for share in SHARES)], lines)


def times() -> str:
    """Means over the seeds, as Markdown."""
    stages = results.by(results.read(TIMES), "stage")
    seconds = {stage: mean(float(row["seconds"]) for row in rows) for (stage,), rows in stages.items()}
    return results.markdown([*seconds, "all"], [[f"{s:.0f} s" for s in (*seconds.values(), sum(seconds.values()))]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/demo-seeds"))
    parser.add_argument("overrides", nargs="*", help="of the demo's settings")
    options = parser.parse_args()
    for seed in options.seeds:
        if (str(seed),) not in results.by(results.read(RESULTS), "seed"):
            networks, stages = demo(options.folder.resolve() / str(seed), seed, options.overrides)
            results.append(RESULTS, *networks)
            results.append(TIMES, *stages)
    print(table(), times(), sep="\n\n")


if __name__ == "__main__":
    main()
