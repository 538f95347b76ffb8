"""Supernets and subnets on disk, with a digest of the network that they belong to."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ofa.files import replacing, write_text
from ofa.groups import Groups
from ofa.slicing import Change, Index, Plan
from ofa.space import SearchSpace, Subnet
from ofa.sparsity import Pattern, Zeros


class Network(Protocol):
    """What files say that they belong to: a supernet.

    >>> from ofa import Supernet
    >>> network: Network = Supernet(nn.Linear(4, 2), torch.zeros(1, 4))
    >>> len(network.digest), network.identity["tensor weight"]
    (16, '(2, 4)')
    """

    @property
    def digest(self) -> str: ...

    @property
    def identity(self) -> dict[str, str]: ...

    @property
    def space(self) -> SearchSpace: ...


def identity(
    names: Iterable[str], tensor: Callable[[str], Tensor], groups: Groups, space: SearchSpace, operators: Sequence[str]
) -> dict[str, str]:
    """What makes a network and its space: every tensor's shape, every group's members, every choice, what it runs.

    >>> from ofa import Supernet
    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4))
    >>> for what in ("tensor 0.weight", "group 0.width", "choice 0.width"):
    ...     print(supernet.identity[what])
    (16, 4)
    16 units of ['0.bias', '0.weight', '1.weight']
    (8, 16)
    """
    ran = Counter(row.partition(" ")[0] for row in operators)
    settings = hashlib.sha256("\n".join(operators).encode()).hexdigest()[:8]
    rows = {f"tensor {name}": str(tuple(tensor(name).shape)) for name in names}
    rows |= {f"group {g.name}": f"{g.units} units of {sorted({m[0] for m in g.members})}" for g in groups.groups}
    rows |= {f"choice {c.name}": str(c.options) for c in space.choices}
    rows |= {f"operator {name}": f"run {number} times" for name, number in ran.items()}
    return rows | {"the operators' order and settings": settings}


def save_weights(network: Network, state: Mapping[str, Tensor], path: Path) -> None:
    """Weights and what they belong to, written whole or not at all.

    >>> import tempfile
    >>> from ofa import Supernet
    >>> supernet = Supernet(nn.Linear(4, 2), torch.zeros(1, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(supernet, supernet.state_dict(), Path(folder) / "supernet.pt")
    ...     sorted(torch.load(Path(folder) / "supernet.pt"))
    ['digest', 'identity', 'state']
    """
    content = {"digest": network.digest, "identity": network.identity, "state": state}
    with replacing(path, binary=True) as file:
        torch.save(content, file)


def load_weights(network: Network, path: Path) -> Mapping[str, Tensor]:
    """Weights that were saved for the same network and space.

    >>> import tempfile
    >>> from ofa import Supernet
    >>> supernet = Supernet(nn.Linear(4, 2), torch.zeros(1, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     supernet.save(Path(folder) / "supernet.pt")
    ...     state = load_weights(supernet, Path(folder) / "supernet.pt")
    >>> torch.equal(state["model.weight"], supernet.model.weight)
    True

    Raises:
        ValueError: the file is damaged, or of another network or space; the first differences are named.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        digest, identity = content["digest"], content["identity"]
        state: Mapping[str, Tensor] = content["state"]
    except Exception as error:
        raise ValueError(f"{path} holds no supernet: {str(error).splitlines()[0][:200]}") from None
    if digest != network.digest:
        raise ValueError(f"{path} is of another network: {difference(identity, network.identity)}")
    return state


def weights_digest(model: nn.Module) -> str:
    """Identifies the values of all parameters and buffers of a network, 16 hexadecimal digits.

    >>> weights_digest(nn.ReLU()) == weights_digest(nn.GELU())  # neither has any
    True
    """
    return tensors_digest(model.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Identifies tensors by their names, shapes and values, on whatever device.

    >>> tensors_digest({"a": torch.zeros(2)}) == tensors_digest({"a": torch.zeros(1, 2)})
    False
    """
    found = hashlib.sha256(repr(sorted((name, tuple(tensor.shape)) for name, tensor in tensors.items())).encode())
    for _, tensor in sorted(tensors.items()):
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def difference(theirs: Mapping[str, Any], mine: Mapping[str, Any], most: int = 3) -> str:
    """The first entries in which two identities differ, in words.

    >>> difference({"choice 0.width": "(8, 16)"}, {"choice 0.width": "(4, 16)"})
    'choice 0.width is (8, 16) there and (4, 16) here'
    """
    rows = [
        f"{key} is {theirs.get(key, 'missing')} there and {mine.get(key, 'missing')} here"
        for key in {**theirs, **mine}
        if theirs.get(key) != mine.get(key)
    ]
    more = f" (and {len(rows) - most} more)" if len(rows) > most else ""
    return "; ".join(rows[:most]) + more


def save_subnet(subnet: Subnet, digest: str, facts: Mapping[str, Any], path: Path) -> None:
    """`subnet.json`: the choices, the digest of the supernet they are choices of, and what is known of them.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_subnet(Subnet({"0.width": 8}), "0123456789abcdef", {"accuracy": 97.5}, Path(folder) / "subnet.json")
    ...     load_subnet(Path(folder) / "subnet.json")
    Subnet({'0.width': 8})
    """
    write_text(path, json.dumps({"subnet": dict(subnet), "network": digest, **facts}, indent=1))


def load_subnet(path: Path, network: Network | None = None) -> Subnet:
    """The subnet that `save_subnet` wrote; with a supernet, checked to belong to it.

    >>> import tempfile
    >>> from ofa import Supernet
    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_subnet(supernet.space.smallest, supernet.digest, {}, Path(folder) / "subnet.json")
    ...     load_subnet(Path(folder) / "subnet.json", supernet)
    Subnet({'0.width': 8})

    Raises:
        ValueError: the file is no such file, or its subnet belongs to another network or space.
    """
    try:
        content = json.loads(path.read_text())
        subnet, digest = Subnet.from_json(json.dumps(content["subnet"])), content["network"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no subnet: {error}") from None
    if network is not None and digest != network.digest:
        problem = "its choices fit, its layers do not"
        try:
            network.space.check(subnet)
        except ValueError as error:
            problem = str(error)
        raise ValueError(f"{path} is of another network ({digest}, here {network.digest}): {problem}")
    return subnet


def plan_to_json(plan: Plan, facts: Mapping[str, Any]) -> str:
    """A plan as text, with what else is known: with it a network is made smaller again without being traced.

    >>> plan_from_json(plan_to_json(Plan({"head.weight": (slice(0, 8), None)}), {"accuracy": 97.5})).indices
    {'head.weight': (slice(0, 8, None), None)}
    """
    return json.dumps({**plan_content(plan), **facts}, indent=1)


def plan_content(plan: Plan) -> dict[str, Any]:
    """A plan as plain values: what stays of each tensor, attributes that follow, skipped blocks, patterns of zeros.

    >>> plan_content(Plan({"head.weight": (slice(0, 8), None)}))["indices"]
    {'head.weight': [[0, 8], None]}
    """
    indices = {name: [written(i) for i in index] for name, index in plan.indices.items()}
    changes = [[c.module, c.attribute, c.value, isinstance(c.value, tuple)] for c in plan.changes]
    zeros = {name: [str(z.pattern), z.dim] for name, z in plan.zeros.items()}
    return {"indices": indices, "changes": changes, "skipped": list(plan.skipped), "zeros": zeros}


def network_content(network: nn.Module, plan: Plan) -> dict[str, Any]:
    """A plan as plain values, with what its network's tensors are without it: `shapes`, and what stays of `buffers`.

    The latter are those that no weight file holds: name, dimension, positions.

    >>> network_content(nn.Linear(4, 2), Plan({}))["shapes"]
    {'weight': [2, 4], 'bias': [2]}
    """
    state = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    buffers = [
        [name, dim, list(range(kept.start, kept.stop)) if isinstance(kept, slice) else kept.tolist()]
        for name, _ in network.named_buffers()
        for dim, kept in enumerate(plan.indices.get(name, ()) if name not in state else ())
        if kept is not None
    ]
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    return {"shapes": shapes, "buffers": buffers, **plan_content(plan)}


def written(index: Index) -> Any:
    """None for everything, [first, last + 1] for a run, {"kept": positions} for others.

    >>> written(None), written(slice(0, 8)), written(torch.tensor([0, 2]))
    (None, [0, 8], {'kept': [0, 2]})
    """
    if index is None:
        return None
    return [index.start, index.stop] if isinstance(index, slice) else {"kept": index.tolist()}


def plan_from_json(text: str) -> Plan:
    """Read what `plan_to_json` wrote.

    >>> plan_from_json('{"indices": {"head.bias": [[0, 8]]}, "changes": [], "skipped": ["block"], "zeros": {}}').skipped
    ('block',)

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
    """The pattern of a weight that has zeros.

    >>> parsed("2:4")
    Pattern(zeros=2, block=4)

    Raises:
        ValueError: the text is no pattern, or says dense.
    """
    pattern = Pattern.parse(text)
    if pattern is None:
        raise ValueError("a dense weight has no zeros")
    return pattern


def restored(index: Any) -> Index:
    """What `written` gave, read again.

    >>> restored(None), restored([0, 8]), restored({"kept": [0, 2]})
    (None, slice(0, 8, None), tensor([0, 2]))
    """
    if index is None:
        return None
    return torch.tensor(index["kept"]) if isinstance(index, dict) else slice(int(index[0]), int(index[1]))
