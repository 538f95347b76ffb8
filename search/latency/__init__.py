"""Latency: measured on a device, predicted from exact costs.

In: exported networks, costs. Out: milliseconds, a `LatencyPredictor`.
"""

from ofa.search.latency.predictor import LatencyPredictor, measure_onnx

__all__ = [
    "LatencyPredictor",
    "measure_onnx",
]
