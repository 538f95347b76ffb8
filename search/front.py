"""The front: the results that no other result beats in every objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import moocore
import numpy as np
import numpy.typing as npt

from ofa.search.budget import Constraint
from ofa.search.certainty import Metrics, ends_of, overlap, shrinkage
from ofa.search.objectives import CostObjective, Floats, Objective, found
from ofa.search.page import write_page
from ofa.search.picture import draw
from ofa.space import Subnet

if TYPE_CHECKING:
    from rich.table import Table

TEACHER = "teacher"
EXECUTED = "executed_macs"  # zeros of N:M patterns included
PREDICTED = "predicted_"  # what a figure is called before it was measured
_COLUMNS = ("accuracy", "macs", "params", "latency_ms")


@dataclass(frozen=True)
class ScoredNetwork:
    """One network of a front: its metrics by name, and the files made of it by kind, relative to the run.

    >>> row = ScoredNetwork("subnet-0001", Subnet({"stem": 8}), {"accuracy": 90.0, "macs": 1e6})
    >>> ScoredNetwork.from_json(row.to_json()) == row
    True
    """

    name: str
    subnet: Subnet | None
    metrics: Mapping[str, float]
    files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A flat object: name, every metric (unknown or non-finite ones null), subnet, files."""
        names = dict.fromkeys([*_COLUMNS, *self.metrics])
        values = {name: self.metrics.get(name, math.nan) for name in names}
        return {
            "name": self.name,
            **{name: value if math.isfinite(value) else None for name, value in values.items()},
            "subnet": None if self.subnet is None else dict(self.subnet),
            "files": dict(self.files),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ScoredNetwork:
        """Read what `to_json` gave.

        Raises:
            ValueError: not such an object.
        """
        try:
            other = {"name", "subnet", "files"}
            metrics = {name: float(v) for name, v in row.items() if name not in other and v is not None}
            subnet = None if row["subnet"] is None else Subnet(row["subnet"])
            return cls(str(row["name"]), subnet, metrics, dict(row["files"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"a row has name, metrics, subnet and files, got {row!r:.120} ({error!r})") from None


@dataclass(frozen=True)
class Front:
    """Rows ordered from cheap to dear, the teacher, and `evaluated`: all that they were chosen from.

    `of` chooses the rows; afterwards they stay, whatever is measured on them later.

    >>> figures = ((90.0, 1e6), (95.0, 3e6), (94.0, 4e6))  # the last is worse and dearer than the second
    >>> rows = [ScoredNetwork(f"n{i}", None, {"accuracy": a, "macs": m}) for i, (a, m) in enumerate(figures)]
    >>> front = Front.of(rows, ["accuracy", "macs"])
    >>> [row.name for row in front.rows], front.best("accuracy", macs=0.5).name
    (['n0', 'n1'], 'n0')
    """

    rows: tuple[ScoredNetwork, ...]
    objectives: tuple[Objective, ...]
    teacher: ScoredNetwork | None = None
    evaluated: tuple[ScoredNetwork, ...] = ()

    @classmethod
    def of(
        cls, rows: Sequence[ScoredNetwork], objectives: Sequence[Objective | str], teacher: ScoredNetwork | None = None
    ) -> Front:
        """The non-dominated of `rows`; never one with a non-finite objective, of equal ones the first.

        Raises:
            ValueError: no objective, an unknown one, or one that a row's metrics lack.
        """
        parsed = Objective.parse(objectives)
        points = _points(rows, parsed)
        finite: npt.NDArray[np.int64] = np.flatnonzero(np.isfinite(points).all(axis=1))
        if len(finite):
            finite = finite[moocore.is_nondominated(points[finite], maximise=[o.maximise for o in parsed])]
        front = cls(tuple(rows[i] for i in finite.tolist()), parsed, teacher, tuple(rows))
        return replace(front, rows=front.ordered(front.rows))

    def ordered(self, rows: Iterable[ScoredNetwork]) -> tuple[ScoredNetwork, ...]:
        """Networks from cheap to dear, in the first objective that is a cost."""
        return tuple(sorted(rows, key=lambda row: self._axis.value(row.metrics)))

    @property
    def _axis(self) -> Objective:
        return next((objective for objective in self.objectives if not objective.maximise), self.objectives[0])

    @property
    def points(self) -> Floats:
        """Objective values, shape (rows, objectives)."""
        return _points(self.rows, self.objectives)

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """What the front dominates, up to the given worst value of each objective."""
        corner = [objective.value(reference) for objective in self.objectives]
        if not self.rows:
            return 0.0
        return float(moocore.hypervolume(self.points, ref=corner, maximise=[o.maximise for o in self.objectives]))

    def growth(self) -> Floats:
        """The hypervolume of what was evaluated first, shape (evaluated,), as a share of that of all: 1 at the end.

        Up to the worst of each objective. Rows without a finite figure add nothing; it is all zeros where no row is
        better than another.

        >>> figures = ((90.0, 3e6), (95.0, 4e6), (85.0, 1e6), (92.0, 2e6))
        >>> rows = [ScoredNetwork(f"n{i}", None, {"accuracy": a, "macs": m}) for i, (a, m) in enumerate(figures)]
        >>> Front.of(rows, ["accuracy", "macs"]).growth().round(2).tolist()
        [0.36, 0.36, 0.36, 1.0]
        """
        points = _points(self.evaluated, self.objectives)
        finite = np.isfinite(points.sum(axis=1))
        maximise = [objective.maximise for objective in self.objectives]
        grown = np.zeros(len(points))
        if not finite.any():
            return grown
        known = points[finite]
        worst = np.where(maximise, known.min(axis=0), known.max(axis=0))
        for i in range(len(points)):
            first = points[: i + 1][finite[: i + 1]]
            grown[i] = moocore.hypervolume(first, ref=worst, maximise=maximise) if len(first) else 0.0
        return grown / grown[-1] if grown[-1] else grown

    def knee(self) -> ScoredNetwork:
        """The row farthest beyond the plane through the front's ends, each objective on its range.

        Raises:
            ValueError: the front is empty.
        """
        self._check()
        return self.rows[int(np.argmin(self._losses().sum(axis=1)))]

    def best(
        self,
        objective: Objective | str | None = None,
        budget: Mapping[str, Any] | Sequence[Constraint] = (),
        **limits: Any,
    ) -> ScoredNetwork:
        """The best row in an objective, by default the first, within a budget: `best("accuracy", macs=0.5)`.

        Limits are of a figure by its name, an upper one or a pair; fractions are of the teacher's, or else of the
        largest row's.

        Raises:
            ValueError: no row fits; says what the front reaches.
            ValueError: the front is empty, or has no such objective.
        """
        wanted = self._named(objective)
        return max(self.within(budget, **limits).rows, key=lambda row: wanted.gain(wanted.value(row.metrics)))

    def within(self, budget: Mapping[str, Any] | Sequence[Constraint] = (), **limits: Any) -> Front:
        """The rows that keep a budget, which is as for `best`.

        Raises:
            ValueError: no row does; says what the front reaches.
        """
        self._check()
        given = {**budget, **limits} if isinstance(budget, Mapping) else limits
        own = {o.name: o for o in self.objectives if isinstance(o, CostObjective)}
        constraints = list(Constraint.parse({own.get(name, name): limit for name, limit in given.items()}))
        constraints += [] if isinstance(budget, Mapping) else budget
        fitting = list(self.rows)
        for constraint in constraints:
            values = [row.metrics.get(constraint.name, math.nan) for row in self.rows]
            largest = max(values) if self.teacher is None else self.teacher.metrics.get(constraint.name, max(values))
            low, high = constraint.resolved(largest).range
            fitting = [row for row in fitting if low <= row.metrics.get(constraint.name, math.nan) <= high]
            if not fitting:
                reach = f"{constraint.objective.written(min(values))} to {constraint.objective.written(max(values))}"
                raise ValueError(f"no row of the front has {constraint}; they reach from {reach}")
        return replace(self, rows=tuple(fitting))

    def _named(self, objective: Objective | str | None) -> Objective:
        """The front's objective of a name; the first where none is named."""
        name = objective.name if isinstance(objective, Objective) else objective or self.objectives[0].name
        known = {own.name: own for own in self.objectives}
        if name not in known:
            raise ValueError(f"the front has the objectives {', '.join(known)}, got {name!r}")
        return known[name]

    def spread(self, number: int) -> Front:
        """The front with at most `number` rows: both ends, then always the row farthest from those taken.

        Raises:
            ValueError: fewer than 1 row asked for.
        """
        if number < 1:
            raise ValueError(f"a front is thinned to 1 row or more, got {number}")
        if len(self.rows) <= number:
            return self
        if number == 1:
            return replace(self, rows=(self.knee(),))
        losses, taken = self._losses(), [0, len(self.rows) - 1]
        while len(taken) < number:
            distance = np.linalg.norm(losses[:, None] - losses[None, taken], axis=2).min(axis=1)
            distance[taken] = -1.0  # rows may coincide after later measurements
            taken.append(int(distance.argmax()))
        return replace(self, rows=tuple(self.rows[i] for i in sorted(taken)))

    def strata(self, number: int) -> Front:
        """Both ends of the front, and between them the best of all that was evaluated in each of equal ranges of cost.

        Costs are cut on a logarithmic scale into `number` ranges, of which the ends have one each; dominated rows are
        among them: before networks learn on by themselves, their sizes say more of what they will come to than their
        figures. Without a positive cost it is `spread`.

        >>> figures = ((90.0, 1e6), (89.0, 2e6), (88.0, 3e6), (91.0, 8e6), (90.0, 9e6))
        >>> rows = [ScoredNetwork(f"n{i}", None, {"accuracy": a, "macs": m}) for i, (a, m) in enumerate(figures)]
        >>> front = Front.of(rows, ["accuracy", "macs"])
        >>> [row.name for row in front.rows], [row.name for row in front.strata(3).rows]
        (['n0', 'n3'], ['n0', 'n2', 'n3'])

        Raises:
            ValueError: fewer than 1 row asked for.
        """
        first, axis = self.objectives[0], self._axis
        ends = [axis.value(row.metrics) for row in self.rows[:1] + self.rows[-1:]]
        if axis.maximise or number < 3 or not ends or not 0 < ends[0] < ends[-1]:
            return self.spread(number)
        walls = np.geomspace(ends[0], ends[-1], number + 1)
        best: dict[int, ScoredNetwork] = {}
        for row in self.ordered(self.evaluated):
            cost, gain = axis.value(row.metrics), first.gain(first.value(row.metrics))
            part = int(np.searchsorted(walls, cost))
            if not 1 < part < number or not math.isfinite(gain):
                continue
            if part not in best or gain > first.gain(first.value(best[part].metrics)):
                best[part] = row
        return replace(self, rows=(self.rows[0], *best.values(), self.rows[-1]))

    def apart(self, least: Callable[[float], float]) -> Front:
        """Without rows whose first objective is hardly better than that of one that costs less.

        A row stays if it is better by more than `least` gives for its figure than every row that stays and is as good
        in the other objectives: of near-ties the cheapest.

        >>> figures = ((90.0, 1e6), (90.2, 2e6), (95.0, 3e6))
        >>> rows = [ScoredNetwork(f"n{i}", None, {"accuracy": a, "macs": m}) for i, (a, m) in enumerate(figures)]
        >>> [row.name for row in Front.of(rows, ["accuracy", "macs"]).apart(lambda accuracy: 0.5).rows]
        ['n0', 'n2']
        """
        first, *others = self.objectives
        kept: list[ScoredNetwork] = []
        for row in self.rows:
            value = first.value(row.metrics)
            rivals = [
                k for k in kept if all(o.gain(o.value(k.metrics)) >= o.gain(o.value(row.metrics)) for o in others)
            ]
            gains = [first.gain(value) - first.gain(first.value(rival.metrics)) for rival in rivals]
            if not gains or min(gains) > least(value):
                kept.append(row)
        return replace(self, rows=tuple(kept))

    def _check(self) -> None:
        if not self.rows:
            raise ValueError("the front is empty: nothing was evaluated, or every result was non-finite")

    def _losses(self) -> Floats:
        """Distance of every row from the best of each objective, as a part of the front's range."""
        gains = self.points * np.array([1.0 if o.maximise else -1.0 for o in self.objectives])
        span = np.ptp(gains, axis=0)
        losses: Floats = (gains.max(axis=0) - gains) / np.where(span > 0, span, 1.0)
        return losses

    def table(self, title: str = "", beside: Sequence[str] = ()) -> Table:
        """The rows under the teacher's, with the teacher's MACs as the measure, and the intervals that are known.

        `beside` names more metrics to show.

        Zeros in N:M patterns spare MACs on hardware that skips them; elsewhere they are executed.
        """
        from rich.table import Table

        rows = [*([] if self.teacher is None else [self.teacher]), *self.rows]
        names = (_COLUMNS[0], *beside, *_COLUMNS[1:], *(objective.name for objective in self.objectives))
        wanted = [found(name, self.objectives) for name in names]
        own = {o.name: o for o in wanted if o is not None}
        both = [(f"{before}{name}", o) for name, o in own.items() for before in ("", PREDICTED)]
        shown = {name: o for name, o in both if any(name in row.metrics for row in rows)}
        table = Table(title=title or " against ".join(objective.name for objective in self.objectives))
        table.add_column("name", no_wrap=True)
        for name in shown:
            title = PREDICTED.strip("_") if name.startswith(PREDICTED) else name
            table.add_column(title, justify="right", no_wrap=True)
        patterned = any(EXECUTED in row.metrics for row in rows)
        for title in ("of its MACs", "on N:M hardware")[: 1 + patterned]:
            table.add_column(title, justify="right", no_wrap=True)
        whole = None if self.teacher is None else self.teacher.metrics.get("macs")
        for row in rows:
            macs = row.metrics.get("macs", math.nan)
            counted = [row.metrics.get(EXECUTED, macs), macs][: 1 + patterned]
            shares = [f"{100 * n / whole:.1f} %" if whole and math.isfinite(n) else "-" for n in counted]
            cells = [o.written(row.metrics.get(name), ends_of(row.metrics, name)) for name, o in shown.items()]
            style = "bold" if row is self.teacher else None
            table.add_row(row.name, *cells, *shares, style=style)
        return table

    def remarks(self, name: str = "accuracy") -> list[str]:
        """What the intervals say of the rows and the teacher, and what became of the figures they were chosen by."""
        alike = [row.name for row in self.rows if self.teacher and overlap(row.metrics, self.teacher.metrics, name)]
        lines = [f"not told apart from the teacher (95 % intervals): {', '.join(alike)}"] if alike else []
        return [*lines, *filter(None, [shrinkage([row.metrics for row in self.rows], name)])]

    def picture(
        self,
        path: str | Path,
        across: str | None = None,
        up: str | None = None,
        title: str = "",
        tested: Sequence[ScoredNetwork] = (),
        budget: Sequence[Constraint] = (),
    ) -> Path:
        """Draw a PNG, SVG or PDF file; `across` and `up` name other metrics than the objectives.

        `tested` are rows with figures of another split: they stand before the front that they were chosen from, named,
        with their intervals. Limits of the `budget` on what goes across are lines.
        """
        return draw(
            Path(path),
            self.objectives,
            front=[row.metrics for row in self._stairs],
            evaluated=[row.metrics for row in self.evaluated],
            teacher={row.name: row.metrics for row in self._teachers(tested)},
            tested={row.name: row.metrics for row in tested if row.name != TEACHER},
            across=across,
            up=up,
            title=title,
            limits=self._limits(budget),
        )

    def page(self, path: str | Path, title: str = "", tested: Sequence[ScoredNetwork] = ()) -> Path:
        """Write an HTML file that shows figures where the mouse is, and all choices of a network that one clicks.

        Below them it shows the hypervolume over the evaluations. It stands alone: nothing is loaded. `tested` are as in
        `picture`.
        """
        groups = {
            "evaluated": self.evaluated,
            "front": self._stairs,
            "taken (test)": [row for row in tested if row.name != TEACHER],
            "teacher": self._teachers(tested),
        }
        return write_page(Path(path), self.objectives, groups, title, self.growth())

    @property
    def _stairs(self) -> tuple[ScoredNetwork, ...]:
        """The rows that no other one beats: among those that were finetuned some may be."""
        known = [row for row in self.rows if all(o.name in row.metrics for o in self.objectives)]
        return Front.of(known, self.objectives).rows

    def _teachers(self, tested: Sequence[ScoredNetwork]) -> list[ScoredNetwork]:
        """The teacher with its figures of the tests, or else with those that it has; none where there is none."""
        return [row for row in (*tested, self.teacher) if row is not None and row.name == TEACHER][:1]

    def _limits(self, budget: Sequence[Constraint]) -> dict[str, float]:
        """Upper limits by name, fractions resolved by the teacher's costs."""
        costs: Metrics = {} if self.teacher is None else self.teacher.metrics
        resolved = {c.name: c.resolved(costs.get(c.name, math.nan)).range[1] for c in budget}
        return {name: limit for name, limit in resolved.items() if math.isfinite(limit)}

    def to_json(self) -> list[dict[str, Any]]:
        """The teacher's row, if there is one, and the rows of the front."""
        return [row.to_json() for row in (*([] if self.teacher is None else [self.teacher]), *self.rows)]

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]], objectives: Sequence[Objective | str]) -> Front:
        """Read what `to_json` gave; the rows stay as they are.

        Raises:
            ValueError: a row is no such object.
        """
        parsed = [ScoredNetwork.from_json(row) for row in rows]
        teacher = next((row for row in parsed if row.name == TEACHER), None)
        return cls(tuple(row for row in parsed if row is not teacher), Objective.parse(objectives), teacher)


def _points(rows: Sequence[ScoredNetwork], objectives: Sequence[Objective]) -> Floats:
    values = [[objective.value(row.metrics) for objective in objectives] for row in rows]
    return np.array(values, dtype=np.float64).reshape(len(rows), len(objectives))
