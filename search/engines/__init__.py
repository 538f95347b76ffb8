"""Engines: who proposes subnets, by asking and being told.

In: a `Problem`. Out: a running search. Uses what stands beside: problem, objectives, budget.
"""

from ofa.search.engines.engine import Search
from ofa.search.engines.evolution import Evolution
from ofa.search.engines.random_search import RandomSearch

__all__ = [
    "Evolution",
    "RandomSearch",
    "Search",
]
