"""The search space: ordered, named choices, and the subnets that pick one option of each (Cai et al., 2020)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Value = int | str
Kind = Literal["width", "kernel", "depth", "resolution", "sparsity"]
Genome = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """One named decision; `options` ascend, so the last one is the original network's.

    A width is a number of units kept (channels, or heads where an attention is pruned by heads), a kernel its edge in
    pixels, a depth the number of blocks that run, a resolution the input's edge in pixels.
    `within` lists the skippable blocks, as (depth choice, position), that hold everything this choice decides;
    the choice means nothing once all of them are skipped. Empty: the choice always counts.

    >>> choice = Choice("layer1.width", "width", (16, 32, 64))
    >>> choice.smallest, choice.largest
    (16, 64)

    Raises:
        ValueError: no option, or one of them twice.
    """

    name: str
    kind: Kind
    options: tuple[Value, ...]
    within: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise ValueError(f"choice {self.name!r} needs distinct options, got {self.options}")

    @property
    def largest(self) -> Value:
        return self.options[-1]

    @property
    def smallest(self) -> Value:
        return self.options[0]


class Subnet(Mapping[str, Value]):
    """One value for every choice of a space: an immutable, hashable mapping that round-trips through JSON.

    >>> subnet = Subnet({"layer1.width": 32, "layer1.depth": 2})
    >>> subnet.replace(**{"layer1.depth": 1})
    Subnet({'layer1.width': 32, 'layer1.depth': 1})
    >>> Subnet.from_json(subnet.to_json()) == subnet
    True
    """

    __slots__ = ("_hash", "_values")

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)
        self._hash = hash(tuple(sorted(self._values.items(), key=lambda item: item[0])))

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subnet) and self._values == other._values

    def __repr__(self) -> str:
        return f"Subnet({self._values})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Subnet, (self._values,))

    def replace(self, **values: Value) -> Subnet:
        """The same subnet with other values for some choices (`subnet.replace(**{"layer1.depth": 1})`)."""
        return Subnet({**self._values, **values})

    def to_json(self) -> str:
        return json.dumps(self._values)

    @classmethod
    def from_json(cls, text: str) -> Subnet:
        """Read what `to_json` wrote.

        Raises:
            ValueError: `text` is not a JSON object of numbers and strings.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"a subnet is a JSON object of choice: value, got {text[:80]!r} ({error})") from None
        if not isinstance(values, dict) or not all(type(v) in (int, str) for v in values.values()):
            raise ValueError(f"a subnet is a JSON object of choice: value, got {text[:80]!r}")
        return cls(values)


