"""Fine-grained pruning: which layers take an N:M pattern, how sparse they may be, and their masks.

Every layer stays what it is, with zeros in its weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ofa.selection import Selector, select
from ofa.sparsity.pattern import Pattern
from ofa.tracing import evaluating

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
WEIGHTS, ACTIVATIONS = (0.0, 0.5, 0.75), (0.0, 0.5)


@dataclass(frozen=True)
class FineGrained:
    """How sparse weights and activations are: shares of every `block` along the input channels that are zero.

    The hardware that this is meant for takes 0, 0.5 or 0.75 of the weights, and 0.5 of the activations beside 0.75 of
    the weights; `strict=False` lifts these rules.

    >>> str(FineGrained(weights=0.75, activations=0.5).weight_pattern)
    '12:16'

    Raises:
        ValueError: shares that the rules do not allow, or no whole number of zeros in a block.
    """

    weights: float = 0.5
    activations: float = 0.0
    block: int = 16
    strict: bool = True

    def __post_init__(self) -> None:
        if self.strict and (self.weights not in WEIGHTS or self.activations not in ACTIVATIONS):
            raise ValueError(
                f"weights are 0, 0.5 or 0.75 sparse and activations 0 or 0.5, got {self.weights:g} and"
                f" {self.activations:g}; strict=False allows others"
            )
        if self.strict and self.activations and self.weights != 0.75:
            raise ValueError(
                f"activations at {self.activations:g} want weights at 0.75, got {self.weights:g};"
                " strict=False allows it all the same"
            )
        for share in (self.weights, self.activations):
            if not 0 <= share < 1 or not math.isclose(share * self.block, round(share * self.block), abs_tol=1e-9):
                raise ValueError(f"{share:g} of a block of {self.block} is no whole number of zeros below {self.block}")
        _ = self.weight_pattern, self.activation_pattern

    @property
    def weight_pattern(self) -> Pattern | None:
        return self._pattern(self.weights)

    @property
    def activation_pattern(self) -> Pattern | None:
        return self._pattern(self.activations)

    def _pattern(self, share: float) -> Pattern | None:
        return Pattern(round(share * self.block), self.block) if share else None


def eligible(
    model: nn.Module, pattern: Pattern, exclude: Iterable[Selector] = (), padding: bool = False
) -> tuple[dict[str, Pattern], dict[str, str]]:
    """The layers that take the pattern, by name, and for all others with a matrix of weights the reason why not.

    `padding` allows a shorter last block, in layers with one group.

    >>> eligible(nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2)), Pattern.parse("2:4"))
    ({'0': Pattern(zeros=2, block=4)}, {'1': '6 input channels cannot be cut in blocks of 4'})

    Raises:
        ValueError: an exclude matches nothing.
        TypeError: the pattern is none.
    """
    check_pattern(pattern)
    owners: dict[nn.Parameter, list[str]] = {}
    for name, module in model.named_modules():  # a module of two names goes by the first
        for parameter in module.parameters(recurse=False):
            if parameter.ndim > 1:
                owners.setdefault(parameter, []).append(name)
    names = {name for own in owners.values() for name in own}
    excluded, taking, reasons = select(model, exclude), dict[str, Pattern](), dict[str, str]()
    for name, module in model.named_modules():
        if name in names or isinstance(module, LAYERS):
            reason = excluded.get(name) or misfit(module, pattern, padding)
            if not reason and (others := [own for own in owners[weight_of(module)] if own != name]):
                reason = f"shares its weight with {others[0]}"
            if reason:
                reasons[name] = reason
            else:
                taking[name] = pattern
    return taking, reasons


def check_pattern(pattern: Any) -> None:
    """Refuse what is no pattern.

    >>> check_pattern("2:4")
    Traceback (most recent call last):
        ...
    TypeError: a pattern is a Pattern, such as Pattern.parse("2:4"), got '2:4'

    Raises:
        TypeError: it is none; says how one is made.
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(f'a pattern is a Pattern, such as Pattern.parse("2:4"), got {pattern!r}')


