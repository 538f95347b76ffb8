"""Randomness as an argument: seeds made of several numbers, and a fence around the global generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(*parts: int) -> int:
    """One 63-bit seed that depends on every part (`mix(seed, epoch)`); other parts give an unrelated seed."""
    words = np.random.SeedSequence(parts).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch with `parts`, and give them back as they were.

    Libraries draw dropout masks and augmentations from these: inside, a function of `parts` alone.
    """
    seed = mix(*parts)
    before = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
