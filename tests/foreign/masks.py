"""A mask update: what is masked learns at a slower pace."""

from dataclasses import dataclass

from torch import Tensor

from ofa.train.masks import MaskUpdate


@dataclass(frozen=True)
class Slower(MaskUpdate):
    pace: float = 0.5

    def steer(self, gradient: Tensor, dense: Tensor, sparse: Tensor, mask: Tensor) -> None:
        gradient.mul_(mask + self.pace * (1 - mask))
