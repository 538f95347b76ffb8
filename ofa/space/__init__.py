"""Search spaces.

In: named choices with their options. Out: subnets as values, genomes as arrays, random ones of a wanted cost.
Used by every room; uses none.
"""

from ofa.space.space import Choice, Genome, SearchSpace, Subnet
from ofa.space.targets import sample_at_cost

__all__ = [
    "Choice",
    "Genome",
    "SearchSpace",
    "Subnet",
    "sample_at_cost",
]
