"""Students: the networks of a front that learn on from labels and a teacher, each by itself or all together."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import nn

from ofa import SearchSpace, Subnet, Supernet
from ofa.conf.program.detached import Board, Detached
from ofa.conf.program.finetuning import Pupil, improve, worthwhile
from ofa.conf.program.proposals import NETWORK, identity, network
from ofa.conf.program.records import digest
from ofa.conf.program.run import Run
from ofa.conf.program.scoring import hands
from ofa.search import ScoredNetwork
from ofa.search.workers import tell
from ofa.train import Sandwich, evaluate, fit
from ofa.train import checkpoint as checkpoints
from ofa.train.guards import Collapse
from ofa.train.sampling import Rule

STAGE, PLACE = "finetune", "finetuned"
Rows = tuple[ScoredNetwork, ...]
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Desk:
    """The folder in which networks are finetuned; `record.json` says of what and how, and then what came of it."""

    run: Run
    name: str
    rows: Rows

    @property
    def place(self) -> str:
        return f"{PLACE}/{self.name}"

    @cached_property
    def key(self) -> str:
        """Identifies the networks, and all that they are finetuned with."""
        settings = self.run.folder.made_with(STAGE) or {}
        made_with = {name: value for name, value in settings.items() if name != "export.subnets"}
        return digest([[identity(self.run, row) for row in self.rows], made_with])

    def outcome(self) -> Rows:
        """What came of it, nothing where that is not known; what lies here of other networks or settings goes."""
        record = self.run.folder.read(f"{self.place}/record.json", {})
        if record.get("key") == self.key:
            return tuple(map(ScoredNetwork.from_json, record["rows"]))  # of none while it is under way
        shutil.rmtree(self.run.folder / self.place, ignore_errors=True)
        self._note(())
        return ()

    def keep(self, row: ScoredNetwork, net: nn.Module, told: Metrics) -> ScoredNetwork:
        """Leave the weights of a network; gives its row with them."""
        file = f"{self.place}/{row.name}.pt"
        checkpoints.save(self.run.folder / file, {"model": net.state_dict()})
        return replace(row, metrics={**row.metrics, **told}, files={**row.files, NETWORK: file})

    def finish(self, rows: Iterable[ScoredNetwork]) -> Rows:
        """Note what came of it; what only a training needs that goes on is dropped."""
        self._note(finished := tuple(rows))
        for path in (self.run.folder / self.place).glob("finetun*"):
            path.unlink()
        return finished

    def _note(self, rows: Rows) -> None:
        record = {"key": self.key, "rows": [row.to_json() for row in rows]}
        self.run.folder.write(f"{self.place}/record.json", record)


# ------------------------------------------------------------ each by itself


def alone(run: Run, rows: Rows) -> Rows:
    """The networks as they leave, `workers` of them at once finetuned."""
    given, workers = run.settings.finetune.lengthened, min(run.settings.workers, len(rows))
    epochs = given.recipe.epochs + given.trials * given.trial_epochs
    steps = epochs * run.splits.train.steps(given.recipe.batch_size)
    with run.progress(STAGE) as bar:
        bar.expect(steps * len(rows), 0)
        board = Board(run, bar, steps, len(rows))
        beside = Detached(run, board.hear if workers == 1 else tell)
        beside.teacher = instructor(run)
        work = Alone(beside, {row.name: row for row in rows})
        with hands(run, work, workers, board.hear) as (held, spread):
            dearest_first = [row.name for row in reversed(rows)]
            done = {row.name: row for row in spread(held, dearest_first)}
    return tuple(done[row.name] for row in rows)


@dataclass(frozen=True)
class Alone:
    """Finetunes a network by its name, from where it was stopped; gives it as it leaves."""

    run: Detached
    rows: Mapping[str, ScoredNetwork]

    def __call__(self, name: str) -> ScoredNetwork:
        run = self.run.named(name)
        desk = Desk(run, name, (self.rows[name],))
        (done,) = desk.outcome() or desk.finish([self._taught(desk)])
        run.finish()
        return done

    def _taught(self, desk: Desk) -> ScoredNetwork:
        run, (row,), stage = desk.run, desk.rows, f"{STAGE}-{desk.name}"
        pupil, given = pupil_of(run, row), run.settings.finetune.lengthened
        before = scored(run, pupil)
        told = improve(run, pupil, given, run.folder / desk.place, stage, before["accuracy"])
        return desk.keep(row, pupil.net, proposed(before) | told | scored(run, pupil))


def pupil_of(run: Run, row: ScoredNetwork) -> Pupil:
    """A proposed network, with what it takes to train it."""
    assert row.subnet is not None
    return Pupil.of(network(run, row), run.supernet, row.subnet, own=NETWORK in row.files)


def instructor(run: Run) -> nn.Module:
    """Who teaches, as in the training of the supernet: the trained backbone, or the largest subnet."""
    if run.settings.supernet.source == "teacher":
        return run.teacher
    return network(run, ScoredNetwork("largest", run.supernet.space.largest, {})).requires_grad_(False)


def scored(run: Run, pupil: Pupil) -> dict[str, float]:
    """The metrics of a network on the validation split."""
    batches = ((pupil.resize(images), labels) for images, labels in run.splits.validation.ordered(256))
    return evaluate(pupil.net, batches, run.settings.task)


def proposed(before: Metrics) -> dict[str, float]:
    """How good a network was before."""
    return {f"proposed_{name}": before[name] for name in ("accuracy", "loss")}


# ------------------------------------------------------------ all together


@dataclass(frozen=True)
class FrontRule(Rule):
    """Of `subnets`, from cheap to dear, the dearest, the cheapest and `randoms` of the others.

    >>> widths = tuple(Subnet({"0.width": width}) for width in (8, 16, 24, 32))
    >>> drawn = FrontRule(subnets=widths, randoms=1).choose(None, None, np.random.default_rng(0))
    >>> [subnet["0.width"] for subnet in drawn]
    [32, 8, 16]
    """

    subnets: tuple[Subnet, ...] = ()
    randoms: int = 2

    def choose(self, space: SearchSpace, supernet: Supernet, rng: np.random.Generator) -> tuple[Subnet, ...]:
        others = self.subnets[1:-1]
        some = [others[i] for i in rng.permutation(len(others))[: self.randoms]]
        return tuple(dict.fromkeys([self.subnets[-1], self.subnets[0], *some]))


@dataclass(frozen=True, eq=False)
class FrontSandwich(Sandwich):
    """A supernet of which a few subnets learn; its figures are means over the cheapest, the middle and the dearest."""

    def validate(self) -> dict[str, float]:
        assert isinstance(self.rule, FrontRule)
        subnets = self.rule.subnets
        probes = dict.fromkeys([subnets[0], subnets[len(subnets) // 2], subnets[-1]])
        figures = [self.evaluate_subnet(subnet) for subnet in probes]
        return {name: float(np.mean([row[name] for row in figures])) for name in figures[0]}


def circle(run: Run, subnets: tuple[Subnet, ...]) -> FrontSandwich:
    """Subnets that learn together, all in the same way."""
    given = run.settings.finetune
    rule = FrontRule(
        given.label_smoothing,
        given.teacher_share,
        1 - given.teacher_share,
        seed=given.recipe.seed,
        subnets=subnets,
    )
    own = run.learner(run.supernet)
    teacher = instructor(run) if given.teacher_share else None
    return FrontSandwich(
        run.supernet,
        run.splits,
        rule,
        given.soft,
        teacher,
        calibration_batch=own.calibration_batch,
        calibration_batches=own.calibration_batches,
        task=own.task,
    )


def together(run: Run, rows: Rows) -> Rows:
    """The networks as they leave, after one training of the weights that they share.

    Raises:
        ValueError: they have weights of their own.
    """
    own = next((row.name for row in rows if NETWORK in row.files), None)
    if own is not None:
        raise ValueError(f"finetune.shared: {own} has weights of its own; finetune=short trains each by itself")
    desk = Desk(run, "shared", rows)
    return desk.outcome() or desk.finish(_taught_together(desk))


def _taught_together(desk: Desk) -> list[ScoredNetwork]:
    run, recipe = desk.run, desk.run.settings.finetune.lengthened.recipe
    supernet, path = run.supernet, run.folder / desk.place / "finetuned.pt"
    weights = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    before = [pupil_of(run, row) for row in desk.rows]
    try:
        learner = circle(run, tuple(pupil.subnet for pupil in before))
        with run.progress(STAGE) as bar:
            fit(learner, recipe, path=path, stage=STAGE, tracker=run.tracker, progress=bar)
        after = [pupil_of(run, row) for row in desk.rows]
    except Collapse as collapse:
        run.say(f"{STAGE}: it did not converge ({collapse}); every network stays as it was")
        return [
            desk.keep(row, pupil.net, proposed(scored(run, pupil)))
            for row, pupil in zip(desk.rows, before, strict=True)
        ]
    finally:
        supernet.load_state_dict(weights)
    return [_better(desk, *three) for three in zip(desk.rows, before, after, strict=True)]


def _better(desk: Desk, row: ScoredNetwork, before: Pupil, after: Pupil) -> ScoredNetwork:
    """A network as it was before the training or is after it, whichever is better."""
    run = desk.run
    was, found = scored(run, before), scored(run, after)
    told = proposed(was) | {f"finetuned_{name}": found[name] for name in ("accuracy", "loss")}
    if worthwhile(run, f"{STAGE}-{row.name}", was["accuracy"], found["accuracy"]):
        return desk.keep(row, after.net, told | found)
    return desk.keep(row, before.net, told | was)
