"""Elastic depth: residual blocks found in the data flow, whose consecutive ones form a stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ofa.tracing import ModuleCall, Trace


@dataclass(frozen=True)
class Stage:
    """Consecutive blocks, in the order in which they run, each of which adds something to its input.

    >>> Stage("layer1.depth", ("layer1.0", "layer1.1")).blocks[1:]  # skipped where one block runs
    ('layer1.1',)
    """

    name: str
    blocks: tuple[str, ...]


def find_stages(trace: Trace) -> list[Stage]:
    """Chains of residual blocks that share a parent, innermost blocks first; a chain as a whole is no block.

    >>> from ofa.tracing import trace
    >>> class Residual(nn.Linear):
    ...     def forward(self, x):
    ...         return x + super().forward(x)
    >>> network = nn.Sequential(nn.Linear(4, 8), Residual(8, 8), Residual(8, 8), nn.Linear(8, 2))
    >>> find_stages(trace(network, (torch.zeros(1, 4),), {}))
    [Stage(name='1.depth', blocks=('1', '2'))]
    """
    times: dict[str, int] = {}
    for call in trace.calls:
        times[call.module] = times.get(call.module, 0) + 1
    blocks = [c for c in trace.calls if c.residual and c.module and times[c.module] == 1]
    blocks = [b for b in blocks if not is_chain(b, blocks)]
    stages: list[list[ModuleCall]] = []
    for block in blocks:
        last = stages[-1][-1] if stages else None
        if last and parent(last.module) == parent(block.module) and last.result == block.source:
            stages[-1].append(block)
        elif not any(inside(block.module, other.module) for other in blocks if other is not block):
            stages.append([block])
    parents = [parent(stage[0].module) for stage in stages]
    return [
        Stage(f"{p if p and parents.count(p) == 1 else stage[0].module}.depth", tuple(b.module for b in stage))
        for p, stage in zip(parents, stages, strict=True)
    ]


def skipped_blocks(stages: Sequence[Stage], depths: Iterable[int]) -> tuple[str, ...]:
    """The blocks that do not run where so many of every stage do.

    >>> skipped_blocks([Stage("a.depth", ("a.0", "a.1", "a.2")), Stage("b.depth", ("b.0", "b.1"))], [1, 2])
    ('a.1', 'a.2')
    """
    return tuple(b for stage, n in zip(stages, depths, strict=True) for b in stage.blocks[n:])


def is_chain(block: ModuleCall, blocks: Sequence[ModuleCall]) -> bool:
    """Whether a block is nothing but a chain of blocks inside it."""
    position, steps = block.source, 0
    while position != block.result:
        step = next((b for b in blocks if inside(b.module, block.module) and b.source == position), None)
        if step is None:
            return False
        position, steps = step.result, steps + 1
    return steps > 0


def inside(module: str, outer: str) -> bool:
    """Whether a module lies in another one.

    >>> inside("layer1.0", "layer1"), inside("layer10", "layer1")
    (True, False)
    """
    return module.startswith(outer + ".")


def parent(module: str) -> str:
    """The name of the module around a module or parameter; empty for the network itself.

    >>> parent("layer1.0.conv"), parent("layer1")
    ('layer1.0', '')
    """
    return module.rpartition(".")[0]


def skipped_by(name: str, stages: Sequence[Stage]) -> Iterator[tuple[int, int]]:
    """(stage, position) of every block that a module or parameter is part of.

    >>> stages = [Stage("a.depth", ("a.0", "a.1")), Stage("b.depth", ("b.0", "b.1"))]
    >>> list(skipped_by("b.1.weight", stages)), list(skipped_by("stem.weight", stages))
    ([(1, 1)], [])
    """
    for s, stage in enumerate(stages):
        for position, block in enumerate(stage.blocks):
            if name == block or inside(name, block):
                yield s, position
