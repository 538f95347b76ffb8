"""Several runs of several kinds side by side: means over seeds, and which kinds can be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from ofa.files import replacing
from ofa.search.certainty import VALIDATION
from ofa.search.front import Front
from ofa.search.objectives import Floats

SHARES = (0.75, 0.5, 0.25, 0.1)
AREA = "area"
"""The mean of the accuracy that a front has at each share of the MACs, 0 where it has no network that small."""


@dataclass(frozen=True)
class Outcome:
    """One run: what kind it is, its seed, its front on the test split with the teacher, and its seconds."""

    kind: str
    seed: int
    front: Front
    seconds: float = math.nan

    @property
    def stairs(self) -> tuple[Floats, Floats]:
        """Shares of the teacher's MACs, ascending, and what accuracy one has up to each: what validation chooses."""
        assert self.front.teacher is not None
        whole, best, steps = self.front.teacher.metrics["macs"], -math.inf, []
        for row in sorted(self.front.rows, key=lambda row: row.metrics["macs"]):
            chosen_by = row.metrics.get(f"{VALIDATION}accuracy", row.metrics["accuracy"])
            if chosen_by > best:
                best = chosen_by
                steps.append((row.metrics["macs"] / whole, row.metrics["accuracy"]))
        shares, accuracies = np.array(steps, dtype=np.float64).reshape(-1, 2).T
        return shares, accuracies

    def accuracy(self, share: float) -> float:
        """On the test split, of the network that one would take under a share of the MACs; NaN where none is."""
        shares, accuracies = self.stairs
        place = int(np.searchsorted(shares, share * (1 + 1e-9))) - 1
        return float(accuracies[place]) if place >= 0 else math.nan

    @property
    def figures(self) -> dict[str, float]:
        """What is compared, by its name."""
        shares, accuracies = self.stairs
        inside = np.minimum(shares, 1.0)
        area = float(np.sum(accuracies * np.diff(np.append(inside, 1.0))))
        assert self.front.teacher is not None
        under = {f"at {100 * share:.0f} %": self.accuracy(share) for share in SHARES}
        return {"teacher": self.front.teacher.metrics["accuracy"], **under, AREA: area}


@dataclass(frozen=True)
class Difference:
    """One figure of one kind less that of another, over the seeds that both have: mean, half of its 95 % interval."""

    one: str
    other: str
    figure: str
    mean: float
    half: float
    seeds: int
    needed: int | None

    @property
    def verdict(self) -> str:
        """Whether they are told apart; where not, with how many seeds a difference like this one would be.

        >>> Difference("a", "b", "area", 1.0, 2.0, 3, 9).verdict
        'not told apart; about 9 seeds would be needed'
        """
        if self.seeds < 2:
            return "one seed tells nothing"
        if abs(self.mean) > self.half:
            return f"told apart: {self.one if self.mean > 0 else self.other} is better"
        needed = "" if self.needed is None else f"; about {self.needed} seeds would be needed"
        return f"not told apart{needed}"


