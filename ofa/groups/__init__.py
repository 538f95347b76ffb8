"""Groups: which channels live and die together, and which blocks can be skipped.

In: a `Trace`. Out: `Constraints` (what is tied, what stays and why), `Groups` (units, and the dimensions of the
parameters that they own), `Stage`s of blocks.
Uses `ofa.tracing`.
"""

from ofa.groups.constraints import Constraints, Pair, constrain
from ofa.groups.depth import Stage, find_stages, parent, skipped_blocks, skipped_by
from ofa.groups.grouped_convolutions import ranked_apart
from ofa.groups.groups import FIXED, ChannelGroup, Groups, find_groups

__all__ = [
    "FIXED",
    "ChannelGroup",
    "Constraints",
    "Groups",
    "Pair",
    "Stage",
    "constrain",
    "find_groups",
    "find_stages",
    "parent",
    "ranked_apart",
    "skipped_blocks",
    "skipped_by",
]
