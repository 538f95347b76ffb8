"""Exporters: the kinds of files that an extracted network is written as, each with its own check.

In: a plain network, an example input, the plan that cut it out of its backbone. Out: files that load without us.
"""

from ofa.conf.program.exporters.exporter import Exporter, Facts
from ofa.conf.program.exporters.onnx import Onnx
from ofa.conf.program.exporters.packed import Packed
from ofa.conf.program.exporters.program import Program
from ofa.conf.program.exporters.standalone import Standalone
from ofa.conf.program.exporters.weights import Weights

__all__ = [
    "Exporter",
    "Facts",
    "Onnx",
    "Packed",
    "Program",
    "Standalone",
    "Weights",
]
