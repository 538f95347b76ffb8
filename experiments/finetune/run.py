"""Do the networks of a front learn better each by itself or together? At equal CPU time, on the digits of `make demo`.

A row of results.csv is one network after one finetuning; what is there already is left out.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from hydra import compose, initialize_config_module
from torch import nn

from experiments import results
from ofa.conf.program.arguments import relaxed
from ofa.conf.program.course import Course
from ofa.conf.program.proposals import Proposals, network
from ofa.conf.program.run import Run
from ofa.conf.program.stages.finetune import FinetuneFront
from ofa.conf.program.students import circle
from ofa.search import ScoredNetwork
from ofa.train import evaluate
from ofa.train.plan import duration

RESULTS = Path(__file__).with_name("results.csv")


@dataclass(frozen=True)
class Variant:
    """A way to finetune: overrides, and the variant whose CPU time it has, if it is not as long as its recipe says."""

    overrides: tuple[str, ...]
    time_of: str = ""


VARIANTS = {
    "short": Variant(("finetune=short",)),
    "shared": Variant(("finetune=shared",), "short"),
    "labels alone": Variant(("finetune=short", "finetune.teacher_share=0")),
    "shared, greatest rate": Variant(("finetune=shared", "finetune.recipe.lr=0.1"), "short"),
    "full": Variant(("finetune=full",)),
    "shared, as long as full": Variant(("finetune=shared",), "full"),
}


def composed(*overrides: str) -> Course:
    with initialize_config_module("ofa.conf", version_base="1.3"):
        return Course.parse(compose("config", overrides=[relaxed(override) for override in overrides]))


def job(folder: Path, seed: int, *overrides: str) -> Run:
    """A run of the demo with a front in it."""
    given = ("experiment=demo", f"seed={seed}", f"run={folder}", "reuse=true", "stages=[teacher,supernet,search]")
    course = composed(*given, *overrides)
    run = Run.of(course.settings)
    course.execute(run)
    return run


def epochs_of(run: Run, seconds: float) -> int:
    """How many epochs of a training together take so much CPU time."""
    subnets = [row.subnet for row in Proposals.load(run).chosen(run) if row.subnet is not None]
    recipe = run.settings.finetune.recipe
    learner = circle(run, tuple(subnets))
    an_epoch = duration(learner, recipe, measured=12, clock=time.process_time) / recipe.epochs
    return max(1, round(seconds / an_epoch))


def tested(run: Run, row: ScoredNetwork) -> float:
    net: nn.Module = network(run, row)
    pictures = ((run.supernet.resize(images, row.subnet), labels) for images, labels in run.splits.test.ordered(256))
    return round(evaluate(net, pictures, run.settings.task)["accuracy"], 2)


def finetuned(place: Path, seed: int, name: str) -> list[dict[str, Any]]:
    """The networks of a front before and after a finetuning, timed from its beginning."""
    variant, folder = VARIANTS[name], place / f"{seed}-{name.replace(', ', '-').replace(' ', '-')}"
    job(place / str(seed), seed)
    overrides = [*variant.overrides]
    if variant.time_of:
        known = results.by(results.read(RESULTS), "seed", "variant")[str(seed), variant.time_of]
        epochs = epochs_of(job(folder, seed, *overrides), float(known[0]["seconds"]))
        overrides += [f"finetune.recipe.epochs={epochs}", "finetune.times=1"]
    run = job(folder, seed, *overrides)
    shutil.rmtree(folder / "finetuned", ignore_errors=True)
    before = Proposals.load(run, finetuned=False)
    was = {row.name: tested(run, row) for row in before.chosen(run)}
    assert run.teacher
    started = time.process_time()
    FinetuneFront().run(run)
    seconds = time.process_time() - started
    after, whole = Proposals.load(run), before.teacher.metrics["macs"]
    common = {"seed": seed, "variant": name, "epochs": run.settings.finetune.lengthened.recipe.epochs}
    common |= {"seconds": round(seconds, 1), "teacher test": tested(run, before.teacher)}
    return [
        common | figures(row, whole) | {"test before": was[row.name], "test": tested(run, row)}
        for row in after.front.rows
    ]


def figures(row: ScoredNetwork, whole: float) -> dict[str, Any]:
    names = {"before": "proposed_accuracy", "after": "finetuned_accuracy", "kept": "accuracy"}
    shown = {shown: round(row.metrics[name], 2) if name in row.metrics else "" for shown, name in names.items()}
    return {"network": row.name, "share of macs": round(row.metrics["macs"] / whole, 3), **shown}


SIZES = ((0.0, 0.1), (0.1, 0.5), (0.5, 1.01))


def table() -> str:
    """Means over networks and seeds, and within ranges of MACs the means on the test split, as Markdown."""
    lines = []
    for (name,), rows in results.by(results.read(RESULTS), "variant").items():
        seeds = results.by(rows, "seed")
        seconds = mean(float(group[0]["seconds"]) for group in seeds.values())
        epochs = mean(float(group[0]["epochs"]) for group in seeds.values())
        means = [spread(seeds.values(), column) for column in ("before", "kept", "test before", "test")]
        ranges = [gain([r for r in rows if low <= float(r["share of macs"]) < high]) for low, high in SIZES]
        lines.append([name, len(seeds), f"{epochs:.0f}", f"{seconds:.0f} s", *means, *ranges])
    headings = ["variant", "seeds", "epochs", "CPU", "validation before", "after", "test before", "after"]
    headings += [f"test, {low:g}-{min(high, 1):g} of the MACs" for low, high in SIZES]
    return results.markdown(headings, lines)


def spread(groups: Any, column: str) -> str:
    return results.spread((mean(float(row[column]) for row in rows) for rows in groups), 2)


def gain(rows: Sequence[results.Row]) -> str:
    if not rows:
        return "-"
    before, after = (mean(float(row[column]) for row in rows) for column in ("test before", "test"))
    return f"{before:.1f} → {after:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--folder", type=Path, default=Path("runs/finetune"))
    options = parser.parse_args()
    for name in options.only:
        for seed in options.seeds:
            if (str(seed), name) not in results.by(results.read(RESULTS), "seed", "variant"):
                results.append(RESULTS, *finetuned(options.folder.resolve(), seed, name))
    print(table())


if __name__ == "__main__":
    main()
