"""Slim networks from weights, with and without the pruning information."""

from ofa.search.vitis import slim_model_from_state_dict, transform_to_slim_model

__all__ = ["slim_model_from_state_dict", "transform_to_slim_model"]
