"""Conversion: from a network to the choices that it offers, each of them proved, and a report of what stays and why.

In: a network, example inputs, a `SpaceConfig`. Out: a `Conversion`, a `Report`.
Uses every room below: tracing, groups, slicing, sparsity, space.
"""

from ofa.conversion.attributes import Binding
from ofa.conversion.choices import SpaceConfig
from ofa.conversion.converter import Conversion, Converter
from ofa.conversion.holders import with_containers
from ofa.conversion.kernels import KernelTransforms, kernel_edges
from ofa.conversion.proof import Progress, silent
from ofa.conversion.randomised import Examples
from ofa.conversion.report import Report, elastic_rows, layer_rows

__all__ = [
    "Binding",
    "Conversion",
    "Converter",
    "Examples",
    "KernelTransforms",
    "Progress",
    "Report",
    "SpaceConfig",
    "elastic_rows",
    "kernel_edges",
    "layer_rows",
    "silent",
    "with_containers",
]
