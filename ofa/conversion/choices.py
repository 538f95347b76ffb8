"""From channel groups and stages to named choices: which widths, kernels, depths and resolutions are offered."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ofa.conversion.policies import POLICIES, Decision, Network
from ofa.groups import ChannelGroup, Groups, Stage, skipped_by
from ofa.selection import Selector
from ofa.space import Choice, SearchSpace
from ofa.sparsity import SparseLayer, check_patterns
from ofa.tracing import Trace

FINE = tuple(i / 128 for i in range(1, 129))  # "multiples": policies choose a range of these, groups have all in it


@dataclass(frozen=True)
class SpaceConfig:
    """What to make elastic.

    `width` are fractions of the units kept, rounded to multiples of `divisor` channels, or "multiples" for all of
    these; the full width is always offered. `policy` says which groups offer them: everything, hidden, block, stage,
    compound, network or auto (see `ofa.conversion.policies`). `keep_ends` leaves the first and the last groups whole
    where `policy` is auto. `kernel` offers 3, 5, … up to the kernel's size, as the centre of the larger one, or with
    `kernel_transform` times a learned matrix; `depth` lets the last blocks of a stage be skipped, down to half of them;
    `resolution` lists input edges in pixels. `exclude` names modules that stay.
    `sparsity` lists N:M patterns that layers may take besides being dense ("2:4": two of every four weights along the
    input channels are zero); with `sparsity_padding` also layers whose last block is shorter, as if zeros filled it up.
    `overrides` maps a glob on module names to other options for the choices there: `width`
    (fractions), `units` (numbers of channels or heads), `kernel` (edges). `proof` compares sliced with zeroed networks
    while converting: where options of every two choices meet in pairs (`full`), at the smallest alone (`quick`), or not
    (`off`: the smallest subnet is extracted and runs, no more). A choice that moves no output, so that nothing can be
    shown, is frozen; with `unproved` "keep" it stays, and the report says so.

    >>> SpaceConfig(width=(0.5, 1.0), kernel=False, sparsity=("2:4",)).kinds
    ('width', 'depth', 'sparsity')

    Raises:
        ValueError: a ratio outside (0, 1], another word than those above, a number below 1, or no pattern.
        TypeError: `sparsity` is no list of texts.
    """

    width: tuple[float, ...] | Literal["multiples"] = (0.25, 0.5, 0.75, 1.0)
    kernel: bool = True
    kernel_transform: bool = False
    depth: bool = True
    resolution: tuple[int, ...] = ()
    sparsity: tuple[str, ...] = ()
    sparsity_padding: bool = False
    divisor: int = 8
    policy: str = "everything"
    keep_ends: bool = True
    exclude: tuple[Selector, ...] = ()
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    proof: Literal["off", "quick", "full"] = "full"
    unproved: Literal["freeze", "keep"] = "freeze"

    def __post_init__(self) -> None:
        check_ratios("width", self.ratios)
        if self.divisor < 1:
            raise ValueError(f"divisor is at least 1, got {self.divisor}")
        if any(edge < 1 for edge in self.resolution):
            raise ValueError(f"resolutions are positive numbers of pixels, got {list(self.resolution)}")
        check_patterns(self.sparsity)
        if self.proof not in ("off", "quick", "full"):
            raise ValueError(f"proof is off, quick or full, got {self.proof!r}")
        if self.unproved not in ("freeze", "keep"):
            raise ValueError(f"unproved is freeze or keep, got {self.unproved!r}")
        if self.policy not in POLICIES:
            raise ValueError(f"unknown policy {self.policy!r}; allowed: {', '.join(POLICIES)}")
        for glob, options in self.overrides.items():
            if not set(options) <= {"width", "units", "kernel"}:
                raise ValueError(f"overrides[{glob!r}] may hold width, units and kernel, got {sorted(options)}")
            check_ratios(f"overrides[{glob!r}].width", options.get("width", ()))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of choices that a network may get."""
        offered = {
            "width": min(self.ratios, default=1.0) < 1 or bool(self.overrides),
            "kernel": self.kernel,
            "depth": self.depth,
            "resolution": len(self.resolution) > 1,
            "sparsity": bool(self.sparsity),
        }
        return tuple(kind for kind, there in offered.items() if there)

    @property
    def ratios(self) -> tuple[float, ...]:
        """The fractions that `width` stands for."""
        if isinstance(self.width, str):
            if self.width != "multiples":
                raise ValueError(f'width is a list of fractions or "multiples", got {self.width!r}')
            return FINE
        return self.width


def check_ratios(name: str, ratios: Iterable[float]) -> None:
    bad = [ratio for ratio in ratios if not 0 < ratio <= 1]
    if bad:
        raise ValueError(f"{name} ratios lie in (0, 1], got {bad}")


@dataclass(frozen=True)
class ElasticChoice:
    """A choice, and for each group (by index) that follows it the units kept at each option."""

    choice: Choice
    sizes: Mapping[int, tuple[int, ...]]


def width_at(units: int, unit_size: int, ratio: float, divisor: int) -> int:
    """The number of units for a fraction, so that units × unit_size is a multiple of the divisor.

    Never more than `units`, never less than one step, and `units` itself at ratio 1 or where no multiple fits.

    >>> width_at(64, 1, 0.3, divisor=8), width_at(64, 1, 0.3, divisor=1), width_at(6, 1, 0.3, divisor=8)
    (16, 19, 6)
    """
    step = divisor // math.gcd(divisor, unit_size)
    if ratio >= 1 or step > units:
        return units
    return min(units, max(step, math.floor(ratio * units / step + 0.5) * step))


