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
from ofa.search.vitis.direction import announced, check_told, direction
from ofa.search.vitis.errors import OptimizerInvalidAnaResultError, OptimizerInvalidArgumentError, OptimizerSubnetError
from ofa.search.vitis.files import read_json, write_json
from ofa.search.vitis.groups import Group, share_removed, subnet_of
from ofa.search.vitis.results import gain
from ofa.slicing import State

IDENTITY = ("graph_digest", "weights_digest", "importance", "gradients_digest", "channel_divisible", "excludes",
            "with_group_conv")  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """A candidate: the share removed of every group, its score, and its MACs as a share of the whole network's."""

    ratios: tuple[float, ...]
    score: float
    macs: float


@dataclass(frozen=True)
class Contenders:
    """Candidates by ascending score; `identity` says what they hold for, and is empty in a file of Vitis'.

    `mode` is which scores are said to be better, empty where nobody said it.
    """

    rows: tuple[Mapping[str, Any], ...]
    whole: float
    whole_macs: float
    members: tuple[Contender, ...]
    identity: Mapping[str, Any]
    mode: str = ""

    @classmethod
    def of(
        cls, supernet: Supernet, groups: Sequence[Group], whole: float, scores: Mapping[Subnet, float],
        identity: Mapping[str, Any], mode: str,
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
        members.sort(key=lambda member: gain(member.score, "max"))
        return cls(rows, whole, macs, tuple(members), identity, mode)

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
            mode = str(content.get("mode") or "")
            return cls(rows, float(whole["score"]), float(whole["macs"] or 0), tuple(members), identity, mode)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise OptimizerInvalidAnaResultError(f"{path} is no list of candidates: {error!r}") from None

    def write(self, path: Path) -> None:
        content = {
            "groups": list(self.rows),
            "supernet": {"ratios": None, "score": self.whole, "macs": self.whole_macs},
            "ratios": [",".join(map(repr, member.ratios)) for member in self.members],
            "macs": [member.macs for member in self.members],
            "scores": {str(i): member.score for i, member in enumerate(self.members)},
        }
        write_json(path, {**content, "mode": self.mode, **self.identity})

    def check(self, identity: Mapping[str, Any], path: Path) -> None:
        """Raise an error where the file was made with something else than `identity` says."""
        differ = self.differ(identity)
        if differ:
            rows = ", ".join(f"{key} {self.identity[key]!r}, here {identity[key]!r}" for key in differ)
            raise OptimizerInvalidAnaResultError(f"{path} was made with {rows}; search(forced=True) starts anew")

    def differ(self, identity: Mapping[str, Any]) -> list[str]:
        """What the file was made with something else of than `identity` says."""
        return [key for key in identity if self.identity.get(key, identity[key]) != identity[key]]

    def subnet(self, member: Contender, supernet: Supernet, groups: Sequence[Group]) -> Subnet:
        return subnet_of(supernet, groups, list(zip(self.rows, member.ratios, strict=True)))

    def scores(self, supernet: Supernet, groups: Sequence[Group]) -> list[tuple[Subnet, float]]:
        return [(self.subnet(member, supernet, groups), member.score) for member in self.members]

    @property
    def direction(self) -> str:
        """Which scores are better, as it is said or else told by the scores themselves; empty where that cannot be."""
        return self.mode or direction(self.whole, self._numbers)

    @property
    def announcement(self) -> str:
        """A sentence on the direction, if there is something to say."""
        return announced(self.mode, self.whole, self._numbers) if self.members else ""

    def check_told(self) -> None:
        """Raise an error where it cannot be told which scores are better."""
        check_told(self.direction, self.whole, self._numbers, "search")

    def member(self, index: int | None) -> Contender:
        """The candidate at an index, counted from the lowest score; the best one at 0, as there, and without.

        Raises:
            ValueError: there is none, or it cannot be told which is the best.
        """
        last = len(self.members) - 1
        if index is not None and not -last - 1 <= index <= last:
            raise OptimizerInvalidArgumentError(
                f"index lies in 1 (the second lowest score) to {last} (the highest, also -1), or is 0 (the best),"
                f" got {index}"
            )
        if last < 0:
            raise OptimizerSubnetError("no candidate is scored yet: call search() again")
        if index:
            return self.members[index]
        self.check_told()
        best = max(self.members, key=lambda member: gain(member.score, self.direction))
        if math.isnan(best.score):
            raise OptimizerSubnetError(f"all {last + 1} candidates scored nan: no one is the best")
        return best

    @property
    def _numbers(self) -> list[float]:
        return [member.score for member in self.members]


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