@dataclass(frozen=True)
class Comparison:
    """Runs by their kind.

    >>> from ofa.search import ScoredNetwork
    >>> def run(kind, seed, accuracy):
    ...     rows = tuple(ScoredNetwork(f"n{m}", None, {"accuracy": accuracy - 10 / m, "macs": m}) for m in (2.0, 5.0))
    ...     teacher = ScoredNetwork("teacher", None, {"accuracy": 95.0, "macs": 10.0})
    ...     return Outcome(kind, seed, Front(rows, (), teacher))
    >>> both = Comparison((run("a", 0, 90), run("a", 1, 91), run("b", 0, 92), run("b", 1, 93.1)))
    >>> [d.verdict for d in both.differences("at 50 %")]
    ['told apart: b is better']
    """

    outcomes: tuple[Outcome, ...]

    @property
    def kinds(self) -> dict[str, list[Outcome]]:
        found: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            found.setdefault(outcome.kind, []).append(outcome)
        return found

    def rows(self) -> list[dict[str, str]]:
        """One a kind: the number of its runs, every figure with its standard deviation, the time."""
        return [
            {"kind": kind, "runs": str(len(runs))}
            | {name: spread([run.figures[name] for run in runs]) for name in runs[0].figures}
            | {"seconds": spread([run.seconds for run in runs], digits=0)}
            for kind, runs in self.kinds.items()
        ]

    def networks(self) -> list[dict[str, str | int | float]]:
        """Every network of every front, with all of its figures."""
        return [
            {"kind": outcome.kind, "seed": outcome.seed, "name": row.name, **row.metrics}
            for outcome in self.outcomes
            for row in outcome.front.rows
        ]

    def differences(self, figure: str = AREA) -> list[Difference]:
        """Every two kinds, paired by seed."""
        by_seed = {kind: {run.seed: run.figures[figure] for run in runs} for kind, runs in self.kinds.items()}
        return [
            difference(figure, (one, by_seed[one]), (other, by_seed[other])) for one, other in combinations(by_seed, 2)
        ]

    def picture(self, path: Path, title: str = "") -> Path:
        """The mean accuracy up to each share of the MACs, with a band from the worst seed to the best."""
        from matplotlib.figure import Figure  # slow to import

        from ofa.search.picture import by_logarithms, dress

        figure = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        across = np.geomspace(min(run.stairs[0][0] for run in self.outcomes), 1.0, 200)
        for kind, runs in self.kinds.items():
            heights = np.array([[run.accuracy(share) for share in across] for run in runs])
            whole = np.isfinite(heights).all(axis=0)
            places, heights = 100 * across[whole], heights[:, whole]
            (line,) = axes.plot(places, heights.mean(axis=0), label=f"{kind} ({len(runs)})", linewidth=1.6)
            axes.fill_between(
                places, heights.min(axis=0), heights.max(axis=0), color=line.get_color(), alpha=0.15, linewidth=0
            )
        dress(axes, "MACs (% of the teacher's)", "Accuracy on the test split (%)")
        by_logarithms(axes)
        axes.set_title(title, fontsize=10)
        with replacing(path, binary=True) as file:
            figure.savefig(file, format=path.suffix.lstrip("."))
        return path


def difference(figure: str, one: tuple[str, Mapping[int, float]], other: tuple[str, Mapping[int, float]]) -> Difference:
    """Of two kinds, by name and their figures by seed (Student's t of the differences)."""
    (first, a), (second, b) = one, other
    seeds = [seed for seed in a if seed in b and math.isfinite(a[seed] - b[seed])]
    apart = [a[seed] - b[seed] for seed in seeds]
    if len(seeds) < 2:
        return Difference(first, second, figure, mean(apart) if apart else math.nan, math.nan, len(seeds), None)
    from scipy.stats import t  # slow to import

    sd, middle = stdev(apart), mean(apart)
    half = float(t.ppf(0.975, len(seeds) - 1)) * sd / math.sqrt(len(seeds))
    wanted = (n for n in range(len(seeds) + 1, 1000) if float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n) < abs(middle))
    return Difference(first, second, figure, middle, half, len(seeds), next(wanted, None))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation; a dash where a run has no such figure.

    >>> spread([97.0, 98.0]), spread([97.0]), spread([97.0, float("nan")])
    ('97.50 ± 0.71', '97.00', '-')
    """
    if not all(map(math.isfinite, values)):
        return "-"
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table for a document."""
    lines = [" | ".join(cells) for cells in ([*rows[0]], *([*row.values()] for row in rows))]
    return "\n".join([f"| {lines[0]} |", "|---" * len(rows[0]) + "|", *(f"| {line} |" for line in lines[1:]), ""])


def latex(rows: Sequence[Mapping[str, str]]) -> str:
    r"""A table for a paper.

    >>> print(latex([{"kind": "a_b", "at 50 %": "97.5 ± 0.7"}]))
    \begin{tabular}{lr}
    kind & at 50 \% \\ \hline
    a\_b & 97.5 $\pm$ 0.7 \\
    \end{tabular}
    <BLANKLINE>
    """
    head, *body = [
        " & ".join(cell.replace("_", r"\_").replace("%", r"\%").replace("±", r"$\pm$") for cell in cells) + r" \\"
        for cells in ([*rows[0]], *([*row.values()] for row in rows))
    ]
    columns = "l" + "r" * (len(rows[0]) - 1)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", rf"{head} \hline", *body, r"\end{tabular}", ""])
