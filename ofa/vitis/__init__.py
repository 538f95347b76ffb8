"""The drop-in for the Vitis AI Optimizer: `from ofa.vitis import …` in place of `from pytorch_nndct import …`.

A door and nothing else: what is behind it is in `ofa.search.vitis`, and `import ofa` does not open it.
"""

from ofa.search.vitis import (
    IterativePruningRunner,
    OFAPruner,
    OneStepPruningRunner,
    SparsePruner,
    UnreachableRatio,
    calibrate_bn,
    count_flops,
    count_macs,
    count_params,
    get_pruning_runner,
    load_dynamic_state_dict,
    model_complexity,
    profile,
    slim_model_from_state_dict,
    slim_state_dict,
    sparse_state_dict,
    transform_to_slim_model,
)

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
