"""What `experiment=fashion` hands out, beside narrow networks trained from scratch, and Torch-Pruning 1.6.1.

pip install --no-deps --target PEER torch-pruning==1.6.1
python -m experiments.fashion.run --peer PEER [--seeds 0 1 2] [--backbones resnet mobilenetv3]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

import ofa
from experiments import results
from experiments.finetune.run import composed, tested
from ofa.conf.program.finetuning import Pupil, learner
from ofa.conf.program.proposals import Proposals
from ofa.conf.program.run import Run
from ofa.costs import complexity
from ofa.search import Front
from ofa.search.front import TEACHER
from ofa.search.problem import Problem
from ofa.search.pruning import Uniform
from ofa.train import Supervised, evaluate, fit
from ofa.train.plan import duration

RESULTS = Path(__file__).with_name("results.csv")
BACKBONES = {"resnet": (), "mobilenetv3": ("backbone=mobilenetv3_small_050",)}
SHARES = (0.75, 0.5, 0.25, 0.1)
FRONT, SCRATCH, PEER = "front", "narrow, from scratch", "Torch-Pruning, finetuned"
WIDTHS = ofa.SpaceConfig(width="multiples", kernel=False, depth=False, divisor=4, proof="off")


def clock() -> float:
    """Seconds of CPU time of this process and of those that it has started and seen end."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def accuracy(run: Run, net: nn.Module) -> float:
    """In percent, on the test split."""
    return evaluate(net, run.splits.test.ordered(256), run.settings.task)["accuracy"]


def handed_out(run: Run, seconds: float) -> Iterator[dict[str, Any]]:
    """The teacher, and the network of the front that one would take under each share of the MACs."""
    front = Front.from_json(run.folder.read("front.json"), run.settings.objectives)
    assert front.teacher is not None
    whole = front.teacher.metrics["macs"]
    yield {"way": TEACHER, "at most": 1.0, "share": 1.0, "test": front.teacher.metrics["accuracy"]}
    before = {row.name: row for row in Proposals.load(run, finetuned=False).chosen(run)}
    for share in SHARES:
        fitting = [row for row in front.rows if row.metrics["macs"] <= share * whole]
        if fitting:
            row = max(fitting, key=lambda row: row.metrics["validation_accuracy"])
            figures = {"before": tested(run, before[row.name]), "test": row.metrics["accuracy"]}
            yield {"way": FRONT, "at most": share, "share": row.metrics["macs"] / whole, "seconds": seconds} | figures


def narrow(run: Run, seconds: float) -> Iterator[dict[str, Any]]:
    """The backbone with all its widths at one share of theirs, from random weights, in so many seconds each."""
    supernet = ofa.Supernet(run.backbone(), run.example, WIDTHS)
    whole = supernet.cost(supernet.space.largest).macs
    for share in SHARES:
        problem = Problem.parse(supernet.space, ["accuracy"], supernet.costs, {"macs": share})
        (subnet,) = Uniform().start(problem).ask()
        net, given = supernet.extract(subnet), run.settings.teacher
        alone = Supervised(net, run.splits, given.label_smoothing, task=run.settings.task)
        an_epoch = duration(alone, replace(given.recipe, epochs=1), measured=12, clock=time.process_time)
        recipe = replace(given.recipe, epochs=max(1, round(seconds / an_epoch)))
        started = clock()
        fit(alone, recipe)
        figures = {"test": accuracy(run, net), "epochs": recipe.epochs, "seconds": clock() - started}
        yield {"way": SCRATCH, "at most": share, "share": supernet.cost(subnet).macs / whole} | figures