def width_options(units: int, unit_size: int, ratios: Sequence[float], divisor: int) -> tuple[int, ...]:
    """Ascending numbers of units for the given fractions; the full width is always the last.

    >>> width_options(64, 1, (0.25, 0.5), divisor=8)
    (16, 32, 64)
    """
    return tuple(sorted({units, *(width_at(units, unit_size, ratio, divisor) for ratio in ratios)}))


def elastic_choices(
    flow: Trace, groups: Groups, stages: Sequence[Stage], config: SpaceConfig, frozen: Iterable[str] = ()
) -> list[ElasticChoice]:
    """Depths first, then resolution, widths and kernels; what is named in `frozen` is left out.

    Raises:
        ValueError: an override matches nothing, or asks for units that a group does not have.
    """
    skip = set(frozen)
    open_stages = [stage for stage in stages if config.depth and stage.name not in skip]
    depths = (Choice(stage.name, "depth", depth_options(len(stage.blocks))) for stage in open_stages)
    choices = [ElasticChoice(depth, {}) for depth in depths]
    if len(config.resolution) > 1:
        choices.append(ElasticChoice(Choice("resolution", "resolution", tuple(sorted(set(config.resolution)))), {}))
    decisions = POLICIES[config.policy](Network(flow, groups, stages, config.keep_ends), config.ratios)
    for decision in decisions:
        members = [g for g in decision.groups if groups.groups[g].name not in skip]
        choices += width_choice(decision, members, groups, config, open_stages)
    for g, group in enumerate(groups.groups):
        if group.kind == "kernel" and config.kernel and group.name not in skip:
            options = tuple(range(3, group.units + 1, 2))
            choices += choice_for(
                group.name, "kernel", {g: overridden(group, "kernel", options, config)}, groups, open_stages
            )
    check_overrides(groups, config)
    return choices


def sparsity_choices(layers: Mapping[str, SparseLayer], stages: Sequence[Stage]) -> list[ElasticChoice]:
    """A choice of pattern for each layer."""
    return [
        ElasticChoice(Choice(f"{name}.sparsity", "sparsity", layer.options, around), {})
        for name, layer in layers.items()
        for around in [tuple(blocks_around([layer.weight], stages))]
    ]


def width_choice(
    decision: Decision, members: Sequence[int], groups: Groups, config: SpaceConfig, stages: Sequence[Stage]
) -> list[ElasticChoice]:
    """The choice of one decision; several groups share a ratio, in percent, as its value."""
    if len(decision.groups) == 1:
        sizes = {g: units_of(groups.groups[g], decision.ratios, config) for g in members}
        return choice_for(decision.name, "width", sizes, groups, stages)
    ratios = sorted({*decision.ratios, 1.0})
    sizes = {
        g: tuple(width_at(groups.groups[g].units, groups.groups[g].unit_size, r, config.divisor) for r in ratios)
        for g in members
    }
    if all(len(set(row)) == 1 for row in sizes.values()):
        return []
    names = [name for g in members for name, _, _ in groups.groups[g].members]
    choice = Choice(decision.name, "width", tuple(round(100 * r) for r in ratios), tuple(blocks_around(names, stages)))
    return [ElasticChoice(choice, sizes)]


def units_of(group: ChannelGroup, ratios: Sequence[float], config: SpaceConfig) -> tuple[int, ...]:
    own = overridden(group, "width", tuple(ratios), config)
    widths = width_options(group.units, group.unit_size, own, config.divisor)
    if config.width == "multiples" and own == tuple(ratios):
        step = config.divisor // math.gcd(config.divisor, group.unit_size)
        first = step if min(own) == FINE[0] else widths[0]
        widths = tuple(sorted({*range(first, group.units, step), group.units}))
    return overridden(group, "units", widths, config)


def choice_for(
    name: str, kind: Literal["width", "kernel"], sizes: Mapping[int, tuple[int, ...]], groups: Groups,
    stages: Sequence[Stage],
) -> list[ElasticChoice]:  # fmt: skip
    """The choice of one group; none where only one option is left."""
    return [
        ElasticChoice(
            Choice(name, kind, options, tuple(blocks_around((m[0] for m in groups.groups[g].members), stages))), sizes
        )
        for g, options in sizes.items()
        if len(options) > 1
    ]


def overridden(group: ChannelGroup, key: str, options: tuple[Any, ...], config: SpaceConfig) -> tuple[Any, ...]:
    """The options that the last matching override gives a group; its full size always stays among units and kernels."""
    for glob, given in config.overrides.items():
        if key in given and touches(glob, group):
            options = tuple(given[key])
            if key != "width":
                wrong = [n for n in options if not 0 < n <= group.units or (key == "kernel" and n % 2 == 0)]
                if wrong:
                    raise ValueError(f"{group.name}: {key} {wrong} asked by {glob!r}; it has {group.units}")
                options = tuple(sorted({*options, group.units}))
    return options


def touches(glob: str, group: ChannelGroup) -> bool:
    return any(fnmatch.fnmatchcase(name.rpartition(".")[0], glob) for name, _, _ in group.members)


def check_overrides(groups: Groups, config: SpaceConfig) -> None:
    names = sorted({name.rpartition(".")[0] for group in groups.groups for name, _, _ in group.members})
    for glob in config.overrides:
        if not any(touches(glob, group) for group in groups.groups):
            close = difflib.get_close_matches(glob, names, n=5, cutoff=0.4)
            raise ValueError(
                f"override {glob!r} matches no elastic layer; close names: {', '.join(close) or names[:5]}"
            )


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
    """From half of the blocks, rounded down, to all of them.

    >>> depth_options(5)
    (2, 3, 4, 5)
    """
    return tuple(range(blocks // 2, blocks + 1))


def space_of(choices: Sequence[ElasticChoice]) -> SearchSpace:
    return SearchSpace(tuple(one.choice for one in choices))
