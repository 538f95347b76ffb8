"""Policies: which groups offer a width, which ratios, and which groups change together.

`everything` lets every group choose; `hidden` keeps residual streams whole; `block` gives one ratio to what lies
within a residual block, its expansion (Once-for-All, Cai et al., 2020), `stage` one to all blocks of a stage (CompOFA,
Sahni et al., 2021); `compound` gives one to a whole stage, stream included, `network` one to all (slimmable networks,
Yu & Huang, 2019); `auto` is the heuristic of the Vitis AI Optimizer: where depthwise convolutions are in the majority
only layers with a kernel and their expansions are elastic, elsewhere groups with a 1×1 convolution keep the upper half
of the ratios, and the first and last convolutions stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ofa.groups import ChannelGroup, Groups, Stage, parent
from ofa.tracing import CostTerm, Trace

CONVOLUTIONS = ("conv", "pointwise", "depthwise", "grouped")
Ratios = tuple[float, ...]


@dataclass(frozen=True)
class Decision:
    """One width choice to offer: its name, the groups (by index) that follow it, and the ratios."""

    name: str
    groups: tuple[int, ...]
    ratios: Ratios


@dataclass(frozen=True)
class Network:
    """What a policy looks at."""

    flow: Trace
    groups: Groups
    stages: Sequence[Stage]
    keep_ends: bool

    def widths(self) -> list[tuple[int, ChannelGroup]]:
        return [(g, group) for g, group in enumerate(self.groups.groups) if group.kind == "width"]

    def convolutions(self) -> list[CostTerm]:
        """All convolutions in the order in which they ran."""
        return [product for product in self.flow.macs if product.kind in CONVOLUTIONS]

    def made_by(self, convolution: CostTerm) -> set[int]:
        """The groups of a convolution's output channels."""
        return set(np.unique(self.groups.group_of[convolution.vectors[0]]).tolist())


Policy = Callable[[Network, Ratios], list[Decision]]


def everything(network: Network, ratios: Ratios) -> list[Decision]:
    return [Decision(group.name, (g,), ratios) for g, group in network.widths()]


def hidden(network: Network, ratios: Ratios) -> list[Decision]:
    return [Decision(group.name, (g,), ratios) for g, group in network.widths() if not group.stream]


def block(network: Network, ratios: Ratios) -> list[Decision]:
    return [Decision(f"{name}.width", tuple(inside), ratios) for name, inside in within_blocks(network).items()]


def stage(network: Network, ratios: Ratios) -> list[Decision]:
    stages: dict[str, list[int]] = {}
    for name, inside in within_blocks(network).items():
        stages.setdefault(parent(name), []).extend(inside)
    return [Decision(f"{name}.width", tuple(inside), ratios) for name, inside in stages.items()]


def within_blocks(network: Network) -> dict[str, list[int]]:
    """The groups that lie within one residual block, or one module beside such blocks, by its name."""
    beside = {parent(one) for stage in network.stages for one in stage.blocks}
    blocks: dict[str, list[int]] = {}
    for g, group in network.widths():
        around = block_around([name for name, _, _ in group.members], beside)
        if around and not group.stream:
            blocks.setdefault(around, []).append(g)
    return blocks


def block_around(names: Sequence[str], beside: set[str]) -> str:
    """The one residual block, or module beside such blocks, that holds all parameters; empty if there is none.

    >>> block_around(["layer1.0.conv1.weight", "layer1.0.bn1.bias"], {"layer1", "layer2"})
    'layer1.0'
    """
    found = set()
    for name in names:
        holder = max((h for h in beside if not h or name.startswith(f"{h}.")), key=len, default=None)
        inside = "" if holder is None else name.removeprefix(f"{holder}.").partition(".")[0]
        found.add(f"{holder}.{inside}" if holder else inside)
    return found.pop() if len(found) == 1 else ""


def compound(network: Network, ratios: Ratios) -> list[Decision]:
    stages: dict[str, list[int]] = {}
    for g, group in network.widths():
        stages.setdefault(stage_of(group.name, network.stages), []).append(g)
    return [Decision(f"{name}.width", tuple(groups), ratios) for name, groups in stages.items()]


def together(network: Network, ratios: Ratios) -> list[Decision]:
    return [Decision("width", tuple(g for g, _ in network.widths()), ratios)]


def stage_of(name: str, stages: Sequence[Stage]) -> str:
    """The module that holds the residual blocks beside which a layer stands, else the layer's outermost module."""
    holders = sorted({parent(block) for stage in stages for block in stage.blocks}, key=len, reverse=True)
    return next((h for h in holders if h and name.startswith(f"{h}.")), name.partition(".")[0])


def auto(network: Network, ratios: Ratios) -> list[Decision]:
    edges: dict[int, list[int]] = {}
    convolutions = network.convolutions()
    for convolution in convolutions:
        for g in network.made_by(convolution):
            edges.setdefault(g, []).append(edge(convolution))
    spatial = [c.kind for c in convolutions if edge(c) >= 3]
    mobile = 2 * spatial.count("depthwise") > len(spatial)
    ends = convolutions[:1] + convolutions[-1:] if network.keep_ends else []
    kept = {g for convolution in ends for g in network.made_by(convolution)}
    upper = tuple(sorted(ratios)[len(ratios) // 2 :])
    decisions = []
    for g, group in network.widths():
        own = edges.get(g, [])
        if g in kept or (mobile and own and max(own) < 3):
            continue
        decisions.append(Decision(group.name, (g,), upper if not mobile and own and min(own) < 2 else ratios))
    return decisions


def edge(convolution: CostTerm) -> int:
    """The smallest edge of a convolution's kernel."""
    return min(len(vector) for vector in convolution.vectors[2:])


POLICIES: dict[str, Policy] = {
    "everything": everything,
    "hidden": hidden,
    "block": block,
    "stage": stage,
    "compound": compound,
    "network": together,
    "auto": auto,
}
