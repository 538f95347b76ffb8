"""Why layers of a network are not pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from ofa import Supernet
from ofa.search.vitis.groups import Group

SHOWN = 4  # layers of one reason


def reasons_of(
    supernet: Supernet, groups: Sequence[Group], opened: Sequence[Group], excluded: Mapping[str, str], call: str
) -> dict[str, str]:
    """The reason of every layer whose output channels stay, be it that its group is not open.

    `call` is the method that opens convolutions in groups.
    """
    nodes = {node for group in groups for node in group.nodes}
    layers = (layer for layer in supernet.report.layers if layer.name not in nodes)
    found = {layer.name: why for layer in layers if (why := layer.why() or ("" if layer.choices else layer.reason))}
    for group in groups:
        if group not in opened:
            barred = [name for name in (*group.nodes, *group.members) if name in excluded]
            grouped = f"a convolution in groups is among what it changes; {call}(with_group_conv=True) prunes it"
            for node in group.nodes:
                together = f"changes only together with {barred[0]}" if barred else grouped
                found[node] = excluded.get(node, together)
    return found


def table_of(name: str, reasons: Mapping[str, str]) -> Table:
    """The reasons, each with its layers."""
    layers: dict[str, list[str]] = {}
    for layer, reason in reasons.items():
        layers.setdefault(reason, []).append(layer)
    table = Table("layers", "are not pruned because", title=f"Layers of {name} that stay as they are")
    for reason, names in layers.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        table.add_row(", ".join(names[:SHOWN]) + more, reason)
    return table
