"""Prediction: latencies of networks that were not measured, from the features of some that were.

In: features (`Supernet.features`, `complexity(…).features`) and milliseconds. Out: a `LatencyModel`, which networks to
measure next.
Uses `ofa.search.latency` for what was measured.
"""

from ofa.search.prediction.choosing import d_optimal, maximin
from ofa.search.prediction.model import HeldOut, LatencyModel
from ofa.search.prediction.picture import draw_errors, draw_predictions
from ofa.search.prediction.predictors import Boosted, Gaussian, MacsLine, Physical, Predictor, Table
from ofa.search.prediction.transfer import Transferred

__all__ = [
    "Boosted",
    "Gaussian",
    "HeldOut",
    "LatencyModel",
    "MacsLine",
    "Physical",
    "Predictor",
    "Table",
    "Transferred",
    "d_optimal",
    "draw_errors",
    "draw_predictions",
    "maximin",
]
