"""Elastic N:M sparsity: which layers choose a pattern, the masks of a subnet's slices, and what they save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ofa.arrays import BoolArray, FloatArray
from ofa.space import Genome, SearchSpace, Subnet
from ofa.sparsity.layers import eligible, input_dim, layer_of, weight_of
from ofa.sparsity.pattern import Pattern
from ofa.tracing import Trace

DENSE = "dense"


@dataclass(frozen=True)
class SparseLayer:
    """A layer that may take a pattern: its weight's name, and the dimension that counts the input channels.

    >>> SparseLayer("head.weight", dim=1, channels=64, options=("2:4", DENSE)).options[-1]
    'dense'
    """

    weight: str
    dim: int
    channels: int
    options: tuple[str, ...]


@dataclass(frozen=True)
class Zeros:
    """The pattern that a subnet asks of one weight, along one of its dimensions.

    >>> Zeros(Pattern.parse("2:4"), dim=1).masked(torch.tensor([[1.0, -4.0, 2.0, 3.0]])).tolist()
    [[0.0, -4.0, 0.0, 3.0]]
    """

    pattern: Pattern
    dim: int

    def masked(self, part: Tensor) -> Tensor:
        """What stays of a slice: the largest magnitudes of each block; gradients reach no others."""
        mask = self.pattern.mask(part, self.dim, part.dtype)
        return part * mask


def check_patterns(texts: Any) -> None:
    """Refuse what is no list of patterns.

    >>> check_patterns(["2:4", "dense"])
    >>> check_patterns("2:4")
    Traceback (most recent call last):
        ...
    TypeError: sparsity is a list of patterns, such as ("2:4", "8:16"), got '2:4'

    Raises:
        TypeError: these are no list of texts.
        ValueError: one of them is no pattern.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TypeError(f'sparsity is a list of patterns, such as ("2:4", "8:16"), got {texts!r}')
    for text in texts:
        Pattern.parse(text)


def sparse_layers(
    model: nn.Module, flow: Trace, texts: Sequence[str], kept: Mapping[str, str], padding: bool
) -> tuple[dict[str, SparseLayer], dict[str, str]]:
    """Layers that can take at least one of the patterns, by name, with the options of each, dense the last.

    For the others with a matrix of weights the reason why the smallest block does not fit. `kept` are the layers that
    are excluded, `padding` is that of `eligible`. Layers that do not run as modules have no MACs of their own and stay
    dense.

    >>> from ofa.tracing import trace
    >>> network = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))
    >>> layers, reasons = sparse_layers(network, trace(network, (torch.zeros(1, 8),), {}), ["2:4"], {}, padding=False)
    >>> layers["0"].options, reasons
    (('2:4', 'dense'), {'1': '6 input channels cannot be cut in blocks of 4'})
    """
    patterns = sorted((p for p in map(Pattern.parse, texts) if p is not None), key=lambda p: (p.density, p.block))
    ran, found = {product.module for product in flow.macs}, dict[str, list[str]]()
    fits = {pattern: eligible(model, pattern, padding=padding) for pattern in patterns}
    for pattern in patterns:
        for name in fits[pattern][0]:
            if name in ran and name not in kept:
                found.setdefault(name, []).append(str(pattern))
    reasons: dict[str, str] = {}
    for pattern in sorted(patterns, key=lambda p: -p.block):
        reasons |= fits[pattern][1]
    layers = {}
    for name, own in found.items():
        dim = input_dim(layer := layer_of(model, name))
        layers[name] = SparseLayer(f"{name}.weight", dim, weight_of(layer).shape[dim], (*own, DENSE))
    return layers, reasons


def saved(pattern: Pattern, channels: FloatArray, element: int) -> tuple[FloatArray, FloatArray]:
    """Shares of a layer's MACs, and of its weight's bytes, that stay with so many input channels a group.

    A value takes its own bytes and the bits of its place; a last block that is not full is stored as if it were.

    >>> macs, stored = saved(Pattern.parse("2:4"), np.array([8.0]), element=4)
    >>> macs.tolist(), stored.tolist()  # half of the values, each with 2 bits beside its 4 bytes
    ([0.5], [0.53125])
    """
    stays = pattern.block - pattern.zeros
    whole, rest = channels // pattern.block, channels % pattern.block
    macs = (whole * stays + np.minimum(rest, stays)) / channels
    stored = np.ceil(channels / pattern.block) * stays / channels
    return macs, stored * (1 + (pattern.block - 1).bit_length() / 8 / element)


def zeros_of(subnet: Subnet, layers: Mapping[str, SparseLayer]) -> dict[str, Zeros]:
    """What a subnet asks of each weight, by the weight's name; nothing of dense ones.

    >>> layers = {"head": SparseLayer("head.weight", 1, 8, ("2:4", DENSE))}
    >>> zeros_of(Subnet({"head.sparsity": "2:4"}), layers), zeros_of(Subnet({"head.sparsity": DENSE}), layers)
    ({'head.weight': Zeros(pattern=Pattern(zeros=2, block=4), dim=1)}, {})
    """
    patterns = {name: Pattern.parse(str(subnet[f"{name}.sparsity"])) for name in layers}
    return {layers[n].weight: Zeros(pattern, layers[n].dim) for n, pattern in patterns.items() if pattern is not None}


def population_patterns(
    space: SearchSpace, genomes: Genome, layers: Mapping[str, SparseLayer]
) -> dict[str, list[tuple[BoolArray, Pattern]]]:
    """For each layer its patterns, each with the genomes, (population, choices), in which it takes it.

    >>> from ofa.space import Choice
    >>> space = SearchSpace((Choice("head.sparsity", "sparsity", ("2:4", DENSE)),))
    >>> layers = {"head": SparseLayer("head.weight", 1, 8, ("2:4", DENSE))}
    >>> [(mine, pattern)] = population_patterns(space, np.array([[0], [1]]), layers)["head"]
    >>> mine.tolist(), str(pattern)
    ([True, False], '2:4')
    """
    columns = {choice.name: i for i, choice in enumerate(space.choices)}
    result: dict[str, list[tuple[BoolArray, Pattern]]] = {}
    for name, layer in layers.items():
        chosen = genomes[:, columns[f"{name}.sparsity"]]
        parsed = [(chosen == option, Pattern.parse(text)) for option, text in enumerate(layer.options)]
        result[name] = [(mine, pattern) for mine, pattern in parsed if pattern is not None]
    return result
