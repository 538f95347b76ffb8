"""Whether a tensor may have changed, so that what was computed from it is kept until then."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

_steps = 0  # of all optimisers of this process


def _count(*_: Any) -> None:
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count)


def version(tensor: Tensor) -> tuple[int, int, int]:
    """The same as long as no operator and no step of any optimiser has changed the tensor.

    Autograd does not count what fused optimisers write, hence their steps. Writes through `.data` are not seen.
    """
    return tensor._version, tensor.data_ptr(), _steps
