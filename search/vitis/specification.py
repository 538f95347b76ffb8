"""Pruning specifications (`.spec`): the share that is removed of every group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa import Subnet
from ofa.search.vitis.files import read_json, write_json
from ofa.search.vitis.groups import Group, share_removed


@dataclass(frozen=True)
class Specification:
    """Rows of groups with their shares removed; `graph` is empty in a file of Vitis' own."""

    rows: tuple[tuple[Mapping[str, Any], float], ...]
    divisor: int
    graph: str


def read_spec(path: Path) -> Specification:
    """Read our file or Vitis'.

    Raises:
        ValueError: it is another file; a pickle is not read.
    """
    content = read_json(path, "groups")
    try:
        rows = tuple(({**row, "nodes": list(row["nodes"])}, float(row["ratio"])) for row in content["groups"])
        return Specification(rows, int(content.get("channel_divisible") or 2), str(content.get("graph_digest") or ""))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no pruning specification: {error!r}") from None


def write_spec(path: Path, groups: Sequence[Group], subnet: Subnet, divisor: int, graph: str) -> None:
    """Write the groups of `subnet` that are smaller than the whole network's."""
    ratios = [(group, share_removed(group.choice, subnet[group.choice.name])) for group in groups]
    rows = [{**group.to_json(), "ratio": ratio} for group, ratio in ratios if ratio]
    write_json(path, {"groups": rows, "channel_divisible": divisor, "graph_digest": graph})
