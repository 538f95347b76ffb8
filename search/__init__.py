"""Search over spaces: objectives, budgets, evaluation, archive, engines, front, latency."""

from search.archive import Archive
from search.budget import Constraint
from search.engine import Search
from search.evaluation import Result, run
from search.evolution import Evolution
from search.front import Front, Row
from search.latency import LatencyPredictor, measure_onnx
from search.objectives import Objective
from search.random_search import RandomSearch

__all__ = [
    "Archive",
    "Constraint",
    "Evolution",
    "Front",
    "LatencyPredictor",
    "Objective",
    "RandomSearch",
    "Result",
    "Row",
    "Search",
    "measure_onnx",
    "run",
]
