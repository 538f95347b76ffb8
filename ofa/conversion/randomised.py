"""A copy of a network whose parameters are random and whose signal still reaches the output: what proofs compare.

Constant parameters (fresh scales, zeros) would hide branches, and arbitrary batch statistics let the signal decay from
layer to layer until the output no longer depends on the input. So constants become random, and one pass over several
examples fits every batch statistic and keeps the scale of every layer (Mishkin & Matas, 2016).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ofa.slicing import duplicate

WANTED = (0.2, 5.0)  # standard deviation over positions and examples that a contraction's output may keep
LARGEST = 3.0  # root mean square that rescaling goes up to: sigmoids behind it must not saturate
SLIGHT = 1e-2  # largest value of parameters that are as good as zero
CONTRACTIONS = ("convolution", "mm", "addmm", "bmm")
LOOKED_UP = ("add", "cat", "clone", "embedding", "index", "index_select", "mul", "sub")  # uses of tables and positions


@dataclass(frozen=True)
class Examples:
    """Arguments of one call of a network.

    >>> examples = Examples((torch.zeros(2, 3),), {"scale": 1.0})
    >>> examples.batch, [tuple(tensor.shape) for tensor in examples.leaves()]
    (2, [(2, 3)])
    >>> examples.mapped(lambda tensor: tensor + 1).args[0].sum().item()
    6.0
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def leaves(self) -> Iterator[Tensor]:
        return (leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor))

    @property
    def batch(self) -> int:
        """The first dimension of most tensors."""
        sizes = [t.shape[0] for t in self.leaves() if t.ndim]
        return max(set(sizes), key=sizes.count, default=1)

    def mapped(self, change: Any) -> Examples:
        """The same arguments with other tensors."""
        leaves, structure = tree_flatten((self.args, self.kwargs))
        args, kwargs = tree_unflatten([change(v) if isinstance(v, Tensor) else v for v in leaves], structure)
        return Examples(args, kwargs)


def varied(examples: Examples, copies: int, generator: torch.Generator) -> Examples:
    """`copies` random variants of every example, one after the other along the first dimension.

    Floating values keep their mean and deviation over all, whole numbers change places; what does not have the first
    dimension of most tensors stays.
    """
    batch = examples.batch

    def several(tensor: Tensor) -> Tensor:
        if not tensor.ndim or tensor.shape[0] != batch:
            return tensor
        return torch.cat([variant(tensor, generator) for _ in range(copies)])

    return examples.mapped(several)


def variant(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """A tensor like this one with other values."""
    if tensor.is_floating_point():
        mean, deviation = tensor.mean(), tensor.std() if tensor.numel() > 1 else tensor.new_ones(())
        deviation = deviation if deviation > 1e-6 else torch.ones_like(deviation)
        noise = torch.randn(tensor.shape, generator=generator)
        noise = noise + torch.randn(tensor.shape[:2] + (1,) * (tensor.ndim - 2), generator=generator)
        return (mean + deviation * noise.to(tensor) / math.sqrt(2)).to(tensor)
    if tensor.dtype == torch.bool:
        return tensor
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].reshape(tensor.shape)


def resized(examples: Examples, edge: int) -> Examples:
    """Images (four dimensions) whose longer edge has so many pixels."""
    longest = max((max(t.shape[2:]) for t in examples.leaves() if t.ndim == 4), default=0)

    def other(tensor: Tensor) -> Tensor:
        if tensor.ndim != 4 or not tensor.is_floating_point():
            return tensor
        size = [max(1, round(n * edge / longest)) for n in tensor.shape[2:]]
        return F.interpolate(tensor, size=size, mode="nearest")

    return examples.mapped(other)


def randomised(model: nn.Module, examples: Examples, seed: int = 0, everything: bool = False) -> nn.Module:
    """A copy in evaluation mode with random constants (or `everything` random), fitted to the examples."""
    copy, generator = duplicate(model).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            if parameter.is_floating_point():
                randomise(parameter, generator, everything)
        with Fitting(copy):
            copy(*examples.args, **examples.kwargs)
    return copy


