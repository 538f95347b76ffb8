"""Supernets and subnets on disk, with a digest of the network that they belong to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ofa.elastic_sparsity import Zeros
from ofa.groups import Groups
from ofa.slicing import Change, Index, Plan
from ofa.space import SearchSpace, Subnet
from ofa.sparsity import Pattern

if TYPE_CHECKING:
    from ofa.supernet import Supernet


def identity(
    names: Iterable[str], tensor: Callable[[str], Tensor], groups: Groups, space: SearchSpace
) -> dict[str, str]:
    """What makes a network and its space: every tensor's shape, every group's members, every choice."""
    rows = {f"tensor {name}": str(tuple(tensor(name).shape)) for name in names}
    rows |= {f"group {g.name}": f"{g.units} units of {sorted({m[0] for m in g.members})}" for g in groups.groups}
    return rows | {f"choice {c.name}": str(c.options) for c in space.choices}


def save_supernet(supernet: Supernet, path: Path) -> None:
    """The weights and what they belong to, written whole or not at all."""
    content = {"digest": supernet.digest, "identity": supernet.identity, "state": supernet.state_dict()}
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_supernet(supernet: Supernet, path: Path) -> None:
    """Put saved weights into a supernet of the same network and space.

    Raises:
        ValueError: the file is damaged, or of another network or space; the first differences are named.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        digest, identity, state = (content[key] for key in ("digest", "identity", "state"))
    except Exception as error:
        raise ValueError(f"{path} holds no supernet: {str(error).splitlines()[0][:200]}") from None
    if digest != supernet.digest:
        raise ValueError(f"{path} is of another network: {difference(identity, supernet.identity)}")
    supernet.load_state_dict(state)
    supernet.activate(supernet.active)


def difference(theirs: Mapping[str, Any], mine: Mapping[str, Any], most: int = 3) -> str:
    """The first entries in which two identities differ, in words."""
    rows = [
        f"{key} is {theirs.get(key, 'missing')} there and {mine.get(key, 'missing')} here"
        for key in {**theirs, **mine}
        if theirs.get(key) != mine.get(key)
    ]
    more = f" (and {len(rows) - most} more)" if len(rows) > most else ""
    return "; ".join(rows[:most]) + more


def save_subnet(subnet: Subnet, digest: str, facts: Mapping[str, Any], path: Path) -> None:
    """`subnet.json`: the choices, the digest of the supernet they are choices of, and what is known of them."""
    path.write_text(json.dumps({"subnet": dict(subnet), "network": digest, **facts}, indent=1))


def load_subnet(path: Path, supernet: Supernet | None = None) -> Subnet:
    """The subnet that `save_subnet` wrote; with `supernet`, checked to belong to it.

    Raises:
        ValueError: the file is no such file, or its subnet belongs to another network or space.
    """
    try:
        content = json.loads(path.read_text())
        subnet, digest = Subnet.from_json(json.dumps(content["subnet"])), content["network"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no subnet: {error}") from None
    if supernet is not None and digest != supernet.digest:
        problem = "its choices fit, its layers do not"
        try:
            supernet.space.check(subnet)
        except ValueError as error:
            problem = str(error)
        raise ValueError(f"{path} is of another network ({digest}, here {supernet.digest}): {problem}")
    return subnet


def plan_to_json(plan: Plan, facts: Mapping[str, Any]) -> str:
    """A plan as text, with what else is known: with it a network is made smaller again without being traced."""
    indices = {name: [written(i) for i in index] for name, index in plan.indices.items()}
    changes = [[c.module, c.attribute, c.value, isinstance(c.value, tuple)] for c in plan.changes]
    zeros = {name: [str(z.pattern), z.dim] for name, z in plan.zeros.items()}
    content = {"indices": indices, "changes": changes, "skipped": list(plan.skipped), "zeros": zeros}
    return json.dumps({**content, **facts}, indent=1)


def written(index: Index) -> Any:
    """None for everything, [first, last + 1] for a run, {"kept": positions} for others."""
    if index is None:
        return None
    return [index.start, index.stop] if isinstance(index, slice) else {"kept": index.tolist()}


def plan_from_json(text: str) -> Plan:
    """Read what `plan_to_json` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        content = json.loads(text)
        indices = {name: tuple(restored(i) for i in index) for name, index in content["indices"].items()}
        changes = tuple(Change(m, a, tuple(v) if is_tuple else v) for m, a, v, is_tuple in content["changes"])
        zeros = {name: Zeros(parsed(text), dim) for name, (text, dim) in content["zeros"].items()}
        return Plan(indices, changes, tuple(content["skipped"]), zeros)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"not a plan of a smaller network: {text[:80]!r} ({error!r})") from None


def parsed(text: str) -> Pattern:
    pattern = Pattern.parse(text)
    if pattern is None:
        raise ValueError("a dense weight has no zeros")
    return pattern


def restored(index: Any) -> Index:
    if index is None:
        return None
    return torch.tensor(index["kept"]) if isinstance(index, dict) else slice(int(index[0]), int(index[1]))