def pruned(run: Run) -> Iterator[dict[str, Any]]:
    """The teacher, pruned evenly by the magnitude of its groups, and finetuned as the networks of the front are."""
    given = run.settings.finetune.lengthened
    whole = complexity(run.teacher, run.example).macs
    for share in SHARES:
        net = shrunk(run.teacher, run.example, share * whole)
        before = accuracy(run, net)
        pupil = Pupil(net, run.supernet, run.supernet.space.largest, {}, {})
        started = clock()
        fit(learner(run, pupil, given), given.recipe)
        figures = {"before": before, "test": accuracy(run, net), "seconds": clock() - started}
        yield {"way": PEER, "at most": share, "share": complexity(net, run.example).macs / whole} | figures


def shrunk(teacher: nn.Module, example: torch.Tensor, limit: float) -> nn.Module:
    """The widest network of Torch-Pruning's that has at most so many MACs, in steps of a hundredth of the channels."""
    import torch_pruning  # type: ignore[import-not-found]

    for hundredth in range(1, 100):
        net = deepcopy(teacher).requires_grad_(True)
        *_, head = [module for module in net.modules() if isinstance(module, nn.Linear)]
        torch_pruning.pruner.MetaPruner(
            net,
            example,
            torch_pruning.importance.GroupMagnitudeImportance(),
            pruning_ratio=hundredth / 100,
            ignored_layers=[head],
        ).step()
        if complexity(net, example).macs <= limit:
            return net.eval()
    raise ValueError(f"nothing has at most {limit:.0f} MACs")


def whole_run(folder: Path, *overrides: str) -> tuple[Run, float]:
    """One run and the CPU time of all its stages; one that was interrupted begins again."""
    note = folder / "seconds.json"
    if not note.exists():
        shutil.rmtree(folder, ignore_errors=True)
    course = composed("experiment=fashion", f"run={folder}", *overrides)
    run, started = Run.of(course.settings), clock()
    course.execute(run)
    if not note.exists():
        note.write_text(json.dumps(clock() - started))
    return run, float(json.loads(note.read_text()))


def rows(backbone: str, seed: int, folder: Path, overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """All networks of one run and of what it is compared with; the run, and what is compared, have the same time."""
    run, seconds = whole_run(folder, *BACKBONES[backbone], f"seed={seed}", *overrides)
    ways: tuple[Callable[[], Iterator[dict[str, Any]]], ...] = (
        lambda: handed_out(run, seconds / len(SHARES)),
        lambda: narrow(run, seconds / len(SHARES)),
        lambda: pruned(run),
    )
    empty = {"backbone": backbone, "seed": seed, "before": "", "epochs": "", "seconds": ""}
    for way in ways:
        for row in way():
            whole = empty | row
            yield {name: round(value, 4) if isinstance(value, float) else value for name, value in whole.items()}


def table() -> str:
    """Mean and standard deviation over the seeds on the test split, as Markdown."""
    lines = []
    for (backbone, way, most), group in results.by(results.read(RESULTS), "backbone", "way", "at most").items():
        before = [row["before"] for row in group if row["before"]]
        share = f"{100 * mean(float(row['share']) for row in group):.0f} %"
        cells = results.spread(before, 2) if before else "-", results.spread((row["test"] for row in group), 2)
        lines.append([backbone, f"{100 * float(most):.0f} %", way, len(group), share, *cells])
    lines.sort(key=lambda line: (list(BACKBONES).index(str(line[0])), -float(str(line[1])[:-2])))
    return results.markdown(["backbone", "at most", "network", "seeds", "MACs", "before", "test"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True, help="folder that holds torch_pruning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--folder", type=Path, default=Path("runs/fashion-seeds"))
    parser.add_argument("overrides", nargs="*", help="of the experiment's settings")
    given = parser.parse_args()
    sys.path.append(str(given.peer))
    for seed in given.seeds:
        for backbone in given.backbones:
            if (backbone, str(seed)) not in results.by(results.read(RESULTS), "backbone", "seed"):
                place = given.folder.resolve() / f"{backbone}-{seed}"
                results.append(RESULTS, *rows(backbone, seed, place, given.overrides))
    print(table())


if __name__ == "__main__":
    main()
