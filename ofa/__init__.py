"""Networks that contain networks: tracing, channel groups, search spaces, supernets, extraction, costs.

A name is imported when it is first used: torch takes seconds, and the console program says something before.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    for room in ("space", "costs", "conversion", "supernet") if name in __all__ else ():
        module = import_module(f"ofa.{room}")
        if hasattr(module, name):
            return globals().setdefault(name, getattr(module, name))
    raise AttributeError(f"module 'ofa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
