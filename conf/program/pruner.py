"""The pruner: propose, finetune, and go on from the result, down to the budget.

Iterative, one-step and uniform pruning are this loop with another engine and another number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import nn

from ofa.conf.program.finetuning import Pupil, improve
from ofa.conf.program.proposals import NETWORK
from ofa.conf.program.pruning import between, limits_of
from ofa.conf.program.records import read_json, write_json
from ofa.conf.program.run import Run
from ofa.conf.program.scoring import context_of, costs_of, evaluators, importance_of
from ofa.search import Archive, Constraint, ScoredNetwork
from ofa.search import run as search_to_end
from ofa.search.engines import Search
from ofa.search.objectives import Floats, Macs, WeightBytes
from ofa.search.problem import Problem
from ofa.space import Genome, Subnet
from ofa.train import checkpoint as checkpoints
from ofa.train import evaluate
from ofa.train.saliency import sort_by


@dataclass(frozen=True)
class Step:
    """One step that is done: how far it went, what it gave, and whether the next one goes on from it."""

    number: int
    progress: float
    accepted: bool
    subnet: Subnet
    metrics: Mapping[str, float]

    @property
    def folder(self) -> str:
        """Where its files are in the run folder; `network.pt` is the pruned network."""
        return f"pruning/{self.number:02d}"

    def to_row(self) -> ScoredNetwork:
        files = {NETWORK: f"{self.folder}/network.pt"}
        return ScoredNetwork(f"step-{self.number:02d}", self.subnet, self.metrics, files)

    def save(self, folder: Path) -> None:
        content = {"progress": self.progress, "accepted": self.accepted, "metrics": self.metrics}
        write_json(folder / "step.json", {**content, "subnet": dict(self.subnet)})

    @classmethod
    def load(cls, folder: Path, number: int) -> Step:
        content = read_json(folder / "step.json")
        return cls(number, content["progress"], content["accepted"], Subnet(content["subnet"]), content["metrics"])


class Pruner:
    """The loop in a run folder; every finished step is on the disk, and a step goes on where it was stopped."""

    def __init__(self, run: Run) -> None:
        self.run, self.settings, self.given = run, run.settings, run.settings.pruning
        self.supernet = run.supernet
        self.learner = replace(
            run.learner(self.supernet),
            recalibrate=self.given.recalibrate,
            validation_stride=self.given.validation_stride,
        )
        self.costs = costs_of(run, self.supernet)
        self.limits = self._limits()
        self.seen: list[ScoredNetwork] = []
        self.missed = ""
        if self.given.validation_stride > 2:
            run.say("warning: less than half of the validation split scores the candidates")

    def _limits(self) -> tuple[Constraint, ...]:
        """The budget without fractions."""
        limits = limits_of(self.given, self.settings.constraints, self.settings.search.bounded)
        space = self.supernet.space
        whole = self.costs(space.encode(space.largest)[None])
        self.whole = {c.name: float(whole[c.name][0]) for c in limits}
        return tuple(c.resolved(self.whole[c.name]) for c in limits)

    def prune(self) -> list[Step]:
        """Every step, those of an earlier run included.

        Raises:
            ValueError: the budget is out of reach.
        """
        pending = (
            [1.0] * (self.given.steps or 1) if self.settings.search.bounded else list(self.given.ladder(self._share))
        )
        done: list[Step] = []
        halved, reached = 0, 0.0
        while pending:
            step = self.step(len(done) + 1, pending[0], self.last(done))
            done.append(step)
            if step.accepted:
                pending.pop(0)
                halved, reached = 0, step.progress
            elif halved == self.given.halvings:
                break
            else:
                halved += 1
                pending.insert(0, (reached + step.progress) / 2)
        self._go_on_from(None)
        self.missed = self._missed(done)
        return done

    @property
    def _share(self) -> float:
        """The budget, as a share of the whole network's first limited cost; 1 where there is none."""
        shares = [c.upper / self.whole[c.name] for c in self.limits if c.upper is not None]
        return shares[0] if shares else 1.0

    def _missed(self, done: Sequence[Step]) -> str:
        """By how much the budget was missed, and why; empty where it was met."""
        last, failed = self.last(done), done[-1] if done and not done[-1].accepted else None
        reached = self.whole if last is None else last.metrics
        missed = [c for c in self.limits if c.violation(np.array([reached[c.name]]))[0] > 0]
        if not missed:
            return ""
        asked = ", ".join(f"asked {100 * self._part(c):.1f} % of {c.name}" for c in missed)
        got = ", ".join(f"{100 * reached[c.name] / self.whole[c.name]:.1f} %" for c in missed)
        if failed is None:
            return f"the budget is missed: {asked}, got {got}"
        lost = self.original["accuracy"] - failed.metrics["accuracy"]
        return (
            f"the budget is missed: {asked}, got {got}; step {failed.number} lost {lost:.2f} points, more than"
            f" {self.tolerance:.2f}; loosen with pruning.tolerance={math.ceil(10 * lost) / 10:g},"
            " or finetune for longer with pruning.finetuning.recipe.epochs"
        )

    def _part(self, limit: Constraint) -> float:
        """What a limit leaves, as a share of the whole network."""
        return float(limit.range[1] if limit.upper is not None else limit.range[0]) / self.whole[limit.name]

    @staticmethod
    def last(done: Sequence[Step]) -> Step | None:
        return next((step for step in reversed(done) if step.accepted), None)

    def step(self, number: int, progress: float, before: Step | None) -> Step:
        """Propose, finetune, judge; what the folder holds already is read."""
        folder = self.run.folder / f"pruning/{number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        self._go_on_from(before)
        search = self._search(folder, progress)
        if (folder / "step.json").exists():
            return Step.load(folder, number)
        subnet = self._picked(search)
        found = search.results[subnet]
        net = self._extracted(subnet)
        metrics = {**found, "proposed_accuracy": found["accuracy"], "proposed_loss": found["loss"]}
        if self.given.finetuning is not None:
            pupil, stage = Pupil.of(net, self.supernet, subnet), f"prune-{number:02d}"
            metrics |= improve(self.run, pupil, self.given.finetuning, folder, stage, metrics)
        self.supernet.absorb(net.state_dict())
        self.supernet.save(folder / "supernet.pt")
        checkpoints.save(folder / "network.pt", {"model": net.state_dict()})
        step = Step(number, progress, self._good(metrics["accuracy"]), subnet, metrics)
        step.save(folder)
        self._tell(step)
        return step

    def _picked(self, search: Search) -> Subnet:
        ranked = search.ranked()
        try:
            return ranked[self.given.index]
        except IndexError:
            raise ValueError(f"pruning.index {self.given.index} asked of {len(ranked)} ranked subnets") from None

    def _extracted(self, subnet: Subnet) -> nn.Module:
        """The proposed network, as it was scored."""
        self.supernet.activate(subnet)
        if self.given.recalibrate:
            self.supernet.calibrate(map(self.supernet.resize, self.learner.calibration))
        return self.supernet.extract()

    def _good(self, accuracy: float) -> bool:
        return self.tolerance is None or accuracy >= self.original["accuracy"] - self.tolerance

    @cached_property
    def tolerance(self) -> float | None:
        """How many points a step may lose: what is asked, or else one standard error of the original's accuracy."""
        given, pictures = self.given.tolerance, len(self.run.splits.validation)
        if given is None:
            return None
        share = self.original["accuracy"] / 100
        resolved = 100 * max(1 / pictures, math.sqrt(share * (1 - share) / pictures))
        if given < resolved:
            self.run.say(
                f"prune: {pictures} validation pictures tell accuracies apart from {resolved:.2f} points on;"
                f" pruning.tolerance={given:g} is widened to that"
            )
        return max(given, resolved)

    @cached_property
    def original(self) -> dict[str, float]:
        """Figures of the whole network on the validation split."""
        return evaluate(self.run.teacher, self.run.splits.validation.ordered(256), self.settings.task)

    def _tell(self, step: Step) -> None:
        m, verdict = step.metrics, "" if step.accepted else "; taken back"
        if step.subnet == self.supernet.space.largest:
            verdict += "; nothing was removed"
        costs = [c.objective for c in self.limits] or [Macs(), WeightBytes()]
        limits = ", ".join(f"{cost.written(m[cost.name])} {cost.name}" for cost in costs)
        self.run.tracker.rewind("prune", step.number - 1)
        self.run.tracker.log("prune", {"epoch": step.number, "progress": step.progress, **m})
        self.run.say(
            f"step {step.number}: {limits}, accuracy {m['proposed_accuracy']:.2f} % as pruned,"
            f" {m['accuracy']:.2f} % in the end, {self.original['accuracy']:.2f} % the original{verdict}",
        )

    def _go_on_from(self, before: Step | None) -> None:
        """The supernet as it was after a step, held at its subnet, whose units are in order."""
        if before is None:
            self.supernet.load_state_dict(self.run.weights("supernet.pt"))
            self.supernet.activate(self.supernet.space.largest)
        else:
            self.supernet.load(self.run.folder / before.folder / "supernet.pt")
            self.supernet.activate(before.subnet)
            if self.settings.supernet.sort is not None:
                sort_by(self.supernet, self.settings.supernet.sort, self.run.splits, self.settings.task)
        self.supernet.eval()

    def _search(self, folder: Path, progress: float) -> Search:
        """The engine's search among what the active subnet can still become, run to its end."""
        whole, part = self.supernet.space, self.supernet.space.upto(self.supernet.active)
        limits = tuple(between(self.whole[c.name], c, progress) for c in self.limits)

        def costs(genomes: Genome) -> Mapping[str, Floats]:
            return self.costs(whole.lifted(genomes, part))

        scoring = f"recalibrate={self.given.recalibrate} validation_stride={self.given.validation_stride}"
        context = {**context_of(self.run, self.supernet), "scoring": scoring}
        importance, pictures = importance_of(self.run, self.supernet), len(self.learner.splits.validation)
        samples = max(pictures // self.given.validation_stride, 1)
        problem = Problem.parse(part, self.settings.objectives, costs, limits, importance, samples)
        search: Search = self.settings.search.start(problem, self.settings.seed)
        with (
            Archive(folder / "archive.sqlite", context) as archive,
            self.run.progress("prune") as bar,
            evaluators(self.run, self.learner.evaluate_subnet) as (evaluate_subnet, map),
        ):
            bar.expect(search.evaluations, 0)
            search_to_end(search, evaluate_subnet, archive, lambda r: bar.advance(accuracy=r.metrics["accuracy"]), map)
        self.run.say(f"prune: {len(search.results)} subnets scored. {search.stopped}")
        self.seen += [ScoredNetwork(f"{folder.name}-{i:04d}", s, m) for i, (s, m) in enumerate(search.results.items())]
        search.leave(folder)
        return search
