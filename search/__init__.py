"""Search over spaces: objectives, budgets, evaluation, archive, engines, front, latency."""

from ofa.search.archive import Archive
from ofa.search.budget import Constraint
from ofa.search.crew import Crew
from ofa.search.engines import Engine, Evolution, RandomSearch, Search
from ofa.search.evaluation import run
from ofa.search.front import Front, ScoredNetwork
from ofa.search.learning import Guided
from ofa.search.objectives import Objective
from ofa.search.optimisation import optimise
from ofa.search.prediction import LatencyModel
from ofa.search.problem import Problem

__all__ = [
    "Archive",
    "Constraint",
    "Crew",
    "Engine",
    "Evolution",
    "Front",
    "Guided",
    "LatencyModel",
    "Objective",
    "Problem",
    "RandomSearch",
    "ScoredNetwork",
    "Search",
    "optimise",
    "run",
]
