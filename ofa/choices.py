"""From channel groups and stages to named choices: which widths, kernels, depths and resolutions are offered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ofa.depth import Stage, skipped_by
from ofa.groups import ChannelGroup
from ofa.selection import Selector
from ofa.space import Choice, SearchSpace


@dataclass(frozen=True)
class SpaceConfig:
    """What to make elastic.

    `width` are fractions of the units kept, rounded to multiples of `divisor` channels; the full width is always
    offered.
    `kernel` offers 3, 5, … up to the kernel's size; `depth` lets the last blocks of a stage be skipped, down to half of
    them; `resolution` lists input edges in pixels. `exclude` names modules that stay as they are. `proof` compares
    sliced with zeroed networks while converting: each choice alone (`full`), all together (`quick`), or not (`off`).
    """

    width: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    kernel: bool = True
    depth: bool = True
    resolution: tuple[int, ...] = ()
    divisor: int = 8
    exclude: tuple[Selector, ...] = ()
    proof: Literal["off", "quick", "full"] = "full"

    def __post_init__(self) -> None:
        bad = [ratio for ratio in self.width if not 0 < ratio <= 1]
        if bad:
            raise ValueError(f"width ratios lie in (0, 1], got {bad}")
        if self.divisor < 1:
            raise ValueError(f"divisor is at least 1, got {self.divisor}")
        if any(edge < 1 for edge in self.resolution):
            raise ValueError(f"resolutions are positive numbers of pixels, got {list(self.resolution)}")
        if self.proof not in ("off", "quick", "full"):
            raise ValueError(f"proof is off, quick or full, got {self.proof!r}")


def width_options(units: int, unit_size: int, ratios: Sequence[float], divisor: int) -> tuple[int, ...]:
    """Numbers of units for the given fractions, so that units × unit_size is a multiple of the divisor.

    The full width is always the last option; nothing exceeds it, and nothing is smaller than one step.
    """
    step = divisor // math.gcd(divisor, unit_size)
    options = {units}
    for ratio in ratios:
        if ratio < 1 and step <= units:
            options.add(min(units, max(step, math.floor(ratio * units / step + 0.5) * step)))
    return tuple(sorted(options))


def group_choice(group: ChannelGroup, config: SpaceConfig, stages: Sequence[Stage]) -> Choice | None:
    """The choice that a group offers; None where only one option is left."""
    if group.kind == "kernel":
        options = tuple(range(3, group.units + 1, 2)) if config.kernel else (group.units,)
    else:
        options = width_options(group.units, group.unit_size, config.width, config.divisor)
    if len(options) < 2:
        return None
    return Choice(group.name, group.kind, options, tuple(blocks_around((m[0] for m in group.members), stages)))


def blocks_around(names: Iterable[str], stages: Sequence[Stage]) -> list[tuple[str, int]]:
    """The skippable blocks that together hold all named parameters; empty if one of them lies outside."""
    found: dict[tuple[str, int], None] = {}
    for name in names:
        blocks = [(stages[s].name, position) for s, position in skipped_by(name, stages)]
        if not blocks:
            return []
        found.update(dict.fromkeys(blocks))
    return list(found)


def depth_options(blocks: int) -> tuple[int, ...]:
    """From half of the blocks, rounded down, to all of them."""
    return tuple(range(blocks // 2, blocks + 1))


def make_space(
    groups: Sequence[ChannelGroup], stages: Sequence[Stage], config: SpaceConfig, frozen: Iterable[str] = ()
) -> SearchSpace:
    """Depths first, then resolution, then each group's width or kernel; what is in `frozen` is left out."""
    skip = set(frozen)
    open_stages = [stage for stage in stages if config.depth and stage.name not in skip]
    choices = [Choice(stage.name, "depth", depth_options(len(stage.blocks))) for stage in open_stages]
    if len(config.resolution) > 1:
        choices.append(Choice("resolution", "resolution", tuple(sorted(set(config.resolution)))))
    for group in groups:
        choice = None if group.name in skip else group_choice(group, config, open_stages)
        if choice is not None:
            choices.append(choice)
    return SearchSpace(tuple(choices))
