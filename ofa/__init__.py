"""Networks that contain networks: tracing, channel groups, search spaces, supernets, extraction, costs."""

from ofa.space import Choice, SearchSpace, Subnet

__all__ = ["Choice", "SearchSpace", "Subnet"]
