"""ONNX files of subnets: the supernet's graph, exported a few times, with what differs between subnets cut to size.

In: a `Supernet`; networks that it extracts. Out: files, each compared with its network in onnxruntime.
Uses the rooms before it, `ofa.supernet` and `ofa.export`.
"""

from ofa.onnx_files.comparison import difference
from ofa.onnx_files.supernet import OnnxSupernet

__all__ = ["OnnxSupernet", "difference"]
