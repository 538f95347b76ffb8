"""Patterns: exactly N zeros in every block, the same ones everywhere, and none that was not asked for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ofa.sparsity import Pattern
from ofa.sparsity.pattern import admitted, largest, merge_sort, order_statistics

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    block = draw(st.integers(2, 20))
    return Pattern(draw(st.integers(1, block - 1)), block)


@st.composite
def weights(draw: st.DrawFn) -> tuple[Tensor, int]:
    """A weight of a linear layer or a convolution and the dimension of its input channels; often with many ties."""
    kernel = draw(st.sampled_from([(), (3,), (2, 3), (1, 2, 2)]))
    shape = (draw(st.integers(1, 24)), draw(st.integers(1, 24)), *kernel)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    values = torch.randn(shape, generator=generator)
    if draw(st.booleans()):
        values = (values * draw(st.integers(1, 3))).round()
    return values.to(draw(st.sampled_from(DTYPES))), draw(st.sampled_from([0, 1, -len(shape) + 1]))


def by_sorting(scores: Tensor, pattern: Pattern, dim: int) -> Tensor:
    """The mask, row by row and block by block."""
    rows = scores.movedim(dim, -1)
    mask = torch.ones_like(rows, dtype=torch.bool)
    for index in itertools.product(*map(range, rows.shape[:-1])):
        for start in range(0, rows.shape[-1], pattern.block):
            block = rows[index][start : start + pattern.block].tolist()
            zeros = max(0, pattern.zeros - (pattern.block - len(block)))
            for place in sorted(range(len(block)), key=lambda i: (block[i], -i))[:zeros]:
                mask[index][start + place] = False
    return mask.movedim(-1, dim)


@settings(deadline=None)
@given(patterns(), weights())
@example(Pattern(2, 4), (torch.ones(2, 8), 1))
@example(Pattern(12, 16), (torch.zeros(3, 16, 1, 1, dtype=torch.float16), 1))
def test_the_smallest_of_every_block_go_and_of_equals_the_last(pattern: Pattern, given: tuple[Tensor, int]) -> None:
    weight, dim = given
    mask = pattern.mask(weight.abs(), dim)
    assert mask.dtype == torch.bool and mask.shape == weight.shape
    assert torch.equal(mask, by_sorting(weight.abs(), pattern, dim))
    assert torch.equal(pattern.mask(weight.abs(), dim, weight.dtype), mask.to(weight.dtype))


@settings(deadline=None)
@given(patterns(), weights())
def test_every_block_has_exactly_n_zeros_and_a_second_mask_is_the_first(
    pattern: Pattern, given: tuple[Tensor, int]
) -> None:
    weight, dim = given
    mask = pattern.mask(weight.abs(), dim)
    size = weight.shape[dim]
    kept = pattern.blocks(mask.float(), dim % weight.ndim).sum(dim % weight.ndim + 1)
    full = kept.narrow(dim % weight.ndim, 0, size // pattern.block)
    assert bool((full == pattern.block - pattern.zeros).all())
    rest = size % pattern.block
    if rest:
        last = kept.select(dim % weight.ndim, -1)
        assert bool((last == rest - max(0, pattern.zeros - (pattern.block - rest))).all())
    sparse = weight * mask
    assert pattern.fits(sparse, dim)
    assert torch.equal(pattern.mask(sparse.abs(), dim), mask)
    assert torch.equal(pattern.mask(sparse.abs(), dim) * sparse, sparse)


@settings(deadline=None)
@given(patterns(), weights())
def test_spared_zeros_make_no_difference_to_what_is_kept(pattern: Pattern, given: tuple[Tensor, int]) -> None:
    values, dim = given[0], given[1] % given[0].ndim
    exact, spared = (pattern.mask(values.abs(), dim, spare_zeros=spare) for spare in (False, True))
    assert torch.equal(values * exact, values * spared)
    assert bool((spared >= exact).all()) and not bool((spared & ~exact & (values != 0)).any())


@settings(deadline=None)
@given(patterns(), weights())
def test_the_short_way_on_a_cpu_gives_what_the_others_do(pattern: Pattern, given: tuple[Tensor, int]) -> None:
    weight, dim = given[0], given[1] % given[0].ndim
    scores, zeros = pattern.blocks(weight.abs(), dim, -math.inf), pattern.zeros
    _, threshold = order_statistics(scores, dim + 1, zeros)
    for spare in (False, True):
        short = largest(scores, dim + 1, zeros, spare)
        assert torch.equal(short, admitted(scores, threshold, dim + 1, zeros, spare))


@pytest.mark.parametrize("text", ["2:4", "5:7", "12:16"])
def test_compiled_masks_are_the_same(text: str) -> None:
    pattern, scores = Pattern.parse(text), (torch.randn(6, 30, 3) * 3).round().abs()
    assert pattern is not None
    torch.compiler.reset()
    assert torch.equal(torch.compile(pattern.mask, backend="eager")(scores), pattern.mask(scores))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gpu_gives_the_same_mask(dtype: torch.dtype) -> None:
    scores = (torch.randn(64, 96, 3, 3) * 4).round().abs().to(dtype)
    for pattern in (Pattern(2, 4), Pattern(8, 16), Pattern(12, 16)):
        assert torch.equal(pattern.mask(scores.cuda()).cpu(), pattern.mask(scores))


@pytest.mark.parametrize("size", range(2, 13))
def test_the_network_sorts(size: int) -> None:
    rows = torch.tensor(list(itertools.product([0.0, 1.0], repeat=size))).T  # a network that sorts these sorts all
    for i, j in merge_sort(size):
        rows[i], rows[j] = torch.minimum(rows[i], rows[j]), torch.maximum(rows[i], rows[j])
    assert bool((rows.diff(dim=0) >= 0).all())


@pytest.mark.parametrize(("size", "rank"), [(2, 1), (4, 2), (5, 1), (16, 8), (16, 15), (64, 48)])
def test_order_statistics_are_those_of_a_sorted_list(size: int, rank: int) -> None:
    scores = torch.randn(7, size, 3)
    for found, place in zip(order_statistics(scores, 1, rank), (rank - 1, rank), strict=True):
        assert torch.equal(found, scores.sort(1).values[:, place : place + 1])


def test_nothing_but_the_block_decides() -> None:
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0, 0.4, 0.3, 0.2, 0.1]])
    assert Pattern(2, 4).mask(scores).tolist() == [[True, True, False, False] * 2]
    assert largest(scores.view(2, 4), 1, 3).tolist() == [[1.0, 0.0, 0.0, 0.0]] * 2


@pytest.mark.parametrize("block", [3, 256])
def test_long_vectors_are_cut_between_blocks(block: int) -> None:
    values = torch.randn(2**20 // block * block)
    mask = Pattern(1, block).mask(values, 0)
    assert mask.view(-1, block).sum(1).unique().tolist() == [block - 1]
    assert torch.equal(Pattern(1, block).mask(values, 0, out=torch.empty_like(mask)), mask)


def test_channels_last_weights_keep_their_mask() -> None:
    weight = torch.randn(8, 16, 3, 3)
    mask = Pattern(8, 16).mask(weight.abs())
    assert torch.equal(Pattern(8, 16).mask(weight.to(memory_format=torch.channels_last).abs()), mask)


def test_masks_take_no_part_in_gradients() -> None:
    parameter = nn.Parameter(torch.randn(4, 8))
    assert not Pattern(2, 4).mask(parameter.abs()).requires_grad


def test_patterns_say_and_read_what_they_are() -> None:
    pattern = Pattern(12, 16)
    assert str(pattern) == "12:16" and Pattern.parse("12:16") == pattern and pattern.density == 0.25
    assert Pattern.parse("dense") is None


@pytest.mark.parametrize("text", ["2/4", "4", "", "2:4:8", "two:four", "-2:4", "2:4 "])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a pattern is zeros:block, such as 2:4, or dense; got"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", ["0:4", "4:4", "5:4", "1:1", "200:257"])
def test_meaningless_patterns_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a block has 2 to 256 weights, .* got"):
        Pattern.parse(text)


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"values are floating-point numbers, got torch.int64"):
        Pattern(2, 4).mask(torch.arange(8).view(1, 8))
