"""Problems whose every answer is known: four kinds that are made up, and one from a table of real evaluations."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import moocore
import numpy as np

from ofa.arrays import FloatArray
from ofa.search import Problem
from ofa.search.learning.inner import Inner
from ofa.space import Choice, Genome, SearchSpace

FOLDER = Path(__file__).parent
STAGES, BLOCKS = 5, 4
CHANCE = 10.0  # the accuracy of guessing
Truth = Callable[[Genome], FloatArray]


@dataclass(frozen=True)
class Known:
    """A problem with the truth of every genome, (population,) accuracies, and the deviation of an evaluation."""

    name: str
    problem: Problem
    truth: Truth
    noise: float

    def evaluate(self, genome: Genome, seed: int) -> float:
        """The accuracy that one evaluation of a genome, (choices,), gives: the same whenever it is asked."""
        draw = np.random.default_rng([zlib.crc32(genome.tobytes()), seed]).normal()
        return float(self.truth(genome[None])[0] + self.noise * draw)

    def points(self, genomes: Genome) -> FloatArray:
        """True accuracies and MACs in millions, (population, 2)."""
        return np.stack([self.truth(genomes), np.asarray(self.problem.costs(genomes)["macs"]) / 1e6], axis=1)

    def hypervolume(self, genomes: Genome) -> float:
        """What genomes dominate, in the rectangle of the reference front and the corner."""
        corner = self.corner
        return float(moocore.hypervolume(self.points(genomes), ref=corner, maximise=[True, False]))

    @property
    def corner(self) -> list[float]:
        space = self.problem.space
        ends = self.points(np.stack([space.encode(space.smallest), space.encode(space.largest)]))
        return [float(ends[0, 0]) - 0.05 * float(np.ptp(ends[:, 0])), float(ends[1, 1]) * 1.01]


def space() -> SearchSpace:
    """45 choices: of five stages of four blocks the depth, of every block width and kernel."""
    choices = [Choice(f"stage{s}", "depth", (2, 3, 4)) for s in range(STAGES)]
    for s in range(STAGES):
        for b in range(BLOCKS):
            within = ((f"stage{s}", b),) if b >= 2 else ()
            choices += [
                Choice(f"stage{s}.{b}.width", "width", (3, 4, 6, 8), within),
                Choice(f"stage{s}.{b}.kernel", "kernel", (3, 5, 7), within),
            ]
    return SearchSpace(tuple(choices))


def costs(genomes: Genome) -> dict[str, FloatArray]:
    """MACs and parameters: a block's are its width's times its kernel's, those of a stage twice the last one's."""
    skipped = space_().skipped(genomes)
    macs, params = np.full(len(genomes), 4e6), np.full(len(genomes), 1e5)
    for s in range(STAGES):
        for b in range(BLOCKS):
            i = STAGES + 2 * (s * BLOCKS + b)
            width = np.array([3.0, 4.0, 6.0, 8.0])[genomes[:, i]]
            kernel = np.array([3.0, 5.0, 7.0])[genomes[:, i + 1]]
            there = ~skipped[:, i]
            macs += there * 1e5 * width * (8 + 0.4 * kernel**2) * 1.2 ** (STAGES - s)
            params += there * 1e3 * width * (16 * 2.0**s + kernel**2)
    return {"macs": macs, "params": params}


@cache
def space_() -> SearchSpace:
    return space()


@dataclass(frozen=True)
class Worth:
    """What options add up to: every choice by its own weight, falling returns, and what pairs add."""

    single: FloatArray  # (choices, options)
    pairs: tuple[tuple[int, int, FloatArray], ...]

    @classmethod
    def drawn(cls, seed: int, share: float, pairs: int, strength: float) -> Worth:
        """`share` of the choices matter; `pairs` of neighbours and strangers interact."""
        rng, counts = np.random.default_rng(seed), space_().counts
        weights = rng.gamma(1.0, 1.0, len(counts)) * (rng.random(len(counts)) < share)
        weights[:STAGES] *= 2
        curves = [np.cumsum([0.0, *(rng.dirichlet(np.sort(rng.random(c - 1))[::-1] * 3 + 0.5))]) for c in counts]
        single = np.stack(
            [np.pad(w * curve, (0, 4 - len(curve)), mode="edge") for w, curve in zip(weights, curves, strict=True)]
        )
        chosen = [rng.choice(len(counts), 2, replace=False) for _ in range(pairs)]
        return cls(single, tuple((int(a), int(b), strength * rng.normal(size=(4, 4))) for a, b in chosen))

    def __call__(self, genomes: Genome) -> FloatArray:
        there = ~space_().skipped(genomes)
        total = (self.single[np.arange(genomes.shape[1]), genomes] * there).sum(axis=1)
        for a, b, table in self.pairs:
            total = total + table[genomes[:, a], genomes[:, b]] * there[:, a] * there[:, b]
        return np.asarray(total)


def synthetic(name: str, worth: Worth, shape: Callable[[FloatArray], FloatArray], noise: float = 0.0) -> Known:
    ends = worth(np.stack([space_().encode(space_().smallest), space_().encode(space_().largest)]))
    low, high = float(ends[0]), float(ends[1])

    def truth(genomes: Genome) -> FloatArray:
        return shape((worth(genomes) - low) / (high - low))

    return Known(name, Problem.parse(space_(), ["accuracy", "macs"], costs), truth, noise)


def steps(share: FloatArray) -> FloatArray:
    """Chance below, a steep rise, and flat steps above."""
    return CHANCE + np.floor(60 / (1 + np.exp(-8 * (share - 0.45))) / 1.5) * 1.5


def real() -> Known:
    """The table: a network of networks that learned it, so that every subnet has an answer; see `answers.py`."""
    from experiments.search.answers import learned

    return learned(read(FOLDER / "table.csv.gz"))


@dataclass(frozen=True)
class Table:
    """Evaluated subnets: genomes (rows, choices), figures by name (rows,), and the noise of an evaluation."""

    space: SearchSpace
    genomes: Genome
    figures: dict[str, FloatArray]
    noise: float


def read(path: Path) -> Table:
    described = json.loads((FOLDER / "space.json").read_text())["choices"]
    choices = tuple(
        Choice(c["name"], c["kind"], tuple(c["options"]), tuple((n, p) for n, p in c["within"])) for c in described
    )
    with gzip.open(path, "rt") as file:
        header, *rows = list(csv.reader(file))
    values = np.array(rows, dtype=np.float64)
    genomes = values[:, : len(choices)].astype(np.int64)
    figures = {name: values[:, i] for i, name in enumerate(header) if i >= len(choices)}
    with (FOLDER / "noise.csv").open() as file:
        repeats = np.array([row[1:] for row in list(csv.reader(file))[1:]], dtype=np.float64)
    return Table(SearchSpace(choices), genomes, figures, float(np.sqrt(repeats.var(axis=1, ddof=1).mean())))


KNOWN: dict[str, Callable[[], Known]] = {
    "additive": lambda: synthetic("additive", Worth.drawn(1, 1.0, 0, 0.0), lambda s: 60 + 18 * s),
    "interactions": lambda: synthetic("interactions", Worth.drawn(2, 0.8, 60, 0.3), lambda s: 60 + 18 * s),
    "plateaus": lambda: synthetic("plateaus", Worth.drawn(3, 0.4, 20, 0.2), steps),
    "noisy": lambda: synthetic("noisy", Worth.drawn(4, 0.8, 30, 0.2), lambda s: 60 + 18 * s, 0.4),
    "fashion-mnist": real,
}


def reference(known: Known) -> float:
    """The hypervolume of the best front that long searches of the truth find."""

    def gains(genomes: Genome) -> FloatArray:
        return known.points(genomes) * [1.0, -1.0]

    found = [
        Inner(known.problem, 400, 300).run(gains, known.problem.listed, np.random.default_rng(seed))
        for seed in range(2)
    ]
    return known.hypervolume(np.concatenate(found))