@dataclass(frozen=True)
class SearchSpace:
    """The ordered choices of a supernet. Genomes are vectors of option indices, one a choice, in the same order.

    >>> space = SearchSpace((Choice("stem", "width", (8, 16)), Choice("head", "width", (8, 16, 32))))
    >>> space.size, space.encode(space.largest).tolist()
    (6, [1, 2])
    >>> space.decode([0, 1])
    Subnet({'stem': 8, 'head': 16})

    Raises:
        ValueError: two choices of one name.
    """

    choices: tuple[Choice, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [choice.name for choice in self.choices]
        if len(set(names)) != len(names):
            raise ValueError(f"choices need distinct names, got {sorted(n for n in names if names.count(n) > 1)}")
        object.__setattr__(self, "_index", {name: i for i, name in enumerate(names)})

    def __len__(self) -> int:
        return len(self.choices)

    def __getitem__(self, name: str) -> Choice:
        """The choice of a name.

        Raises:
            KeyError: there is none; says which there are.
        """
        try:
            return self.choices[self._index[name]]
        except KeyError:
            raise KeyError(f"no choice {name!r}; the choices are {list(self._index)}") from None

    @cached_property
    def counts(self) -> Genome:
        """Number of options of every choice."""
        return np.array([len(choice.options) for choice in self.choices], dtype=np.int64)

    @property
    def size(self) -> int:
        """Number of combinations, skipped ones included."""
        return math.prod(int(n) for n in self.counts)

    @property
    def distinct(self) -> int:
        """Number of different networks: in skipped blocks nothing is chosen.

        >>> inside = Choice("block.width", "width", (8, 16, 32), within=(("depth", 0),))
        >>> space = SearchSpace((Choice("depth", "depth", (0, 1)), inside))
        >>> space.size, space.distinct
        (6, 4)
        """
        together = {stage: {stage} for choice in self.choices for stage, _ in choice.within}
        for choice in self.choices:  # stages that a choice depends on are counted together
            joined = set().union(*(together[stage] for stage, _ in choice.within))
            together |= dict.fromkeys(joined, joined)
        apart = [[*stages] for stages in {id(stages): stages for stages in together.values()}.values()]
        inside = {choice.name for choice in self.choices if choice.within} | together.keys()
        free = math.prod(len(choice.options) for choice in self.choices if choice.name not in inside)
        return free * math.prod(map(self._networks_of, apart))

    def _networks_of(self, stages: Sequence[str]) -> int:
        """How many different parts of networks these depths, and what they decide on, make."""
        inside = [c for c in self.choices if any(stage in stages for stage, _ in c.within)]
        combinations = [dict(zip(stages, d, strict=True)) for d in product(*(self[s].options for s in stages))]
        return sum(
            math.prod(len(c.options) for c in inside if any(int(depth[s]) > position for s, position in c.within))
            for depth in combinations
        )

    @property
    def largest(self) -> Subnet:
        return Subnet({choice.name: choice.largest for choice in self.choices})

    @property
    def smallest(self) -> Subnet:
        """The subnet with the smallest option everywhere (canonical: skipped blocks stay at their largest)."""
        return self.canonical(Subnet({choice.name: choice.smallest for choice in self.choices}))

    def sample(self, rng: np.random.Generator) -> Subnet:
        """One subnet, every option equally likely, canonical."""
        return self.decode(self.canonical_genomes(rng.integers(0, self.counts)))

    def encode(self, subnet: Subnet) -> Genome:
        """Option indices of `subnet`, shape (choices,).

        Raises:
            ValueError: `subnet` lacks a choice, has one that is not here, or a value that is no option.
        """
        self.check(subnet)
        return np.array([choice.options.index(subnet[choice.name]) for choice in self.choices], dtype=np.int64)

    def decode(self, genome: npt.ArrayLike | Sequence[int]) -> Subnet:
        """The subnet of a vector of option indices, shape (choices,).

        Raises:
            ValueError: wrong length, or an index outside a choice's options.
        """
        vector = np.asarray(genome)
        if vector.shape != (len(self.choices),):
            raise ValueError(f"a genome of this space has shape ({len(self.choices)},), got {vector.shape}")
        if np.any(vector < 0) or np.any(vector >= self.counts):
            bad = int(np.argmax((vector < 0) | (vector >= self.counts)))
            options = self.choices[bad].options
            raise ValueError(
                f"option {int(vector[bad])} asked of {self.choices[bad].name!r}, which has {len(options)}: {options}"
            )
        return Subnet({c.name: c.options[int(i)] for c, i in zip(self.choices, vector, strict=True)})

    def check(self, subnet: Subnet) -> None:
        """Raise a ValueError that names what is missing, unknown or not allowed in `subnet`."""
        missing = [name for name in self._index if name not in subnet]
        unknown = [name for name in subnet if name not in self._index]
        if missing or unknown:
            raise ValueError(f"not a subnet of this space: missing {missing[:5]}, unknown {unknown[:5]}")
        for choice in self.choices:
            if subnet[choice.name] not in choice.options:
                raise ValueError(f"{choice.name}={subnet[choice.name]} is no option; allowed: {choice.options}")

    def canonical(self, subnet: Subnet) -> Subnet:
        """The same network with every choice that only concerns skipped blocks at its largest."""
        return self.decode(self.canonical_genomes(self.encode(subnet)))

    def canonical_genomes(self, genomes: Genome) -> Genome:
        """`canonical` for genomes of shape (..., choices)."""
        return np.where(self.skipped(genomes), self.counts - 1, genomes)

    def skipped(self, genomes: Genome) -> npt.NDArray[np.bool_]:
        """Which choices concern skipped blocks alone, for genomes of shape (..., choices), in the same shape."""
        result = np.zeros(genomes.shape, dtype=bool)
        for i, positions in self._maskable:
            result[..., i] = True
            for stage, depths, position in positions:
                result[..., i] &= depths[genomes[..., stage]] <= position
        return result

    @cached_property
    def _maskable(self) -> list[tuple[int, list[tuple[int, Genome, int]]]]:
        """For each choice that can lose its meaning: its index, and (stage, options, position) of its blocks."""
        rows = []
        for i, choice in enumerate(self.choices):
            positions = []
            for stage, position in choice.within:
                index = self._index[stage]
                positions.append((index, np.array(self.choices[index].options, dtype=np.int64), position))
            if positions:
                rows.append((i, positions))
        return rows

    def restrict(self, options: Mapping[str, Sequence[Value]]) -> SearchSpace:
        """The sub-space in which the named choices keep only the given options.

        Raises:
            ValueError: an unknown choice, or an option that it does not have.
        """
        for name, values in options.items():
            if name not in self._index:
                raise ValueError(f"no choice {name!r}; the choices are {list(self._index)}")
            extra = [value for value in values if value not in self[name].options]
            if extra or not values:
                raise ValueError(f"{name}: {list(values)} asked, a non-empty part of {self[name].options} is allowed")
        return SearchSpace(
            tuple(
                Choice(c.name, c.kind, tuple(o for o in c.options if o in options[c.name]), c.within)
                if c.name in options
                else c
                for c in self.choices
            )
        )

    def upto(self, subnet: Subnet) -> SearchSpace:
        """The sub-space in which no option is larger than `subnet`'s: what it can still be pruned to.

        Raises:
            ValueError: `subnet` is not of this space.
        """
        self.check(subnet)
        return self.restrict({c.name: c.options[: c.options.index(subnet[c.name]) + 1] for c in self.choices})

    def lifted(self, genomes: Genome, part: SearchSpace) -> Genome:
        """Genomes of `part`, a restriction of this space, as genomes of this one, shape (..., choices)."""
        result = genomes.copy()
        for i, (mine, theirs) in enumerate(zip(self.choices, part.choices, strict=True)):
            result[..., i] = np.array([mine.options.index(o) for o in theirs.options])[genomes[..., i]]
        return result

    def to_json(self) -> str:
        rows = [
            {
                "name": c.name,
                "kind": c.kind,
                "options": list(c.options),
                "within": [list(w) for w in c.within],
            }
            for c in self.choices
        ]
        return json.dumps({"choices": rows}, indent=1)
