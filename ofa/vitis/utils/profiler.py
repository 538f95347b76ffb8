"""What networks cost, by module and in all: `profiler.model_complexity(model, inputs)`."""

from ofa.search.vitis import count_flops, count_macs, count_params, model_complexity, profile

__all__ = ["count_flops", "count_macs", "count_params", "model_complexity", "profile"]
