"""What a search or a pruning leaves for the stages behind it: search.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ofa.conf.program.run import Run
from ofa.search import Front, ScoredNetwork
from ofa.search.front import TEACHER
from ofa.search.objectives import priced
from ofa.train import evaluate

FILE = "search.json"
NETWORK = "network"  # the kind of a row's file that holds its own weights; other rows share the supernet's


@dataclass(frozen=True)
class Proposals:
    """The networks that are proposed, with the whole one beside them, and all that they were chosen from.

    `missed` says by how much they miss the budget, and why; it is empty where they meet it.

    A stage of one's own that changes them loads, replaces and saves them.
    """

    front: Front
    missed: str = ""

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
    def load(cls, run: Run) -> Proposals:
        """Those in the run folder.

        Raises:
            ValueError: the file is damaged.
        """
        content = run.folder.read(FILE)
        front = Front.from_json(content["front"], run.settings.objectives)
        teacher = next(ScoredNetwork.from_json(row) for row in content["front"] if row["name"] == TEACHER)
        evaluated = tuple(ScoredNetwork.from_json(row) for row in content["evaluated"])
        return cls(replace(front, teacher=teacher, evaluated=evaluated), content["missed"])

    def save(self, run: Run) -> None:
        """Leave them in the run folder."""
        rows = [row.to_json() for row in self.front.evaluated]
        run.folder.write(FILE, {"front": self.front.to_json(), "evaluated": rows, "missed": self.missed})
