"""What mends the middle of a supernet: trainings of equal time, beside the same subnets trained alone.

python experiments/supernets/between.py [--seconds 60] [--seeds 0 1 2] [--devices cpu] [--only WAY …]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import ofa
from experiments import results
from experiments.supernets.networks import build
from experiments.supernets.run import BATCH, cut
from ofa.space import sample_at_cost
from ofa.train import Digits, FashionMNIST, Recipe, Sandwich, Supervised, create, evaluate, fit
from ofa.train.data import Splits
from ofa.train.plan import estimates
from ofa.train.sampling import ProgressiveShrinking, Rule, SandwichRule
from ofa.train.sampling.rules import AttentiveRule
from ofa.train.tasks import AdaptiveSoft, DistillationLoss
from ofa.train.tasks.distillation import Soft

RESULTS = Path(__file__).parent / "between.csv"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
ALONE = "alone, from scratch"
TEACHER = "teacher"
HERE = [torch.device("cpu")]
"""The device of this process."""


@dataclass(frozen=True)
class Job:
    """Pictures, a backbone, its space, and how long its teacher learns."""

    splits: Callable[[], Splits]
    backbone: Callable[[], nn.Module]
    space: ofa.SpaceConfig
    teacher_steps: int


def fashion() -> Splits:
    return FashionMNIST(size=28).load()


def digits() -> Splits:
    return Digits(size=48, shift=0.05).load()


THIRDS = ofa.SpaceConfig(width=(0.25, 0.5, 0.75, 1.0), divisor=4)
DEMO = ofa.SpaceConfig(policy="compound", width=(0.15, 0.25, 0.5, 0.75, 1.0), divisor=4)
JOBS = {
    "resnet20": Job(fashion, lambda: build("resnet20"), THIRDS, 1500),
    "mobilenetv2": Job(fashion, lambda: build("mobilenetv2"), THIRDS, 1500),
    "demo": Job(digits, lambda: create("mobilenetv3_small_050", 10, 1), DEMO, 560),
}


@dataclass(frozen=True)
class Around(SandwichRule):
    """The sandwich, whose random subnets lie around a share of the largest one's MACs."""

    share: float = 0.5
    spread: float = 0.15

    def between(self, space: ofa.SearchSpace, supernet: ofa.Supernet, rng: np.random.Generator) -> list[ofa.Subnet]:
        targets = np.clip(rng.normal(self.share, self.spread, self.randoms), 0, 1)
        return at_shares(supernet, targets, rng)


@dataclass(frozen=True, eq=False)
class Weighted(Sandwich):
    """The loss of all but the largest counts `others` times."""

    others: float = 0.5

    def _loss(self, logits: Tensor, labels: Tensor, target: Tensor | None, first: bool) -> Tensor:
        loss = super()._loss(logits, labels, target, first)
        return loss if first else self.others * loss


@dataclass(frozen=True)
class Way:
    """A way to train: which subnets, what distance to whom, how fast."""

    rule: Rule = field(default_factory=SandwichRule)
    soft: DistillationLoss = field(default_factory=AdaptiveSoft)
    taught: bool = True
    lr: float = 0.1
    warmup: float = 0.1
    average: float | None = None
    others: float = 1.0


WAYS = {
    "sandwich": Way(),
    "rate 0.03": Way(lr=0.03),
    "rate 0.01": Way(lr=0.01),
    "1 random": Way(SandwichRule(randoms=1)),
    "4 randoms": Way(SandwichRule(randoms=4)),
    "no random": Way(SandwichRule(randoms=0)),
    "uniform in MACs": Way(AttentiveRule(candidates=1, examined=1)),
    "attentive": Way(AttentiveRule()),
    "around half the MACs": Way(Around()),
    "widths warm up": Way(SandwichRule(schedule=ProgressiveShrinking(kinds=("width",)))),
    "widths warm up, attentive": Way(AttentiveRule(schedule=ProgressiveShrinking(kinds=("width",)))),
    "widths warm up evenly": Way(SandwichRule(schedule=ProgressiveShrinking(kinds=("width",), stages=4, last=1))),
    "widths warm up, in place": Way(SandwichRule(schedule=ProgressiveShrinking(kinds=("width",))), taught=False),
    "widths warm up, averaged": Way(SandwichRule(schedule=ProgressiveShrinking(kinds=("width",))), average=0.99),
    "anchored": Way(SandwichRule(teacher_share=0.5)),
    "labels for all": Way(SandwichRule(label_share=0.5)),
    "soft": Way(soft=Soft()),
    "averaged": Way(average=0.99),
    "in place": Way(taught=False),
    "others at half": Way(others=0.5),
    "longer warm-up": Way(warmup=0.3),
    "rate 0.03, anchored": Way(SandwichRule(teacher_share=0.5), lr=0.03),
    "rate 0.03, anchored, uniform in MACs": Way(AttentiveRule(teacher_share=0.5, candidates=1, examined=1), lr=0.03),
    "rate 0.03, anchored, soft": Way(SandwichRule(teacher_share=0.5), Soft(), lr=0.03),
    "rate 0.03, averaged": Way(lr=0.03, average=0.99),
}


def at_shares(supernet: ofa.Supernet, shares: Any, rng: np.random.Generator) -> list[ofa.Subnet]:
    """Random subnets whose MACs are `shares` of the way from the smallest one's to the largest one's."""
    space = supernet.space

    def macs(genomes: Any) -> Any:
        return supernet.costs(genomes)["macs"]

    low, high = macs(np.stack([space.encode(space.smallest), space.encode(space.largest)]))
    return [space.decode(genome) for genome in sample_at_cost(space, macs, low + shares * (high - low), rng)]


