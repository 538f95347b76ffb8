"""The layers of a plain subnet as the Vitis AI Optimizer's once-for-all pruner lists them."""

from __future__ import annotations

from typing import Any

from torch import nn

SPATIAL = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias",
           "padding_mode")  # fmt: skip
ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.modules.conv._ConvTransposeNd: (*SPATIAL, "output_padding"),
    nn.modules.conv._ConvNd: SPATIAL,
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.modules.batchnorm._BatchNorm: ("num_features", "eps", "momentum", "affine", "track_running_stats"),
}
"""What layers are made from, by their class; the first that fits counts."""


def layers(network: nn.Module) -> list[dict[str, Any]]:
    """The convolutions, linear layers and batch norms of a network, each with its arguments, after an entry for all.

    >>> for row in layers(nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU())):
    ...     print(row)
    {'net_id': 'net_params_12'}
    {'module_name': '0', 'module_type': 'Linear', 'in_features': 4, 'out_features': 3, 'bias': False}
    """
    rows: list[dict[str, Any]] = [{"net_id": f"net_params_{sum(p.numel() for p in network.parameters())}"}]
    for name, module in network.named_modules():
        keys = next((keys for kind, keys in ARGUMENTS.items() if isinstance(module, kind)), ())
        found = {key: module.bias is not None if key == "bias" else getattr(module, key) for key in keys}
        rows += [{"module_name": name, "module_type": type(module).__name__, **found}] if found else []
    return rows
