"""An importance: how far the weights of a channel are spread."""

from dataclasses import dataclass

from torch import Tensor

from ofa.slicing import Importance


@dataclass(frozen=True)
class Spread(Importance):
    def __call__(self, parameter: Tensor, dim: int) -> Tensor | None:
        return None if parameter.ndim < 2 else parameter.movedim(dim, 0).flatten(1).std(1)
