"""How the subnets of a run are scored: what they cost, what their scores hold for, and in which processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np

import ofa
from ofa.conf.program.latencies import MODEL, model_of
from ofa.conf.program.records import digest
from ofa.conf.program.run import Run
from ofa.persistence import weights_digest
from ofa.search import Constraint
from ofa.search.cluster import ray_workers
from ofa.search.crew import Spread
from ofa.search.evaluation import Evaluate
from ofa.search.objectives import Floats, LatencyMs, priced
from ofa.search.problem import Costs, Problem, UnitScores
from ofa.search.workers import workers
from ofa.slicing import Importance
from ofa.train.saliency import gather

Item = TypeVar("Item")
Found = TypeVar("Found")


def costs_of(run: Run, supernet: ofa.Supernet) -> Costs:
    """Exact costs, with a predicted latency where one is wanted.

    Raises:
        ValueError: it is wanted, and the latency stage has not been finished.
    """
    settings = run.settings
    costs = priced(supernet, [*settings.objectives, *(constraint.objective for constraint in settings.constraints)])
    if not settings.latency_matters:
        return costs
    for name in run.settings.timers:
        model = model_of(run, name)
        if model is None:
            raise ValueError(f"{name} is wanted and not in {run.folder / MODEL}: run the stage 'latency' first")
        costs = model.attach(costs, supernet.features, name)
    return costs


def check_budget(run: Run, limits: Sequence[Constraint]) -> None:
    """Refuse a budget that no subnet of the untrained network meets; what a latency will be, nobody knows yet.

    Raises:
        ValueError: says what the space reaches.
    """
    known = [limit for limit in limits if not isinstance(limit.objective, LatencyMs)]
    if known and not run.folder.has("supernet.pt"):
        outline = run.outline
        costs = priced(outline, [*run.settings.objectives, *(limit.objective for limit in known)])
        problem = Problem.parse(outline.space, run.settings.objectives, costs, known)
        problem.pool(np.random.default_rng(run.settings.seed), 1)


def importance_of(run: Run, supernet: ofa.Supernet) -> UnitScores:
    """The importance of the supernet's units by a measure, from gradients on training pictures where it needs them."""

    def scores(measure: Importance) -> Mapping[str, Floats]:
        gather(supernet, measure, run.splits, run.settings.task)
        return supernet.importance(measure)

    return scores


def context_of(run: Run, supernet: ofa.Supernet) -> dict[str, str]:
    """What scores hold for: network, weights, data."""
    return {
        "network": supernet.digest,
        "weights": weights_digest(supernet),
        "data": digest(run.settings.plain("backbone", "data", "task", "teacher", "seed")),
    }


def evaluations_seconds(run: Run) -> float:
    """What the evaluations of a search take at most: the largest subnet's, times their number."""
    settings, supernet = run.settings, run.supernet
    learner = run.learner(supernet)
    samples = len(learner.splits.validation)
    problem = Problem.parse(supernet.space, ["accuracy"], priced(supernet, []), samples=samples)
    number, _ = settings.search.size(problem)
    assert learner.calibration
    started = time.perf_counter()
    learner.evaluate_subnet(supernet.space.largest)
    return number * (time.perf_counter() - started) / settings.workers


def evaluators(run: Run, evaluate: Evaluate) -> AbstractContextManager[tuple[Evaluate, Spread]]:
    """Who evaluates, and how subnets get there: this process, `workers` others, or a crew on Ray."""
    if run.settings.on_ray:
        return ray_workers(evaluate, on_gpu=run.settings.device.type == "cuda", threads=run.settings.threads)
    return hands(run, evaluate, run.settings.workers)


def hands(
    run: Run, work: Callable[[Item], Found], number: int, hear: Callable[[Any], object] | None = None
) -> AbstractContextManager[tuple[Callable[[Item], Found], Spread]]:
    """Who works, and how items get there: this process, or a number of others, which are heard."""
    settings = run.settings
    if number == 1:
        return nullcontext((work, map))
    return workers(work, number, settings.devices, settings.threads, hear)
