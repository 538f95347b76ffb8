"""Spaces, subnets, genomes: round trips, canonical forms, refusals."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa import Choice, SearchSpace, Subnet
from ofa.conversion.choices import width_options

SPACE = SearchSpace(
    (
        Choice("stage.depth", "depth", (1, 2, 3)),
        Choice("block0.width", "width", (8, 16, 32), within=(("stage.depth", 0),)),
        Choice("block1.width", "width", (8, 16), within=(("stage.depth", 1),)),
        Choice("block2.kernel", "kernel", (3, 5, 7), within=(("stage.depth", 2),)),
        Choice("shared.width", "width", (4, 8), within=(("stage.depth", 1), ("stage.depth", 2))),
    )
)


@given(st.integers(0, 2**32 - 1))
def test_genomes_and_json_round_trip(seed: int) -> None:
    subnet = SPACE.sample(np.random.default_rng(seed))
    assert SPACE.decode(SPACE.encode(subnet)) == subnet
    assert Subnet.from_json(subnet.to_json()) == subnet
    assert pickle.loads(pickle.dumps(subnet)) == subnet
    assert SPACE.canonical(subnet) == subnet


def test_choices_of_skipped_blocks_do_not_count() -> None:
    shallow = {"stage.depth": 1, "block0.width": 8, "block1.width": 8, "block2.kernel": 3, "shared.width": 4}
    canonical = SPACE.canonical(Subnet(shallow))
    assert canonical == Subnet({**shallow, "block1.width": 16, "block2.kernel": 7, "shared.width": 8})
    deeper = Subnet({**shallow, "stage.depth": 2})
    assert SPACE.canonical(deeper) == deeper.replace(**{"block2.kernel": 7})


def test_canonical_genomes_of_a_population_agree_with_one_at_a_time() -> None:
    rng = np.random.default_rng(0)
    genomes = rng.integers(0, SPACE.counts, size=(200, len(SPACE)))
    canonical = SPACE.canonical_genomes(genomes)
    assert [SPACE.decode(g) for g in canonical] == [SPACE.canonical(SPACE.decode(g)) for g in genomes]


def test_what_is_not_in_the_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"block1\.width=24 is no option; allowed: \(8, 16\)"):
        SPACE.encode(SPACE.largest.replace(**{"block1.width": 24}))
    with pytest.raises(ValueError, match=r"missing \['stage.depth'"):
        SPACE.encode(Subnet({}))
    with pytest.raises(ValueError, match=r"unknown \['x'\]"):
        SPACE.encode(SPACE.largest.replace(x=1))
    with pytest.raises(ValueError, match="shape"):
        SPACE.decode([0, 1])
    with pytest.raises(ValueError, match="option 9 asked"):
        SPACE.decode([0, 9, 0, 0, 0])
    with pytest.raises(ValueError, match="JSON object"):
        Subnet.from_json("[1]")
    with pytest.raises(KeyError, match="no choice 'width'"):
        SPACE["width"]


def test_restriction_keeps_order_and_refuses_what_is_no_option() -> None:
    smaller = SPACE.restrict({"block0.width": [32, 8]})
    assert smaller["block0.width"].options == (8, 32)
    assert smaller.size == SPACE.size // 3 * 2
    with pytest.raises(ValueError, match="non-empty part"):
        SPACE.restrict({"block0.width": []})


def test_distinct_networks_are_the_canonical_ones_counted_one_by_one() -> None:
    both = Choice("both", "width", (1, 2, 3), within=(("stage.depth", 1), ("other.depth", 1)))
    space = SearchSpace((*SPACE.choices, Choice("other.depth", "depth", (0, 1, 2)), both))
    for one in (SPACE, space):
        genomes = np.stack([*np.ndindex(*one.counts)])
        assert one.distinct == len(np.unique(one.canonical_genomes(genomes), axis=0)) < one.size


@given(st.integers(1, 300), st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 64), st.floats(0.01, 1.0))
def test_widths_never_exceed_the_original_and_never_prune_at_one(
    units: int, divisor: int, size: int, ratio: float
) -> None:
    options = width_options(units, size, (ratio, 1.0), divisor)
    assert options[-1] == units
    assert width_options(units, size, (1.0,), divisor) == (units,)
    assert all(0 < n <= units for n in options)
    assert all(n == units or n * size % divisor == 0 for n in options)
