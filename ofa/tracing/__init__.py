"""Tracing: one forward pass under a dispatch mode that carries a label for every index of every parameter.

In: a network and example inputs. Out: a `Trace`: what operators demand of the labels, sizes, costs, residual blocks.
Uses no other room. A new operator is one rule, in the file of its kind.
"""

from ofa.tracing.flow import slow_attention, trace
from ofa.tracing.operations import operations_of
from ofa.tracing.resolution import resized, traces
from ofa.tracing.tracer import CostTerm, ModuleCall, SizeUse, Trace, Work, evaluating

__all__ = [
    "CostTerm",
    "ModuleCall",
    "SizeUse",
    "Trace",
    "Work",
    "evaluating",
    "operations_of",
    "resized",
    "slow_attention",
    "trace",
    "traces",
]
