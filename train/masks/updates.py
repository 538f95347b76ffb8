"""Mask updates: what the optimiser sees of a weight under a mask, and by what masks are taken anew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ofa.sparsity import sr_ste


class MaskUpdate(ABC):
    """How masks change while a network learns: one class, named in `conf/mask_update/NAME.yaml`.

    Where `dense`, the optimiser goes on with dense weights, of which the largest `scores` are taken anew; where not,
    the masks stay, but for those that grow by stages. All tensors are of the weight's shape; a mask is ones and zeros.
    docs/extending.md shows one of one's own.

    >>> class Slower(MaskUpdate):
    ...     def steer(self, gradient, dense, sparse, mask):
    ...         gradient.mul_(0.5 + 0.5 * mask)
    >>> gradient, dense, mask = torch.ones(2), torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0])
    >>> Slower().steer(gradient, dense, dense * mask, mask)
    >>> gradient.tolist()
    [1.0, 0.5]
    """

    dense: ClassVar[bool] = True

    @abstractmethod
    def steer(self, gradient: Tensor, dense: Tensor, sparse: Tensor, mask: Tensor) -> None:
        """Change the gradient, that of the sparse weight, in place into what the optimiser gets.

        Without gradients being recorded. `sparse` is not needed afterwards and may be computed in, where `dense` is
        another tensor, as it is if the class says `dense`.
        """

    def scores(self, weight: Tensor) -> Tensor:
        """What decides which weights stay, the larger the better: the weight itself for its magnitudes."""
        return weight


@dataclass(frozen=True)
class Fixed(MaskUpdate):
    """Masks stay, and what is zero remains so.

    >>> gradient, dense, mask = torch.ones(2), torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0])
    >>> Fixed().steer(gradient, dense, dense * mask, mask)
    >>> gradient.tolist()
    [1.0, 0.0]
    """

    dense: ClassVar[bool] = False

    def steer(self, gradient: Tensor, dense: Tensor, sparse: Tensor, mask: Tensor) -> None:
        gradient.mul_(mask)


@dataclass(frozen=True)
class Magnitude(MaskUpdate):
    """The largest dense weights stay; each gets the gradient that the sparse one got (straight through).

    >>> gradient, dense, mask = torch.ones(2), torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0])
    >>> Magnitude().steer(gradient, dense, dense * mask, mask)
    >>> gradient.tolist()
    [1.0, 1.0]
    """

    def steer(self, gradient: Tensor, dense: Tensor, sparse: Tensor, mask: Tensor) -> None:
        """The gradient as it is."""


@dataclass(frozen=True)
class SRSTE(Magnitude):
    """As by magnitude, and what is masked shrinks: `decay` times the dense weight is added to its gradient.

    Zhou et al., 2021.

    >>> gradient, dense, mask = torch.ones(2), torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0])
    >>> SRSTE(decay=0.5).steer(gradient, dense, dense * mask, mask)
    >>> gradient.tolist()
    [1.0, 1.5]

    Raises:
        ValueError: `decay` is negative.
    """

    decay: float = 2e-4

    def __post_init__(self) -> None:
        if self.decay < 0:
            raise ValueError(f"decay is at least 0, got {self.decay}")

    def steer(self, gradient: Tensor, dense: Tensor, sparse: Tensor, mask: Tensor) -> None:
        sr_ste(gradient, dense, sparse, self.decay, scratch=sparse, out=gradient)
