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
    """A layer that may take a pattern: its weight's name, and the dimension that counts the input channels."""

    weight: str
    dim: int
    channels: int
    options: tuple[str, ...]


@dataclass(frozen=True)
class Zeros:
    """The pattern that a subnet asks of one weight, along one of its dimensions."""

    pattern: Pattern
    dim: int

    def masked(self, part: Tensor) -> Tensor:
        """What stays of a slice: the largest magnitudes of each block; gradients reach no others."""
        mask = self.pattern.mask(part, self.dim, part.dtype)
        return part * mask


def check_patterns(texts: Any) -> None:
    """Raise a TypeError if these are no list of texts, and a ValueError if one of them is no pattern."""
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
    """
    stays = pattern.block - pattern.zeros
    whole, rest = channels // pattern.block, channels % pattern.block
    macs = (whole * stays + np.minimum(rest, stays)) / channels
    stored = np.ceil(channels / pattern.block) * stays / channels
    return macs, stored * (1 + (pattern.block - 1).bit_length() / 8 / element)


def zeros_of(subnet: Subnet, layers: Mapping[str, SparseLayer]) -> dict[str, Zeros]:
    """What a subnet asks of each weight, by the weight's name; nothing of dense ones."""
    patterns = {name: Pattern.parse(str(subnet[f"{name}.sparsity"])) for name in layers}
    return {layers[n].weight: Zeros(pattern, layers[n].dim) for n, pattern in patterns.items() if pattern is not None}


def population_patterns(
    space: SearchSpace, genomes: Genome, layers: Mapping[str, SparseLayer]
) -> dict[str, list[tuple[BoolArray, Pattern]]]:
    """For each layer its patterns, each with the genomes, (population, choices), in which it takes it."""
    columns = {choice.name: i for i, choice in enumerate(space.choices)}
    result: dict[str, list[tuple[BoolArray, Pattern]]] = {}
    for name, layer in layers.items():
        chosen = genomes[:, columns[f"{name}.sparsity"]]
        parsed = [(chosen == option, Pattern.parse(text)) for option, text in enumerate(layer.options)]
        result[name] = [(mine, pattern) for mine, pattern in parsed if pattern is not None]
    return result
