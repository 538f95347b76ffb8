"""Slim networks from their weights alone: `slim.load_state_dict(model, state_dict)`."""

from ofa.search.vitis import slim_model_from_state_dict as load_state_dict

__all__ = ["load_state_dict"]