def misfit(module: nn.Module, pattern: Pattern, padding: bool) -> str:
    """Why a layer does not take the pattern; empty if it does."""
    if not isinstance(module, LAYERS):
        return f"{type(module).__name__} is neither a convolution nor a linear layer"
    if "weight" not in dict(module.named_parameters(recurse=False)):
        return "its weight is computed from other parameters"
    groups = 1 if isinstance(module, nn.Linear) else module.groups
    channels = module.weight.shape[input_dim(module)] // (groups if isinstance(module, TRANSPOSED) else 1)
    if channels == 1 and groups > 1:
        return "depthwise: one input channel a group"
    found = f"{channels} input channels a group" if groups > 1 else f"{channels} input channels"
    if channels < pattern.block:
        return f"{found}, fewer than a block of {pattern.block}"
    if channels % pattern.block and not (padding and groups == 1):
        return f"{found} cannot be cut in blocks of {pattern.block}"
    return "" if proportional(module) else f"the weight of a {type(module).__name__} changes in each forward pass"


def proportional(layer: nn.Module) -> bool:
    """Whether the output is proportional to the weight, so that a zero in it stays one.

    It is not where weights are standardised. A subclass with a forward of its own is tried out on a small input.
    """
    if type(layer).forward in [kind.forward for kind in LAYERS]:
        return True
    weight = weight_of(layer)
    channels, *extents = (
        (layer.in_features,) if isinstance(layer, nn.Linear) else (layer.in_channels, *weight.shape[2:])
    )
    dilations = getattr(layer, "dilation", ())
    shape = (2, channels, *(d * k + 1 for d, k in zip(dilations, extents, strict=True)))
    x = torch.linspace(-1, 1, math.prod(shape), device=weight.device, dtype=weight.dtype).view(shape)
    with evaluating(layer), torch.no_grad():
        nothing, once, twice = (functional_call(layer, {"weight": weight * times}, x) for times in (0, 1, 2))
    scale = float((once - nothing).abs().max())
    return torch.allclose(twice - nothing, 2 * (once - nothing), rtol=0, atol=0.05 * scale)


def input_dim(layer: nn.Module) -> int:
    """The dimension of a layer's weight that counts its input channels (of one group, unless it is transposed).

    >>> input_dim(nn.Conv2d(3, 8, 3)), input_dim(nn.ConvTranspose2d(3, 8, 3))
    (1, 0)
    """
    return 0 if isinstance(layer, TRANSPOSED) else 1


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """The convolution or linear layer of that name.

    >>> layer_of(nn.Sequential(nn.Linear(4, 2)), "0")
    Linear(in_features=4, out_features=2, bias=True)

    Raises:
        ValueError: there is no such layer.
    """
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, LAYERS):
        found = "no module" if layer is None else f"a {type(layer).__name__}"
        raise ValueError(f"{name!r} is {found} of the model; a pattern is for a convolution or linear layer")
    return layer


def weight_of(layer: nn.Module) -> nn.Parameter:
    """The weight of a convolution or linear layer.

    >>> weight_of(nn.Linear(4, 2)).shape
    torch.Size([2, 4])
    """
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def mask_of(layer: nn.Module, pattern: Pattern, scores: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """The mask of a layer's weight, ones and zeros in its dtype: the largest magnitudes stay, or the largest scores.

    >>> layer = nn.Linear(4, 1)
    >>> mask_of(layer, Pattern.parse("2:4"), scores=torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist()
    [[0.0, 0.0, 1.0, 1.0]]

    Raises:
        ValueError: the scores have another shape than the weight.
    """
    weight, dim = layer.weight, input_dim(layer)
    assert isinstance(weight, Tensor)
    weight = weight.detach()
    if scores is not None and scores.shape != weight.shape:
        raise ValueError(f"scores of shape {tuple(scores.shape)} for a weight of shape {tuple(weight.shape)}")
    return pattern.mask(weight if scores is None else scores, dim, weight.dtype, out=out)


def sparsify(
    model: nn.Module, patterns: Mapping[str, Pattern], scores: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Put the zeros of each layer's pattern into its weight, in place; gives the masks.

    A layer without scores goes by magnitude.

    >>> network = nn.Sequential(nn.Linear(4, 1))
    >>> masks = sparsify(network, {"0": Pattern.parse("2:4")}, scores={"0": torch.tensor([[1.0, 2.0, 3.0, 4.0]])})
    >>> masks["0"].tolist(), network[0].weight[0, :2].abs().tolist()
    ([[0.0, 0.0, 1.0, 1.0]], [0.0, 0.0])

    Raises:
        ValueError: a name is not that of a convolution or linear layer.
        TypeError: a pattern is none.
    """
    masks = {}
    for name, pattern in patterns.items():
        layer = layer_of(model, name)
        check_pattern(pattern)
        masks[name] = mask_of(layer, pattern, None if scores is None else scores.get(name))
        with torch.no_grad():
            weight_of(layer).mul_(masks[name])
    return masks
