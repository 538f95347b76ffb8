"""A check of all files before anything is made with them: each is decoded once, and what was seen is remembered."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ofa.train.collection.memory import Memory, State
from ofa.train.collection.reading import coloured, turned, untroubled
from ofa.train.distribution import rank
from ofa.train.progress import Progress

CHUNK = 64
"""Files that are checked, and then remembered, at a time."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a file holds: its content's digest, the picture's width and height as one sees it, mode, and whether it was
    turned; `mean` and `square` are the means of its pixels (0 to 1) and of their squares, by channel. `broken` says why
    it cannot be read, and is empty where it can."""

    digest: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    turned: bool = False
    mean: tuple[float, ...] = ()
    square: tuple[float, ...] = ()
    broken: str = ""

    @classmethod
    def of(cls, facts: Sequence[Any]) -> Self:
        """From what `facts` gave, maybe by way of JSON."""
        values: Sequence[Any] = [tuple(fact) if isinstance(fact, list) else fact for fact in facts]
        return cls(*values)

    @property
    def facts(self) -> list[Any]:
        return [getattr(self, name) for name in self.__slots__]

    @property
    def edge(self) -> int:
        """The shorter edge in pixels."""
        return min(self.width, self.height)


def inspect(path: Path) -> Inspected:
    """Read and decode the whole file."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            mode, rotated = image.mode, turned(image)
            picture = coloured(ImageOps.exif_transpose(image))
    except Exception as error:  # every decoder has errors of its own
        return Inspected(broken=reason(path, error))
    mean, square = moments(picture)
    return Inspected(hashlib.sha256(content).hexdigest()[:32], *picture.size, mode, rotated, mean, square)


def reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read, in one line that does not name it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, UnidentifiedImageError):
        return "no picture" if path.stat().st_size else "empty file"
    return " ".join(str(error).split())[:200] or type(error).__name__


def moments(picture: Image.Image) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means of the pixels of an RGB picture, from 0 to 1, and of their squares, by channel."""
    counts = np.array(picture.histogram(), dtype=np.float64).reshape(3, 256) / (picture.width * picture.height)
    values = np.arange(256) / 255
    return tuple((counts @ values).tolist()), tuple((counts @ values**2).tolist())


def inspections(paths: Sequence[Path], memory: Memory) -> list[Inspected]:
    """What each file holds, in the order of the paths: as remembered where it is unchanged, or read by threads.

    Several processes that check the same files share the work. A broken file is never remembered.
    """
    states = [State.of(path) for path in paths]
    seen = {state: Inspected.of(facts) for state, facts in memory.all().items()}
    unknown = [state for state in states if state not in seen]
    if unknown:
        bar = Progress("checking pictures", len(unknown), quiet=rank() != 0 or len(unknown) <= CHUNK)
        with bar, untroubled(), ThreadPoolExecutor(threads()) as pool:
            for start in range(0, len(unknown), CHUNK):
                chunk = unknown[start : start + CHUNK]
                seen |= inspected(chunk, memory, pool)
                for state in chunk:
                    bar.advance(broken=bar.figures.get("broken", 0) + bool(seen[state].broken))
    return [seen[state] for state in states]


def inspected(states: Sequence[State], memory: Memory, pool: ThreadPoolExecutor) -> dict[State, Inspected]:
    """What these files hold, of which other processes may have read some meanwhile."""
    with memory.adding() as added:
        seen = {state: Inspected.of(facts) for state, facts in memory.some(states).items()}
        missing = [state for state in states if state not in seen]
        seen |= zip(missing, pool.map(inspect, (Path(state.name) for state in missing)), strict=True)
        added |= {state: seen[state].facts for state in missing if not seen[state].broken}
    return seen


def threads() -> int:
    return min(32, 2 * (os.cpu_count() or 1))


def statistics(pictures: Iterable[Inspected]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over whole pictures, each of which counts the same."""
    seen = list(pictures)
    mean = np.mean([p.mean for p in seen], axis=0)
    square = np.mean([p.square for p in seen], axis=0)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return tuple(round(float(m), 4) for m in mean), tuple(round(float(d), 4) for d in deviation)
