"""Engines: who proposes subnets, by asking and being told.

In: a `Problem`, made once. Out: a running search: a ledger of what was asked and told, and a proposer that reads it.
Uses what stands beside: problem, objectives, budget. `EngineConformance` tests an engine, ours or a user's.
"""

from ofa.search.engines.aging import Aging
from ofa.search.engines.conformance import EngineConformance
from ofa.search.engines.engine import Engine, Search
from ofa.search.engines.evolution import Evolution
from ofa.search.engines.ledger import Ledger, check_numbers, usual_evaluations
from ofa.search.engines.listed import Listed, Listing
from ofa.search.engines.proposer import Exact, Proposer
from ofa.search.engines.random_search import RandomSearch
from ofa.search.engines.selection import Individual, best, global_generators, nondominated, survivors

__all__ = [
    "Aging",
    "Engine",
    "EngineConformance",
    "Evolution",
    "Exact",
    "Individual",
    "Ledger",
    "Listed",
    "Listing",
    "Proposer",
    "RandomSearch",
    "Search",
    "best",
    "check_numbers",
    "global_generators",
    "nondominated",
    "survivors",
    "usual_evaluations",
]
