"""A drop-in for the Vitis AI Optimizer's PyTorch interface (`pytorch_nndct`): change one import.

In: networks, example inputs, their evaluation functions. Out: runners, pruned networks, files in `.vai/` in the working
directory. Uses the engine of this project, and every other room of `ofa.search`.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from ofa.search.vitis.calibration import calibrate_bn
from ofa.search.vitis.dynamic import load_dynamic_state_dict
from ofa.search.vitis.errors import OptimizerInvalidArgumentError
from ofa.search.vitis.fine_grained import SparsePruner
from ofa.search.vitis.iterative import IterativePruningRunner
from ofa.search.vitis.loading import slim_model_from_state_dict, transform_to_slim_model
from ofa.search.vitis.once_for_all import OFAPruner
from ofa.search.vitis.one_step import OneStepPruningRunner
from ofa.search.vitis.profiler import count_flops, count_macs, count_params, model_complexity, profile
from ofa.search.vitis.ratio import UnreachableRatio
from ofa.search.vitis.sparse_and_slim import slim_state_dict, sparse_state_dict

__all__ = [
    "IterativePruningRunner",
    "OFAPruner",
    "OneStepPruningRunner",
    "SparsePruner",
    "UnreachableRatio",
    "calibrate_bn",
    "count_flops",
    "count_macs",
    "count_params",
    "get_pruning_runner",
    "load_dynamic_state_dict",
    "model_complexity",
    "profile",
    "slim_model_from_state_dict",
    "slim_state_dict",
    "sparse_state_dict",
    "transform_to_slim_model",
]

RUNNERS: dict[str, type[IterativePruningRunner] | type[OneStepPruningRunner]] = {
    "iterative": IterativePruningRunner,
    "one_step": OneStepPruningRunner,
}


def get_pruning_runner(
    model: nn.Module, input_signature: Any, method: Literal["iterative", "one_step"]
) -> IterativePruningRunner | OneStepPruningRunner:
    """The runner of a method for a network and its example inputs.

    Raises:
        ValueError: another method.
    """
    if method not in RUNNERS:
        raise OptimizerInvalidArgumentError(f"method is {' or '.join(RUNNERS)}, got {method!r}")
    return RUNNERS[method](model, input_signature)
