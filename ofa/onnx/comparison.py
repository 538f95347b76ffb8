"""An ONNX file beside the network that it is of, in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

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


def difference(path: str | Path, network: nn.Module, example: Any) -> float:
    """The largest difference between a file's outputs and its network's, relative to the largest of each output.

    Both see the example, and where the file takes any number of samples a batch of it, itself mirrored, and noise.

    >>> from tempfile import TemporaryDirectory
    >>> from ofa.export import export_onnx
    >>> with TemporaryDirectory() as folder:
    ...     export_onnx(network := nn.Linear(4, 2), torch.ones(1, 4), path := Path(folder) / "model.onnx")
    ...     same, other = difference(path, network, torch.ones(1, 4)), difference(path, nn.Linear(4, 2), torch.ones(1, 4))
    >>> same < 1e-6, other > 0.1
    (True, True)
    """
    session = session_of(path)
    whole = all(isinstance(node.shape[0], str) for node in session.get_inputs() if node.shape)
    examples = [example, varied(example)] if whole else [example]
    return max(apart(answer(session, one), run(network, one)) for one in examples)


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


def varied(example: Any) -> Any:
    """A batch of an example, itself mirrored, and noise where it holds fractions."""
    generator = torch.Generator().manual_seed(0)

    def batch(tensor: Tensor) -> Tensor:
        if not tensor.dim():
            return tensor
        noise = torch.randn(tensor.shape, generator=generator).to(tensor) if tensor.is_floating_point() else tensor
        return torch.cat([tensor, tensor.flip(-1), noise])

    return tree_map_only(Tensor, batch, example)


def moved(outputs: Sequence[Tensor]) -> float:
    """How far the samples of a batch are apart, relative to the largest of each output; 0 is one answer for all."""
    return max((apart([output], [output[:1].expand_as(output)]) for output in outputs if output.dim()), default=0.0)


def apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference of tensors, relative to the largest of each; infinite where there are others."""
    if [tensor.shape for tensor in one] != [tensor.shape for tensor in other]:
        return float("inf")
    pairs = ((a.double(), b.double()) for a, b in zip(one, other, strict=True))
    return max((float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs), default=0.0)