def randomise(parameter: Tensor, generator: torch.Generator, everything: bool) -> None:
    """Give a parameter that is constant, or next to zero, scattered values: scales around one, zeros around zero.

    Rows of other weights are scaled, each by another factor.
    """
    first = float(parameter.flatten()[0]) if parameter.numel() else 0.0
    constant = bool((parameter == first).all())
    if parameter.numel() == 1 and abs(first) < SLIGHT:
        parameter.fill_(0.5)
    elif parameter.numel() > 1 and (constant or float(parameter.abs().max()) < SLIGHT):
        scale = constant and abs(first) > 1e-8
        values = scattered(parameter.shape, generator)
        parameter.copy_((values + 0.5 if scale else values * 0.5 - 0.2).to(parameter))
    elif parameter.ndim > 1:
        if everything:
            noise = torch.rand(parameter.shape, generator=generator) - 0.5
            parameter.copy_(noise.to(parameter) * parameter.std() * math.sqrt(12))
        rows = scattered(parameter.shape[:1] + (1,) * (parameter.ndim - 1), generator)
        parameter.mul_((rows + 0.5).to(parameter))  # or statistics of neighbours could be the same


def scattered(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Values in [0, 1); those of vectors lie on a lattice on which neighbours differ by 0.35 at least."""
    if math.prod(shape) > max(shape):
        return torch.rand(shape, generator=generator)
    step, start = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    places = torch.arange(max(shape), dtype=torch.float64)
    return torch.remainder(places * (0.35 + 0.3 * step) + start, 1).reshape(shape)


class Fitting(TorchDispatchMode):
    """Sets the batch statistics, and the scales of weights that let the signal fade or grow, to what passes by.

    Tables that are looked up or added (position embeddings start at 0.02) become as large as what they meet.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = {p.untyped_storage().data_ptr(): p for p in model.parameters() if p.ndim > 1}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        if isinstance(inputs.get("running_mean"), Tensor) and isinstance(inputs.get("running_var"), Tensor):
            fit(args[0], inputs["running_mean"], inputs["running_var"])
        operator = func.overloadpacket.__name__
        if operator in LOOKED_UP:
            for table in self._own(args):
                table.mul_(max(1.0, WANTED[0] / max(float(table.float().std()), 1e-12)))
        result = func(*args, **kwargs)
        if operator in CONTRACTIONS:
            for weight in self._own(args):
                factor = rescaling(result)
                if factor != 1:
                    weight.mul_(factor)
                    result = func(*args, **kwargs)
        return result

    def _own(self, args: Any) -> Iterator[Tensor]:
        """The parameters behind arguments, each once."""
        for tensor in tree_leaves(args):
            if isinstance(tensor, Tensor):
                own = self.weights.pop(tensor.untyped_storage().data_ptr(), None)
                if own is not None:
                    yield own


def fit(x: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Batch statistics of x, (batch, channels, …); over all channels where there is one value of each only."""
    values = x.detach().float().transpose(0, 1).flatten(1)
    if values.shape[1] == 1:
        values = values.flatten().expand(len(values), -1)
    spread = values.var(dim=1, unbiased=False)
    mean.copy_(values.mean(dim=1))
    variance.copy_(spread.clamp_min(float(spread.mean()) * 0.05 + 1e-12))


def rescaling(result: Tensor) -> float:
    """The factor that brings a contraction's output, (batch, channels, …) or (…, channels), to a middling scale."""
    values = result.detach().float()
    values = values.transpose(0, 1).flatten(1) if values.ndim > 3 else values.flatten(0, -2).T
    signal = float(values.std(dim=1).mean()) if values.shape[1] > 1 else float(values.std())
    if not math.isfinite(signal) or signal == 0 or WANTED[0] <= signal <= WANTED[1]:
        return 1.0
    return min(1 / signal, LARGEST / max(float(values.square().mean().sqrt()), 1e-12)) if signal < 1 else 1 / signal
