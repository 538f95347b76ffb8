"""The whole search in one call, on a problem of the user's own: no supernet, no training, no files."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.search.archive import Archive
from ofa.search.crew import Crew
from ofa.search.engines import Engine
from ofa.search.evaluation import Evaluate, Map, run
from ofa.search.front import Front
from ofa.search.learning import Guided
from ofa.search.objectives import CostObjective, Floats, Objective, objectives
from ofa.search.problem import Costs, Problem
from ofa.space import Choice, Genome, SearchSpace, Subnet

Wanted = Mapping[str, str] | Sequence[Objective | str]


def optimise(
    space: SearchSpace | Mapping[str, Sequence[int | str]],
    evaluate: Evaluate,
    objectives: Wanted,
    costs: Callable[[Subnet], Mapping[str, float]] | None = None,
    budget: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    archive: str | Path = ":memory:",
    map: Map = builtins.map,
    on_note: Callable[[str], Any] | None = None,
    crew: Crew | None = None,
) -> Front:
    """The front of a function of the user's: `evaluate` gives the figures of a point, as expensive as it may be.

    `space` are options by name, each list ascending. `objectives` are figures by name, "max" or "min". What `costs`
    computes of a point is never learned, and `budget` limits it; it is called often, and has to be quick. With a path,
    every evaluation is kept in `archive`, and the same call goes on where it was stopped. `Crew(executor, 8)` evaluates
    eight points at a time on any executor of `concurrent.futures`.

    >>> def evaluate(point):
    ...     return {"yield": 10.0 - (point["heat"] - 3) ** 2 + point["time"]}
    >>> front = optimise(
    ...     {"heat": [1, 2, 3, 4, 5], "time": [1, 2, 4, 8]},
    ...     evaluate,
    ...     objectives={"yield": "max", "price": "min"},
    ...     costs=lambda point: {"price": 2.0 * point["heat"] + point["time"]},
    ...     budget={"price": 12},
    ... )
    >>> dict(front.best("yield").subnet), dict(front.best("yield", price=8).subnet)
    ({'heat': 2, 'time': 8}, {'heat': 2, 'time': 4})

    Raises:
        ValueError: an empty space, an objective that is neither max nor min, a budget that is out of reach.
    """
    space = space if isinstance(space, SearchSpace) else options(space)
    priced = extent(space) if costs is None else by_row(space, costs)
    known = set(priced(space.encode(space.largest)[None]))
    problem = Problem.parse(space, wanted(objectives, known), priced, limits(budget or {}, known))
    search = (engine or Guided()).start(problem, seed)
    with Archive(archive) as kept:
        return run(search, evaluate, kept, map=map, on_note=on_note, crew=crew)


def options(named: Mapping[str, Sequence[int | str]]) -> SearchSpace:
    """A space of options by name."""
    return SearchSpace(tuple(Choice(name, "width", tuple(values)) for name, values in named.items()))


def by_row(space: SearchSpace, costs: Callable[[Subnet], Mapping[str, float]]) -> Costs:
    """Costs of arrays of genomes from a function of one point, which is called once for each."""
    known: dict[bytes, Mapping[str, float]] = {}

    def priced(genomes: Genome) -> Mapping[str, Floats]:
        for genome in genomes:
            if genome.tobytes() not in known:
                known[genome.tobytes()] = costs(space.decode(genome))
        rows = [known[genome.tobytes()] for genome in genomes]
        names = rows[0] if rows else costs(space.largest)
        return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}

    return priced


def extent(space: SearchSpace) -> Costs:
    """What a search spreads along where nothing has a cost: how far options are from the first ones."""
    return lambda genomes: {"extent": 1.0 + (genomes / np.maximum(space.counts - 1, 1)).sum(axis=1)}


def wanted(given: Wanted, costs: set[str]) -> list[Objective]:
    """Objectives from names with "max" or "min"; ours, and objects, as they are.

    Raises:
        ValueError: another word, or a bare name that is none of ours.
    """
    if not isinstance(given, Mapping):
        return list(Objective.parse(given))
    for name, direction in given.items():
        if direction not in ("max", "min"):
            raise ValueError(f"objective {name!r} is to be 'max' or 'min', got {direction!r}")
    return [figure(name, direction == "max", name in costs) for name, direction in given.items()]


def limits(budget: Mapping[str, Any], costs: set[str]) -> dict[Any, Any]:
    """The same budget, with objects in place of names that are not ours."""
    return {figure(name, False, True) if name in costs else name: limit for name, limit in budget.items()}


def figure(name: str, maximise: bool, cost: bool) -> Objective:
    """The objective of a figure by its name; ours where it is one of ours and has this direction."""
    ours = objectives().get(name)
    if ours is not None and ours.maximise == maximise:
        return ours()
    kind: type[Objective] = CostObjective if cost else Objective
    made: type[Objective] = type(name, (kind,), {"name": name, "label": name, "maximise": maximise})
    return made()
