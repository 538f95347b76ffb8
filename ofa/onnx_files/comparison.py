"""An ONNX file beside the network that it is of, in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from ofa.backbone import as_call
from ofa.tracing import evaluating


def run(network: nn.Module, example: Any) -> list[Tensor]:
    """The tensors that a network gives in evaluation mode, on the CPU.

    >>> [tuple(output.shape) for output in run(nn.Linear(4, 2), torch.zeros(3, 4))]
    [(3, 2)]
    """
    args, kwargs = as_call(example)
    with evaluating(network), torch.no_grad():
        return [leaf.cpu() for leaf in tree_leaves(network(*args, **kwargs)) if isinstance(leaf, Tensor)]


class Expected:
    """What a network gives for an example, for the same mirrored, and for noise."""

    def __init__(self, network: nn.Module, example: Any) -> None:
        self.network = network
        self.samples = samples(example)
        self.outputs = [run(network, one) for one in self.samples]

    @property
    def moved(self) -> float:
        """How far the outputs are apart; 0 is one answer for all."""
        return max(apart(output, self.outputs[0]) for output in self.outputs[1:])

    @cached_property
    def rounding(self) -> float:
        """How far the outputs are from those in double precision: so far may another runtime be from them, too."""
        exact = deepcopy(self.network).double()
        pairs = zip((run(exact, doubled(one)) for one in self.samples), self.outputs, strict=True)
        return max(apart(*pair) for pair in pairs)

    def difference(self, path: str | Path) -> float:
        """The largest difference between a file's outputs and the network's, relative to the largest of each output.

        The file is given the samples one by one and, where it takes any number, as a batch.
        """
        session = session_of(path)
        pairs = [(answer(session, one), output) for one, output in zip(self.samples, self.outputs, strict=True)]
        if all(isinstance(node.shape[0], str) for node in session.get_inputs() if node.shape):
            pairs.append((answer(session, together(self.samples)), together(self.outputs)))
        return max(apart(*pair) for pair in pairs)


def difference(path: str | Path, network: nn.Module, example: Any) -> float:
    """How far a file is from its network, as `Expected` tells it.

    >>> from tempfile import TemporaryDirectory
    >>> from ofa.export import export_onnx
    >>> network, example = nn.Linear(4, 2), torch.ones(1, 4)
    >>> with TemporaryDirectory() as folder:
    ...     export_onnx(network, example, path := Path(folder) / "model.onnx")
    ...     difference(path, network, example) < 1e-6, difference(path, nn.Linear(4, 2), example) > 0.1
    (True, True)
    """
    return Expected(network, example).difference(path)


def together(trees: list[Any]) -> Any:
    """Samples as one batch."""
    return tree_map(lambda *parts: torch.cat(parts) if is_batch(parts[0]) else parts[0], *trees)


def session_of(path: str | Path) -> Any:
    """A file in onnxruntime, with one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answer(session: Any, example: Any) -> list[Tensor]:
    """What a file gives for an example."""
    args, kwargs = as_call(example)
    names = [node.name for node in session.get_inputs()]
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    feed = {name: leaf.detach().cpu().numpy() for name, leaf in zip(names, leaves, strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, feed)]


def samples(example: Any) -> list[Any]:
    """An example, the same mirrored, and loud noise where it holds fractions, which sharpens softmaxes."""
    generator = torch.Generator().manual_seed(0)

    def noise(tensor: Tensor) -> Tensor:
        drawn = 4 * torch.randn(tensor.shape, generator=generator)
        return drawn.to(tensor) if tensor.is_floating_point() and is_batch(tensor) else tensor

    def mirrored(tensor: Tensor) -> Tensor:
        return tensor.flip(-1) if is_batch(tensor) else tensor

    return [example, tree_map_only(Tensor, mirrored, example), tree_map_only(Tensor, noise, example)]


def doubled(example: Any) -> Any:
    """An example whose fractions are in double precision."""
    return tree_map_only(Tensor, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, example)


def is_batch(leaf: Any) -> bool:
    """Whether an input is one for every sample."""
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference of tensors, relative to the largest of each; infinite where there are others."""
    if [tensor.shape for tensor in one] != [tensor.shape for tensor in other]:
        return float("inf")
    pairs = ((a.double(), b.double()) for a, b in zip(one, other, strict=True))
    return max((float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs), default=0.0)
