"""Candidates of one-step pruning with their scores, as the Vitis AI Optimizer writes them (`.search`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ofa import Subnet, Supernet
from ofa.files import replacing
from ofa.search.vitis.files import read_json, write_json
from ofa.search.vitis.groups import Group, share_removed, subnet_of
from ofa.search.vitis.results import gain
from ofa.slicing import State

IDENTITY = ("graph_digest", "weights_digest", "importance", "gradients_digest", "mode", "channel_divisible", "excludes",
            "with_group_conv")  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """A candidate: the share removed of every group, its score, and its MACs as a share of the whole network's."""

    ratios: tuple[float, ...]
    score: float
    macs: float


@dataclass(frozen=True)
class Contenders:
    """Candidates, the worst first; `identity` says what they hold for, and is empty in a file of Vitis'."""

    rows: tuple[Mapping[str, Any], ...]
    whole: float
    whole_macs: float
    members: tuple[Contender, ...]
    identity: Mapping[str, Any]

    @classmethod
    def of(
        cls, supernet: Supernet, groups: Sequence[Group], whole: float, scores: Mapping[Subnet, float],
        identity: Mapping[str, Any],
    ) -> Contenders:  # fmt: skip
        """From the scores of subnets."""
        macs = supernet.cost(supernet.space.largest).macs
        members = [
            Contender(
                tuple(share_removed(g.choice, subnet[g.name]) for g in groups),
                score,
                supernet.cost(subnet).macs / macs,
            )
            for subnet, score in scores.items()
        ]
        rows = tuple(group.to_json() for group in groups)
        members.sort(key=lambda member: gain(member.score, identity["mode"]))
        return cls(rows, whole, macs, tuple(members), identity)

    @classmethod
    def read(cls, path: Path) -> Contenders:
        """Read our file or Vitis'.

        Raises:
            ValueError: it is another file; a pickle is not read.
        """
        content = read_json(path, "groups", "supernet", "ratios", "scores", "macs")
        try:
            members = [
                Contender(tuple(float(r) for r in ratios.split(",")), float(content["scores"][str(i)]), float(macs))
                for i, (ratios, macs) in enumerate(zip(content["ratios"], content["macs"], strict=True))
            ]
            rows, whole = tuple({**row, "nodes": list(row["nodes"])} for row in content["groups"]), content["supernet"]
            if any(len(m.ratios) != len(rows) for m in members):
                raise ValueError(f"{len(rows)} groups and another number of ratios")
            identity = {key: content[key] for key in IDENTITY if key in content}
            return cls(rows, float(whole["score"]), float(whole["macs"] or 0), tuple(members), identity)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no list of candidates: {error!r}") from None

    def write(self, path: Path) -> None:
        content = {
            "groups": list(self.rows),
            "supernet": {"ratios": None, "score": self.whole, "macs": self.whole_macs},
            "ratios": [",".join(map(repr, member.ratios)) for member in self.members],
            "macs": [member.macs for member in self.members],
            "scores": {str(i): member.score for i, member in enumerate(self.members)},
        }
        write_json(path, {**content, **self.identity})

    def check(self, identity: Mapping[str, Any], path: Path) -> None:
        """Raise a ValueError where the file was made with something else than `identity` says."""
        differ = [key for key in identity if self.identity.get(key, identity[key]) != identity[key]]
        if differ:
            rows = ", ".join(f"{key} {self.identity[key]!r}, here {identity[key]!r}" for key in differ)
            raise ValueError(f"{path} was made with {rows}; search(forced=True) starts anew")

    def subnet(self, member: Contender, supernet: Supernet, groups: Sequence[Group]) -> Subnet:
        return subnet_of(supernet, groups, list(zip(self.rows, member.ratios, strict=True)))

    def scores(self, supernet: Supernet, groups: Sequence[Group]) -> list[tuple[Subnet, float]]:
        return [(self.subnet(member, supernet, groups), member.score) for member in self.members]

    def member(self, index: int | None) -> Contender:
        """The candidate at an index; the best one without.

        Raises:
            ValueError: there is none.
        """
        last = len(self.members) - 1
        if index is not None and not -last - 1 <= index <= last:
            raise ValueError(f"index lies in 0 (the worst) to {last} (the best, also -1), got {index}")
        if last < 0:
            raise ValueError("no candidate is scored yet: call search() again")
        if index is None and math.isnan(self.members[-1].score):
            raise ValueError(f"all {last + 1} candidates scored nan: no one is the best")
        return self.members[-1 if index is None else index]


@dataclass(frozen=True)
class Statistics:
    """Buffers that calibration gave each candidate, one file a candidate."""

    folder: Path

    def __call__(self, subnet: Subnet, buffers: State) -> None:
        """Keep them."""
        with replacing(self.path(subnet), binary=True) as file:
            torch.save(dict(buffers), file)

    def of(self, subnet: Subnet) -> dict[str, Tensor]:
        """The buffers of a candidate; none where it was not calibrated."""
        path = self.path(subnet)
        if not path.exists():
            return {}
        found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return found

    def path(self, subnet: Subnet) -> Path:
        return self.folder / f"{hashlib.sha256(subnet.to_json().encode()).hexdigest()[:16]}.pt"
