"""Groups: which channels live and die together, and which blocks can be skipped.

In: a `Trace`. Out: `Groups` (units, and the dimensions of the parameters that they own) and `Stage`s of blocks.
Uses `ofa.tracing`.
"""

from ofa.groups.depth import Stage, find_stages, parent, skipped_blocks, skipped_by
from ofa.groups.groups import FIXED, ChannelGroup, Groups, find_groups
from ofa.groups.strands import find_strands

__all__ = [
    "FIXED",
    "ChannelGroup",
    "Groups",
    "Stage",
    "find_groups",
    "find_stages",
    "find_strands",
    "parent",
    "skipped_blocks",
    "skipped_by",
]
