"""Costs: MACs, parameters, activation memory, as formulas for whole populations, or counted on any network.

In: a `Conversion` and its traces. Out: costs of genomes, a `Cost` of a subnet, the `Complexity` of a network.
Uses `ofa.conversion` and what is below.
"""

from ofa.costs.counting import Complexity, complexity
from ofa.costs.features import VERSION as FEATURES_VERSION
from ofa.costs.population import PopulationCosts
from ofa.costs.terms import Cost

__all__ = [
    "FEATURES_VERSION",
    "Complexity",
    "Cost",
    "PopulationCosts",
    "complexity",
]
