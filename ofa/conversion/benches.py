"""The benches that a proof may use, cheapest first: small images, the given size, larger ones, other weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from ofa.conversion.bench import Bench, DoesNotRun, own_errors
from ofa.conversion.randomised import Examples, randomised, resized, varied
from ofa.slicing import duplicate

EDGES = (64, 96, 128, 160, 192)  # of small images, in pixels
SMALL, MOST = 2, 8  # variants of an example: of small images, and at most
LARGER = 2  # times the size of the images that were given
ELEMENTS = 40_000  # of all variants of other inputs together


class Benches:
    """Makes benches of a network on demand, each once."""

    def __init__(self, model: nn.Module, examples: Examples) -> None:
        self.model = duplicate(model).eval()
        self.examples = fewest(self.model, examples)
        images = [t for t in examples.leaves() if t.ndim == 4 and t.is_floating_point()]
        self.edge = max((min(t.shape[2:]) for t in images), default=0)
        self.edges = [e for e in EDGES if e < self.edge]
        self._small: dict[int, Bench | None] = {}

    def sizes(self) -> Iterator[Bench]:
        """Randomised networks on images of growing size, at last on those that were given."""
        for edge in self.edges:
            if edge not in self._small:
                self._small[edge] = self._bench([several(resized(self.examples, edge), SMALL)], cheap=True)
            bench = self._small[edge]
            if bench is not None:
                yield bench
        yield self.full

    def others(self) -> Iterator[Bench]:
        """What is tried where a choice moves no output: larger images (the border of a kernel may lie outside of small
        ones), all weights random, then outputs inside that network."""
        if self.edge:
            larger = self._bench([resized(self.examples, LARGER * self.edge)], cheap=False)
            yield from [larger] if larger else []
        yield self.shuffled
        yield self.within(self.shuffled)

    @cached_property
    def full(self) -> Bench:
        """The given size."""
        copies = max(1, min(MOST, ELEMENTS // max(1, sum(t.numel() for t in self.examples.leaves()))))
        variants = [several(self.examples, n) for n in dict.fromkeys((copies, 1))]
        bench = self._bench([*variants, self.examples], cheap=False)
        return bench or self.plain

    @cached_property
    def shuffled(self) -> Bench:
        """The given size, every matrix random."""
        bench = self._bench([self.full.examples], cheap=False, everything=True)
        return bench or self.full

    def within(self, bench: Bench) -> Bench:
        """The outputs of every module of a network, too."""
        return Bench(bench.network, bench.examples, bench.cheap, inside=True)

    @cached_property
    def plain(self) -> Bench:
        """The network as it is, on what was given."""
        return Bench(self.model, self.examples)

    def _bench(self, variants: list[Examples], cheap: bool, everything: bool = False) -> Bench | None:
        """A bench on the first examples that the network runs on, None if there are none."""
        for examples in variants:
            with contextlib.suppress(DoesNotRun), torch.no_grad():
                for seed in range(2):
                    with own_errors():
                        network = randomised(self.model, examples, seed, everything)
                    bench = Bench(network, examples, cheap)
                    if bench.works():
                        return bench
        return None

    def at_full_size(self, bench: Bench) -> Bench:
        """The network of a bench on what was given."""
        return Bench(bench.network, self.examples, False, bench.inside, bench.before_selection)


def several(examples: Examples, copies: int) -> Examples:
    return varied(examples, copies, torch.Generator().manual_seed(0))


def fewest(model: nn.Module, examples: Examples) -> Examples:
    """At most two of a batch, if the network runs on them: the first dimension may be another one."""
    smaller = few(examples)
    if [t.shape for t in smaller.leaves()] == [t.shape for t in examples.leaves()]:
        return examples
    with contextlib.suppress(DoesNotRun), torch.no_grad():
        Bench(model, smaller).whole()
        return smaller
    return examples


def few(examples: Examples) -> Examples:
    """At most two of a batch."""
    batch = examples.batch

    def first(tensor: Tensor) -> Tensor:
        return tensor[:2] if tensor.ndim and tensor.shape[0] == batch else tensor

    return examples.mapped(first)
