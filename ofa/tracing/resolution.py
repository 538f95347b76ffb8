"""Elastic resolution: the network's own code runs on smaller or larger images, and costs are traced for each size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ofa.tracing.flow import trace
from ofa.tracing.tracer import Trace


def resized(images: Tensor, edge: int) -> Tensor:
    """Images, shape (batch, channels, height, width), at `edge` × `edge` pixels; the same tensor if they have it.

    >>> resized(torch.zeros(2, 3, 32, 32), 24).shape
    torch.Size([2, 3, 24, 24])
    """
    if tuple(images.shape[-2:]) == (edge, edge):
        return images
    return F.interpolate(images, size=(edge, edge), mode="bilinear", antialias=True, align_corners=False)


def traces(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], edges: Iterable[int]
) -> dict[int, Trace]:
    """A trace for every resolution, by its edge in pixels.

    >>> found = traces(nn.Conv2d(3, 4, 3, padding=1), (torch.zeros(1, 3, 8, 8),), {}, [4, 8])
    >>> {edge: one.macs[0].constant for edge, one in found.items()}  # MACs for one input and one output channel
    {4: 16, 8: 64}

    Raises:
        ValueError: no input is a batch of images, or the model does not run at a resolution.
    """
    found = {}
    for edge in edges:

        def scaled(value: Any, edge: int = edge) -> Any:
            return resized(value, edge) if isinstance(value, Tensor) and value.ndim == 4 else value

        images = tree_map(scaled, (args, dict(kwargs)))
        if not any(isinstance(v, Tensor) and v.ndim == 4 for v in (*args, *kwargs.values())):
            raise ValueError("resolution is elastic for images of shape (batch, channels, height, width) only")
        try:
            found[edge] = trace(model, *images)
        except ValueError as error:
            raise ValueError(f"resolution {edge} is not possible: {error}") from None
    return found
