"""2:4 sparse linear layers on a GPU's sparse kernels (Mishra et al., 2021), through `torch.sparse`."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from ofa.sparsity.layers import LAYERS
from ofa.sparsity.pattern import Pattern


def semi_structured(net: nn.Module) -> dict[str, str]:
    """Give every linear layer that can have them torch's 2:4 kernels, in place.

    For other linear layers, and for convolutions, the reason why they run as before: the kernels are for matrices in
    float16, bfloat16 and int8 on a CUDA device.
    """
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, LAYERS)}
    reasons = {name: accelerated(layer) for name, layer in layers.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def accelerated(layer: nn.Module) -> str:
    """Convert a layer's weight; where that does not work, the reason, and the layer stays as it is."""
    if not isinstance(layer, nn.Linear):
        return f"torch has 2:4 kernels for linear layers, not for a {type(layer).__name__}"
    weight = layer.weight
    if not weight.is_cuda:
        return f"its weight is on {weight.device.type}, the kernels run on cuda"
    if not Pattern(2, 4).fits(weight):
        return "its weight is not 2:4 sparse"
    try:
        with warnings.catch_warnings():  # torch calls them a prototype, once
            warnings.simplefilter("ignore", UserWarning)
            sparse = torch.sparse.to_sparse_semi_structured(weight.detach())
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return f"torch cannot convert it: {str(error).splitlines()[0]}"
    layer.weight = nn.Parameter(sparse, requires_grad=False)
    return ""
