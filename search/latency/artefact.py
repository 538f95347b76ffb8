"""What a device times: a network and an example input, as a module or as an ONNX file."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

from ofa.backbone import as_call
from ofa.costs import complexity
from ofa.export import export_onnx
from ofa.tracing import operations_of

Exporter = Callable[[nn.Module, Any, Path], None]
"""Writes the ONNX file of a network in evaluation mode, for the example inputs' own sizes."""

EXPORT: Exporter = partial(export_onnx, dynamic_batch=False)


class Artefact:
    """A network to time on an example input of batch 1; nothing of it is made before it is asked for.

    >>> from ofa.search.latency import Artefact
    >>> artefact = Artefact(nn.Linear(4, 2), torch.zeros(1, 4))
    >>> len(artefact.digest), artefact.digest == Artefact(nn.Linear(4, 2), torch.zeros(1, 4)).digest
    (16, True)
    """

    def __init__(
        self,
        network: nn.Module,
        example: Any,
        export: Exporter = EXPORT,
        features: Mapping[str, float] | None = None,
    ) -> None:
        self.network, self.example, self.export, self._features = network, example, export, features

    @cached_property
    def features(self) -> Mapping[str, float]:
        """What its latency follows from: as given, or counted by running it once."""
        return complexity(self.network, self.example).features if self._features is None else self._features

    @cached_property
    def digest(self) -> str:
        """Identifies the graph: operators with their settings, shapes of weights and inputs; not the weights."""
        args, kwargs = as_call(self.example)
        shapes = [(name, tuple(t.shape), str(t.dtype)) for name, t in self.network.state_dict().items()]
        inputs = [tuple(t.shape) for t in (*args, *kwargs.values())]
        known = repr((operations_of(self.network, self.example), shapes, inputs))
        return hashlib.sha256(known.encode()).hexdigest()[:16]

    @cached_property
    def onnx(self) -> Path:
        """Its ONNX file, in a temporary folder that goes when this object does.

        Raises:
            ValueError: the exporter cannot write it.
        """
        folder = tempfile.mkdtemp(prefix="ofa-latency-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / "model.onnx"
        try:
            self.export(self.network, self.example, path)
        except Exception as error:  # the exporter's errors share no base
            reason = str(error).strip().splitlines()[:1]
            raise ValueError(f"no ONNX file of this {type(self.network).__name__} can be written: {reason}") from error
        return path
