"""What a sensitivity analysis has found, as the Vitis AI Optimizer writes it (`.sens`), and the curves through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ofa import Choice, SearchSpace, Subnet
from ofa.search.pruning import Curves, Sensitivity, damage, grid_of, missing, shares_of
from ofa.search.vitis.direction import announced, direction
from ofa.search.vitis.errors import OptimizerInvalidAnaResultError
from ofa.search.vitis.files import read_json, write_json
from ofa.search.vitis.groups import Group, option_at, share_removed
from ofa.search.vitis.results import gain

NOTHING: Mapping[str, float] = {}
WORTHLESS = 1e6  # damage, above any that is measured
_MILLION = 1_000_000  # shares as integers: options of a choice that holds those of another


@dataclass
class Analysis:
    """Scores by group and share removed; `rows` are the groups of the file, `mode` says which scores are better.

    `graph` and `weights` are digests, empty in a file of Vitis' own; `pending` names what is still to be scored;
    `calibrated`: each network was, before it was scored; `importance` ranked the units, by `gradients` if that is a
    digest; layers `excluded` by it are not pruned without being asked for, nor convolutions in groups without
    `with_group_conv`. A row may have a `limit`, the most that its group loses.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    mode: str = ""
    graph: str = ""
    weights: str = ""
    pending: list[Any] = field(default_factory=list)
    calibrated: bool = False
    importance: str = ""
    gradients: str = ""
    excluded: list[str] = field(default_factory=list)
    with_group_conv: bool = True

    @classmethod
    def read(cls, path: Path) -> Analysis:
        """Read our file or Vitis'.

        Raises:
            ValueError: it is another file; a pickle is not read.
        """
        content = read_json(path, "groups")
        try:
            rows = [
                {**row, "nodes": list(row["nodes"]), "metrics": [[share_of(s), float(v)] for s, v in row["metrics"]]}
                for row in content["groups"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise OptimizerInvalidAnaResultError(f"{path} is no sensitivity analysis: {error!r}") from None
        keys = ("mode", "graph_digest", "weights_digest", "importance", "gradients_digest")
        mode, graph, weights, importance, gradients = (str(content.get(key) or "") for key in keys)
        steps = list(content.get("uncompleted_steps") or ())
        barred, grouped = list(content.get("excludes") or ()), bool(content.get("with_group_conv", True))
        calibrated = bool(content.get("calibrated"))
        return cls(rows, mode, graph, weights, steps, calibrated, importance, gradients, barred, grouped)

    def write(self, path: Path) -> None:
        content = {
            "groups": self.rows,
            "uncompleted_steps": self.pending,
            "graph_digest": self.graph,
            "weights_digest": self.weights,
            "mode": self.mode,
            "calibrated": self.calibrated,
            "importance": self.importance,
            "gradients_digest": self.gradients,
            "excludes": self.excluded,
            "with_group_conv": self.with_group_conv,
        }
        write_json(path, content)

    @property
    def baseline(self) -> float | None:
        """The score of the whole network."""
        return next((v for row in self.rows for share, v in row["metrics"] if share is None), None)

    @property
    def pruned(self) -> list[float]:
        """The scores of all other networks."""
        return [v for row in self.rows for share, v in row["metrics"] if share is not None]

    @property
    def direction(self) -> str:
        """Which scores are better, as it is said or else told by the scores themselves; empty where that cannot be."""
        whole = self.baseline
        return self.mode or ("" if whole is None else direction(whole, self.pruned))

    @property
    def announcement(self) -> str:
        """A sentence on the direction, if there is something to say."""
        whole = self.baseline
        return announced(self.mode, whole, self.pruned) if whole is not None and self.direction else ""

    def is_like(self, asked: Analysis) -> bool:
        """Whether its scores are of the same networks."""
        same = ("graph", "weights", "calibrated", "importance", "gradients")
        return all(getattr(self, name) == getattr(asked, name) for name in same)

    def scores(self, group: Group) -> dict[float, float]:
        """Scores of a group by share removed; the worst where several rows are about it."""
        found: dict[float, float] = {}
        mode = self.direction or "max"
        for share, value in (m for row in self.rows if group.matches(row) for m in row["metrics"]):
            if share is not None:
                both = (value, found.get(float(share), value))
                found[float(share)] = min(both, key=lambda score: gain(score, mode))
        return found

    def damages(self, group: Group) -> dict[float, float]:
        """Damage by share removed, as `Sensitivity` counts it; a score that is not finite is worth nothing at all."""
        whole = self.baseline
        if whole is None:
            return {}
        mode = self.direction or "max"
        gains = {share: gain(score, mode) for share, score in self.scores(group).items()}
        before = gain(whole, mode)
        return {s: damage(before, g) if np.isfinite(g) else WORTHLESS for s, g in gains.items()}

    def curves(self, space: SearchSpace, groups: Sequence[Group]) -> Curves:
        """Damage curves over the options of `space`, which need not be the options that were scored.

        The largest of them, what an earlier round may have left, costs nothing any more.
        """
        every = {group.name: group.choice for group in groups}
        known = {group.name: self.damages(group) for group in groups}
        damages = []
        for choice in space.choices:
            whole = every.get(choice.name, choice)
            damage = curve(whole, known.get(choice.name, {}))[[whole.options.index(o) for o in choice.options]]
            damages.append(np.append(damage[:-1], 0.0))
        return Curves(space, tuple(damages))

    def allowed(self, space: SearchSpace, groups: Sequence[Group]) -> SearchSpace:
        """The part of a space in which no group loses more than its limit."""
        limits = {g.name: float(row.get("limit", 1)) for g in groups for row in self.rows if g.matches(row)}
        kept = {
            g.name: [o for o in space[g.name].options if share_removed(g.choice, o) <= limits.get(g.name, 1) + 1e-9]
            for g in groups
        }
        return space.restrict(kept)


def curve(choice: Choice, known: Mapping[float, float]) -> Any:
    """The damage of every option, shape (options,), through damages known by share removed."""
    own = np.rint(shares_of(choice) * _MILLION).astype(int)
    given = {round((1 - share) * _MILLION): round(value, 12) for share, value in known.items()}
    every = sorted({*own.tolist(), *given, _MILLION})
    fine = SearchSpace((Choice(choice.name, "width", tuple(every)),))
    (damages,) = Curves.through(fine, [{every.index(share): value for share, value in given.items()}]).damages
    return damages[np.searchsorted(every, own)]


def share_of(value: Any) -> float | None:
    """The share removed of a point in a file; None is the whole network's."""
    return None if value is None else float(value)


def check_baseline(score: float) -> None:
    """Raise an error where the whole network's score is no number that others could be compared with."""
    if not np.isfinite(score):
        raise OptimizerInvalidAnaResultError(
            f"the score of the whole network is a finite number, got {score}: look at eval_fn"
        )


def rows_of(
    groups: Sequence[Group], scores: Mapping[Subnet, float], limits: Mapping[str, float] = NOTHING
) -> list[dict[str, Any]]:
    """Rows of a file from the scores of subnets that differ from the whole network in one choice at most."""
    whole, alone = [], dict[str, dict[int, float]]()
    for subnet, score in scores.items():
        smaller = [group for group in groups if subnet[group.name] != group.choice.largest]
        if smaller:
            alone.setdefault(smaller[0].name, {})[int(subnet[smaller[0].name])] = score
        else:
            whole.append([None, score])
    rows = []
    for group in groups:
        found = sorted(alone.get(group.name, {}).items(), reverse=True)
        points = [[share_removed(group.choice, option), score] for option, score in found]
        limit = {"limit": limits[group.name]} if group.name in limits else {}
        rows.append({**group.to_json(), **limit, "metrics": [*whole, *points]})
    return rows


def pending(rows: list[dict[str, Any]], groups: Sequence[Group], settings: Sensitivity, mode: str) -> list[str]:
    """What an analysis still has to score, in words."""
    analysis = Analysis(rows, mode)
    if analysis.baseline is None:
        return ["the whole network"]
    words = []
    for group in groups:
        choice, shares = group.choice, shares_of(group.choice)
        points = {choice.options.index(option_at(choice, s)): d for s, d in analysis.damages(group).items()}
        points[len(shares) - 1] = 0.0
        limits = (settings.tolerance, settings.ceiling) if settings.adaptive else None
        wanted = missing(shares, grid_of(choice, settings.grid), points, limits)
        words += [f"{group.nodes[0]} at {1 - shares[option]:.4f}" for option in wanted]
    return words
