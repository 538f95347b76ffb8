"""Engines that learn: a model of what evaluating gives, from what was evaluated.

In: a `Problem`. Out: a running search, and what was predicted before it was evaluated. Uses `ofa.search.engines`.
"""

from ofa.search.learning.blockwise import Blockwise
from ofa.search.learning.guided import Guided
from ofa.search.learning.linas import Linas
from ofa.search.learning.predicted_evolution import PredictedEvolution
from ofa.search.learning.samplers import OptunaSearch

__all__ = [
    "Blockwise",
    "Guided",
    "Linas",
    "OptunaSearch",
    "PredictedEvolution",
]
