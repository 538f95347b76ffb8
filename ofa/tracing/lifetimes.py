"""When each activation is alive during a forward pass, so that peak memory is a formula like every other cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ofa.tracing.tracer import CostTerm, bytes_of


@dataclass
class Lifetimes:
    """The storages that operators allocate: their bytes as a cost, and the operators between which they live."""

    products: list[CostTerm] = field(default_factory=list)
    born: list[int] = field(default_factory=list)
    died: list[int | None] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    _live: dict[int, tuple[StorageWeakRef, int]] = field(default_factory=dict)
    _ignored: set[int] = field(default_factory=set)

    def ignore(self, tensor: Tensor) -> None:
        """A parameter or buffer: no activation."""
        self._ignored.add(tensor.untyped_storage()._cdata)

    def begin(self, module: str) -> None:
        """An operator is about to run: what is gone by now died before it."""
        for key, (reference, index) in list(self._live.items()):
            if reference.expired():
                self.died[index] = len(self.modules)
                del self._live[key]
        self.modules.append(module)

    def note(self, tensor: Tensor, layers: Sequence[Tensor]) -> None:
        """The last operator's result: new memory unless it shares a storage that is known."""
        storage = tensor.untyped_storage()
        if not tensor.numel() or storage._cdata in self._live or storage._cdata in self._ignored:
            return
        self._live[storage._cdata] = (StorageWeakRef(storage), len(self.products))
        self.products.append(bytes_of(tensor, layers, "bytes", self.modules[-1] if self.modules else ""))
        self.born.append(max(len(self.modules) - 1, 0))
        self.died.append(None)

    def index(self, tensor: Tensor) -> int | None:
        """The number of the product that holds a tensor; None for a parameter or buffer."""
        found = self._live.get(tensor.untyped_storage()._cdata)
        return None if found is None else found[1]

    def alive(self) -> tuple[list[str], npt.NDArray[np.bool_]]:
        """For each operator that allocates: its module, and which products are alive when it has run."""
        times = sorted(set(self.born))
        ends = np.array([len(self.modules) if end is None else end for end in self.died])
        born = np.array(self.born)
        rows = np.array([(born <= t) & (t < ends) for t in times]).reshape(len(times), len(born))
        return [self.modules[t] if self.modules else "" for t in times], rows
