"""The gradient of a dense weight whose sparse part runs: straight through, and SR-STE (Zhou et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def sr_ste(
    gradient: Tensor,
    dense: Tensor,
    sparse: Tensor,
    decay: float,
    scratch: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The sparse weight's gradient, and `decay` times each dense weight that is masked; all of one shape.

    `scratch` is a tensor to compute in, and `out` takes the result; new ones where they are None.

    >>> sr_ste(torch.zeros(2), torch.tensor([1.0, 4.0]), torch.tensor([0.0, 4.0]), decay=0.5).tolist()
    [0.5, 0.0]
    """
    hidden = torch.sub(dense, sparse, out=scratch)
    return torch.add(gradient, hidden, alpha=decay, out=hidden if out is None else out)
