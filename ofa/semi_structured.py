"""2:4 sparse linear layers on a GPU's sparse kernels (Mishra et al., 2021), through `torch.sparse`."""

from __future__ import annotations

import torch
from torch import nn

from ofa.sparsity import Pattern


def semi_structured(net: nn.Module) -> dict[str, str]:
    """Give every linear layer that can have them torch's 2:4 kernels, in place; for the others, why they stay dense.

    They are for float16, bfloat16 and int8 on a CUDA device.
    """
    reasons = {}
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            reason = accelerated(layer)
            if reason:
                reasons[name] = reason
    return reasons


def accelerated(layer: nn.Linear) -> str:
    """Convert a layer's weight; where that does not work, the reason, and the layer stays as it is."""
    weight = layer.weight
    if not weight.is_cuda:
        return f"its weight is on {weight.device.type}, the kernels run on cuda"
    if not Pattern(2, 4).fits(weight):
        return "its weight is not 2:4 sparse"
    try:
        sparse = torch.sparse.to_sparse_semi_structured(weight.detach())
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return f"torch cannot convert it: {str(error).splitlines()[0]}"
    layer.weight = nn.Parameter(sparse, requires_grad=False)
    return ""
