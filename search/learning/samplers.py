"""Optuna's samplers as engines (Akiba et al., 2019): they propose, the ledger here keeps the books."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Literal

import numpy as np

from ofa.search.engines import Engine, Ledger, Proposer, check_numbers, global_generators, usual_evaluations
from ofa.search.problem import Problem
from ofa.space import Genome

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "gp", "nsgaii", "cmaes"]


@dataclass(frozen=True)
class OptunaSearch(Engine):
    """Settings of a search by one of Optuna's samplers: `sampler` is tpe, gp, nsgaii, or with one objective cmaes.

    `population` is the number of subnets asked for at a time, `evaluations` that of all.
    A proposal outside the budget is moved into it, and what it becomes is what the sampler hears of.

    >>> OptunaSearch(sampler="annealing")
    Traceback (most recent call last):
        ...
    ValueError: sampler is tpe, gp, nsgaii or cmaes, got 'annealing'
    """

    sampler: Sampler = "tpe"
    population: int = 10
    evaluations: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self.evaluations, self.population)
        if self.sampler not in ("tpe", "gp", "nsgaii", "cmaes"):
            raise ValueError(f"sampler is tpe, gp, nsgaii or cmaes, got {self.sampler!r}")

    def check(self) -> None:
        if self.sampler == "cmaes" and not any(distributions(name="cmaes")):
            raise ValueError("sampler=cmaes needs a package of that name: pip install cmaes")

    def size(self, problem: Problem) -> tuple[int, int]:
        return self.evaluations or usual_evaluations(problem), self.population

    def proposer(self, problem: Problem) -> Proposer:
        if self.sampler == "cmaes" and len(problem.objectives) > 1:
            raise ValueError(
                f"sampler=cmaes has one objective, got {len(problem.objectives)}; tpe, gp, nsgaii have any"
            )
        return Trials(self, problem)


class Trials(Proposer):
    """A study in memory, and which trial became which genome."""

    def __init__(self, settings: OptunaSearch, problem: Problem) -> None:
        self.settings, self.problem = settings, problem
        self._study: optuna.Study | None = None
        self._open: list[tuple[optuna.Trial, bytes]] = []

    def propose(self, ledger: Ledger, number: int, rng: np.random.Generator) -> Genome:
        with quiet(), global_generators(int(rng.integers(2**32))):
            study = self._study = self._study or self._begun(rng)
            self._tell(study, ledger)
            trials = [study.ask() for _ in range(number)]
            drawn = np.array([self._genome(trial) for trial in trials], dtype=np.int64)
        inside = [ledger.problem.repaired(genome[None], rng) for genome in drawn]
        self._open += [(trial, g[0].tobytes()) for trial, g in zip(trials, inside, strict=True) if len(g)]
        return np.concatenate(inside)

    def _genome(self, trial: optuna.Trial) -> list[int]:
        choices = self.problem.space.choices
        return [trial.suggest_int(choice.name, 0, len(choice.options) - 1) for choice in choices]

    def _tell(self, study: optuna.Study, ledger: Ledger) -> None:
        """Tell what became of the trials; those that led to nothing that was evaluated failed."""
        import optuna

        pending = {genome.tobytes() for genome in ledger.pending}
        for trial, key in (pair for pair in self._open if pair[1] not in pending):
            gains = ledger.gains(np.frombuffer(key, dtype=np.int64))
            if gains is None or not np.all(np.isfinite(gains)):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, list(gains))
        self._open = [pair for pair in self._open if pair[1] in pending]

    def _begun(self, rng: np.random.Generator) -> optuna.Study:
        import optuna
        from optuna import samplers

        seed = int(rng.integers(2**31))
        kinds = {
            "tpe": lambda: samplers.TPESampler(seed=seed, multivariate=True),
            "gp": lambda: samplers.GPSampler(seed=seed),
            "nsgaii": lambda: samplers.NSGAIISampler(seed=seed, population_size=40),
            "cmaes": lambda: samplers.CmaEsSampler(seed=seed),
        }
        directions = ["maximize"] * len(self.problem.objectives)
        return optuna.create_study(sampler=kinds[self.settings.sampler](), directions=directions)


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna says nothing inside, neither of trials nor of what it calls experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
