"""Tracking: every figure of a run in a file, and wherever else one asks for.

In: rows of figures by stage, the settings of the run, what it has exported. Out: `metrics.jsonl`, runs of Weights &
Biases, event files of TensorBoard.
Uses `ofa.files`.
"""

from ofa.train.tracking.tensorboard import TensorBoard
from ofa.train.tracking.tracker import Mirror, Row, Tracker, Tracking
from ofa.train.tracking.weights_and_biases import Wandb

__all__ = ["Mirror", "Row", "TensorBoard", "Tracker", "Tracking", "Wandb"]