def examined(supernet: ofa.Supernet) -> list[ofa.Subnet]:
    """The subnets that are asked in the end: the ends, and one at each share of the largest one's MACs."""
    space, largest = supernet.space, supernet.cost(supernet.space.largest).macs
    low = supernet.cost(space.smallest).macs
    wanted = (np.array(SHARES[1:-1]) * largest - low) / (largest - low)
    return [space.smallest, *at_shares(supernet, wanted, np.random.default_rng(0)), space.largest]


def recipe(epochs: int, seed: int, way: Way | None = None) -> Recipe:
    way = way or Way()
    given = {"lr": way.lr, "warmup": way.warmup, "average": way.average}
    return Recipe(epochs, BATCH, "sgd", weight_decay=1e-4, seed=seed, **given)  # type: ignore[arg-type]


def taught(job: str, seed: int, folder: Path, splits: Splits) -> nn.Module:
    """The backbone, trained alone; what was begun or done before goes on."""
    torch.manual_seed(seed)
    model = JOBS[job].backbone().to(HERE[0])
    part, epochs = cut(splits, JOBS[job].teacher_steps)
    fit(Supervised(model, part), recipe(epochs, seed), path=folder / f"{job}-{seed}.pt")
    return model.eval().requires_grad_(False)


def run(job: str, name: str, seed: int, seconds: float, folder: Path) -> dict[str, Any]:
    """One training, and what it came to on the test split.

    Its steps are those that take so many seconds on a CPU, wherever they are done.
    """
    splits = JOBS[job].splits()
    master = taught(job, seed, folder, splits)
    row: dict[str, Any] = {"job": job, "way": name, "seed": seed, "steps": JOBS[job].teacher_steps, "seconds": 0.0}
    if name == TEACHER:
        score = accuracy(master, splits)
        return row | {f"{share:.2f}": score for share in SHARES}
    student = JOBS[job].backbone()
    student.load_state_dict({key: tensor.cpu() for key, tensor in master.state_dict().items()})
    supernet = ofa.Supernet(student, splits.example, JOBS[job].space)
    supernet.sort()
    way = WAYS.get(name, Way())
    rule = replace(way.rule, seed=seed)
    teacher = master.cpu() if way.taught else None
    learner = Weighted(supernet, splits, rule, way.soft, teacher, others=way.others)
    (estimate,) = estimates(learner, recipe(1, seed), {name: rule}, measured=12, clock=time.process_time)
    part, epochs = cut(splits, max(int(seconds / estimate.step_seconds), 20))
    row["steps"] = epochs * part.train.steps(BATCH)
    supernet.to(HERE[0])
    master.to(HERE[0])
    started = time.process_time()
    if name == ALONE:
        scores = [alone(supernet, subnet, part, epochs, seed) for subnet in examined(supernet)]
    else:
        learner = replace(learner, splits=part)
        fit(learner, recipe(epochs, seed, way))
        scores = list(measured(supernet, learner))
    row["seconds"] = round(time.process_time() - started, 1)
    return row | {f"{share:.2f}": score for share, score in zip(SHARES, scores, strict=True)}


def measured(supernet: ofa.Supernet, learner: Sandwich) -> Iterator[float]:
    for subnet in examined(supernet):
        supernet.activate(subnet)
        supernet.calibrate(learner.calibration)
        yield accuracy(supernet, learner.splits)


def alone(supernet: ofa.Supernet, subnet: ofa.Subnet, splits: Splits, epochs: int, seed: int) -> float:
    """The accuracy of a subnet that begins with random weights and learns by itself."""
    net = supernet.extract(subnet)
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()
    fit(Supervised(net, splits), recipe(epochs, seed))
    return accuracy(net, splits)


def accuracy(net: nn.Module, splits: Splits) -> float:
    return round(evaluate(net, splits.test.ordered(256))["accuracy"], 2)


def table() -> str:
    """Mean and standard deviation over the seeds, as Markdown."""
    lines = []
    for (job, name), rows in results.by(results.read(RESULTS), "job", "way").items():
        steps = mean(float(row["steps"]) for row in rows)
        scores = [results.spread(row[f"{share:.2f}"] for row in rows) for share in SHARES]
        lines.append([job, name, len(rows), f"{steps:.0f}", *scores])
    headings = ["backbone", "way", "seeds", "steps", "smallest", "0.25", "0.5", "0.75", "largest"]
    return results.markdown(headings, sorted(lines, key=lambda line: list(JOBS).index(str(line[0]))))


def begin(places: Any) -> None:
    """Prepare a process: one thread, and a device of its own or shared."""
    torch.set_num_threads(1)
    HERE[0] = torch.device(places.get())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of CPU time, for each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--only", nargs="+", default=[TEACHER, ALONE, *WAYS], choices=[TEACHER, ALONE, *WAYS])
    parser.add_argument("--devices", nargs="+", default=["cpu"], help="of the processes: cpu cpu cuda …")
    parser.add_argument("--folder", type=Path, default=Path("runs/supernets/between"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    known = results.by(results.read(RESULTS), "job", "way", "seed")
    context = multiprocessing.get_context("spawn")
    places = context.SimpleQueue()
    for device in options.devices:
        places.put(device)
    with ProcessPoolExecutor(len(options.devices), context, begin, (places,)) as pool:
        for names in ([TEACHER], [name for name in options.only if name != TEACHER]):
            wanted = [(j, n, s) for s in options.seeds for n in names for j in options.jobs]
            wanted = [key for key in wanted if (key[0], key[1], str(key[2])) not in known]
            for done in as_completed([pool.submit(run, *key, options.seconds, options.folder) for key in wanted]):
                results.append(RESULTS, done.result())
    print(table())


if __name__ == "__main__":
    main()
