"""What writes a network as one kind of file."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ofa.slicing import Plan

if TYPE_CHECKING:
    from ofa.onnx_files import OnnxSupernet  # imports onnx

Facts = Mapping[str, Any]
"""What is known of a network: `backbone`, `classes`, `preprocessing`, `name`, `metrics`, `latency` (its devices)."""
NEEDED = ("backbone", "classes", "preprocessing")
"""What one has to know to use it."""


def words(facts: Facts) -> dict[str, str]:
    """What one has to know to use a network, as a file's metadata, in JSON.

    >>> words({"name": "subnet-0042", "classes": ["cat", "dog"]})
    {'classes': '["cat", "dog"]'}
    """
    return {name: json.dumps(facts[name]) for name in NEEDED if name in facts}


class Exporter(ABC):
    """One kind of file of a network: one class, named in `conf/exporter/NAME.yaml`; its fields are its settings.

    `name` is the kind under which front.json lists the file, `file` what it is called in the network's folder;
    `needs` are the kinds that have to be there before.
    """

    name: ClassVar[str]
    file: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    def fits(self, plan: Plan) -> bool:
        """Whether there is something to write of a network that was cut out so."""
        return True

    def sliced(self, onnx: OnnxSupernet) -> Exporter:
        """The same for subnets of a supernet whose ONNX files come from one graph; itself where that is no help."""
        return self

    @abstractmethod
    def write(self, network: nn.Module, example: Tensor, path: Path, plan: Plan, facts: Facts) -> Mapping[str, float]:
        """Write a plain network in evaluation mode, and check what was written; gives figures for front.json.

        `example` is a sample of the validation split as a batch of one, `plan` says what of the backbone is left.

        Raises:
            ValueError: what was written is not the network; says how far from it.
        """


def distance(got: Tensor, expected: Tensor, path: Path, tolerance: float) -> float:
    """The largest difference of two outputs, relative to the largest expected.

    Raises:
        ValueError: it exceeds the tolerance.
    """
    difference = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= tolerance:
        raise ValueError(f"{path} differs from the network by {difference:.1e}, above {tolerance:.1e}")
    return difference


def output(network: nn.Module, example: Tensor) -> Tensor:
    """What a network gives for an example, on the CPU."""
    with torch.no_grad():
        found: Tensor = network(example)
    return found.cpu()
