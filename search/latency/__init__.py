"""Latency: measured on a device, predicted from exact costs.

In: networks, costs. Out: milliseconds, a `LatencyPredictor`.
"""

from ofa.search.latency.device import Latency, LatencyDevice
from ofa.search.latency.onnx_runtime import OnnxRuntime, measure_onnx
from ofa.search.latency.predictor import LatencyPredictor
from ofa.search.latency.torch_eager import TorchEager

__all__ = [
    "Latency",
    "LatencyDevice",
    "LatencyPredictor",
    "OnnxRuntime",
    "TorchEager",
    "measure_onnx",
]
