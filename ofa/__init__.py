"""Networks that contain networks: tracing, channel groups, search spaces, supernets, extraction, costs."""

from ofa.conversion import Report, SpaceConfig
from ofa.costs import Cost
from ofa.space import Choice, SearchSpace, Subnet
from ofa.supernet import Supernet

__all__ = [
    "Choice",
    "Cost",
    "Report",
    "SearchSpace",
    "SpaceConfig",
    "Subnet",
    "Supernet",
]
