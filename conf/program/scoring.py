"""How the subnets of a run are scored: what they cost, what their scores hold for, and in which processes."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext

from torch import nn

import ofa
from ofa.conf.program.job import Job
from ofa.conf.program.records import digest
from ofa.search import LatencyPredictor
from ofa.search.evaluation import Evaluate, Map
from ofa.search.objectives import priced
from ofa.search.problem import Costs
from ofa.search.workers import workers


def costs_of(job: Job, supernet: ofa.Supernet) -> Costs:
    """Exact costs, with a predicted latency where one is wanted.

    Raises:
        ValueError: it is wanted, and the latency stage has not been finished.
    """
    costs = priced(supernet, [*job.objectives, *(constraint.objective for constraint in job.constraints)])
    if not job.latency_matters:
        return costs
    path = job.folder / "latency.json"
    if not path.exists():
        raise ValueError(f"latency_ms is wanted and {path} is missing: run the stage 'latency' first")
    return LatencyPredictor.from_json(path.read_text()).attach(costs)


def context_of(job: Job, supernet: ofa.Supernet) -> dict[str, str]:
    """What scores hold for: network, weights, data."""
    return {
        "network": supernet.digest,
        "weights": weights_digest(supernet),
        "data": digest(job.settings("teacher")),
    }


def evaluators(job: Job, evaluate: Evaluate) -> AbstractContextManager[tuple[Evaluate, Map]]:
    """Who evaluates, and how subnets get there: this process, or `workers` others."""
    if job.workers == 1:
        return nullcontext((evaluate, map))
    return workers(evaluate, job.workers, job.devices, int(job.config.threads))


def weights_digest(model: nn.Module) -> str:
    """Identifies the values of all parameters and buffers."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]
