"""What a search or a pruning leaves for the stages behind it (search.json), and what finetuning makes of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial

from torch import nn

from ofa.conf.program.records import digest
from ofa.conf.program.run import Run
from ofa.persistence import tensors_digest, weights_digest
from ofa.search import Front, ScoredNetwork
from ofa.search.front import TEACHER
from ofa.search.objectives import priced
from ofa.train import checkpoint as checkpoints
from ofa.train import evaluate

FILE, FINETUNED = "search.json", "finetuned.json"
NETWORK = "network"  # the kind of a row's file that holds its own weights; other rows share the supernet's


@dataclass(frozen=True)
class Proposals:
    """The networks that are proposed, with the whole one beside them, and all that they were chosen from.

    `missed` says by how much they miss the budget, and why; it is empty where they meet it. `file` is where they stand.

    A stage of one's own that changes them loads, replaces and saves them.
    """

    front: Front
    missed: str = ""
    file: str = FILE

    @classmethod
    def of(cls, run: Run, front: Front, missed: str = "") -> Proposals:
        """A front, with the whole network and its figures on the validation split beside it."""
        supernet, objectives = run.supernet, run.settings.objectives
        metrics = evaluate(run.teacher, run.splits.validation.ordered(256), run.settings.task)
        costs = priced(supernet, objectives)(supernet.space.encode(supernet.space.largest)[None])
        names = [*asdict(supernet.cost(supernet.space.largest)), *(objective.name for objective in objectives)]
        known = {name: float(costs[name][0]) for name in names if name in costs}
        return cls(replace(front, teacher=ScoredNetwork(TEACHER, None, {**metrics, **known})), missed)

    @classmethod
    def load(cls, run: Run, finetuned: bool = True) -> Proposals:
        """The newest in the run folder, or those that nothing was `finetuned` of: for stages that come before that.

        Raises:
            ValueError: the file is damaged.
        """
        newest = finetuned and run.settings.finetune.trained and run.folder.has(FINETUNED)
        content = run.folder.read(file := FINETUNED if newest else FILE)
        front = Front.from_json(content["front"], run.settings.objectives)
        teacher = next(ScoredNetwork.from_json(row) for row in content["front"] if row["name"] == TEACHER)
        evaluated = tuple(ScoredNetwork.from_json(row) for row in content["evaluated"])
        return cls(replace(front, teacher=teacher, evaluated=evaluated), content["missed"], file)

    @property
    def teacher(self) -> ScoredNetwork:
        assert self.front.teacher is not None
        return self.front.teacher

    def chosen(self, run: Run) -> tuple[ScoredNetwork, ...]:
        """Those that leave, spread over the front: of near-ties the cheapest, unless each has weights of its own."""
        if self.file == FINETUNED:
            return self.front.rows
        if any(NETWORK in row.files for row in self.front.rows):
            return self.front.spread(run.settings.export.subnets).rows
        least = partial(self.front.objectives[0].step, samples=len(run.splits.validation))
        return self.front.apart(least).spread(run.settings.export.subnets).rows

    def save(self, run: Run) -> None:
        """Leave them in the run folder; what was finetuned of others is outdated."""
        if self.file == FILE:
            (run.folder / FINETUNED).unlink(missing_ok=True)
        rows = [row.to_json() for row in self.front.evaluated]
        run.folder.write(self.file, {"front": self.front.to_json(), "evaluated": rows, "missed": self.missed})


def identity(run: Run, row: ScoredNetwork) -> str:
    """Identifies a proposed network with its weights."""
    own = checkpoints.load(run.folder / row.files[NETWORK])["model"] if NETWORK in row.files else {}
    return digest([row.to_json(), weights_digest(run.supernet), tensors_digest(own)])


def network(run: Run, row: ScoredNetwork) -> nn.Module:
    """The teacher itself, or a subnet with weights of its own, or with batch statistics of its own."""
    if row.subnet is None:
        return run.teacher
    supernet = run.supernet
    if NETWORK in row.files:
        net = supernet.extract(row.subnet).eval()
        net.load_state_dict(checkpoints.load(run.folder / row.files[NETWORK])["model"])
        return net
    supernet.activate(row.subnet)
    supernet.calibrate(map(supernet.resize, run.learner(supernet).calibration))
    return supernet.extract().eval()
