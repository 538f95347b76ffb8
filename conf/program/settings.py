"""What a run is told: built from the composed configuration, and checked before anything is done."""

from __future__ import annotations

import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import ofa
from ofa.conf.program.building import build, converted, hint, options, resolved
from ofa.conf.program.pruning import Pruning
from ofa.conf.program.records import flat
from ofa.conf.program.schema import Export, FrontFinetuning, SupernetTraining, Teacher
from ofa.search import Constraint, Engine, Objective
from ofa.search.latency import PROTOCOL, LatencyDevice
from ofa.search.objectives import LatencyMs
from ofa.search.pruning import Smallest
from ofa.sparsity import FineGrained, Pattern
from ofa.train.data import DataSet, Pictures, contents
from ofa.train.tasks import Task
from ofa.train.tracking import Tracking


@dataclass(frozen=True)
class Settings:
    """The settings of a run; those of a group are the component that its `_target_` names.

    `values` are all of them as composed, in plain words: what stages are made with is told by these. `timers` are the
    latency devices by what they give: latency_ms, and latency_ms@NAME where an objective or a limit names it.
    """

    values: Mapping[str, Any]
    data: DataSet
    task: Task
    teacher: Teacher
    space: ofa.SpaceConfig
    supernet: SupernetTraining
    latency: LatencyDevice
    timers: Mapping[str, LatencyDevice]
    search: Engine
    pruning: Pruning
    finetune: FrontFinetuning
    export: Export
    tracking: Tracking | None
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    activations: Pattern | None
    device: torch.device
    reuse: bool
    force: bool
    seed: int
    threads: int
    workers: int
    on_ray: bool  # subnets are evaluated on a Ray cluster; `workers` is then 1, for the rest

    @classmethod
    def parse(cls, config: DictConfig) -> Settings:
        """The settings of a composed configuration.

        Raises:
            ValueError: a component of another kind than its group's, a wrong value or key, settings that cannot work
                together, a device that is not here.
        """
        values = resolved(config)
        seed = whole(values, "seed", 0)  # components have it as theirs: what is wrong with it is said once, of itself
        groups = {name: build(values[name], name, kind) for name, kind in kinds().items()}
        if groups["teacher"].pretrained and isinstance(groups["data"], Pictures):
            groups["data"] = groups["data"].suited(str(values["backbone"]))
        check_engine(groups["search"], groups["space"])
        on_ray = values["workers"] == "ray"
        objectives = Objective.parse(converted(values["objectives"], tuple[Objective, ...], "objectives"))
        limits = budget(values["budget"] or {}, objectives)
        return cls(
            values,
            **groups,
            timers=timers(groups["latency"], (*objectives, *(limit.objective for limit in limits))),
            tracking=build(values["tracking"], "tracking", Tracking) if values["tracking"] else None,
            objectives=objectives,
            constraints=limits,
            activations=activations(groups["supernet"], groups["space"], groups["search"]),
            device=device(values["device"]),
            reuse=flag(values, "reuse"),
            force=flag(values, "force"),
            seed=seed,
            threads=whole(values, "threads", 1, " of torch"),
            workers=1 if on_ray else whole(values, "workers", 1, " of processes"),
            on_ray=on_ray,
        )

    def plain(self, *names: str) -> dict[str, Any]:
        """What was composed under these names, such as `search` or `export.subnets`, under dotted names.

        With `data` goes what its pictures are, with `latency` which other devices there are.
        """
        values, chosen = dict(self.values), tuple(f"{name}." for name in names)
        if "data" in names:
            values["data"] = values["data"] | {"contents": self.contents}
        if "latency" in names and len(self.timers) > 1:
            values["latency"] = values["latency"] | {"others": sorted(self.timers)[1:]}
        return {key: value for key, value in flat(values).items() if f"{key}.".startswith(chosen)}

    @cached_property
    def contents(self) -> dict[str, str]:
        """What the pictures are, by part, looked at once; empty where the data set does not tell."""
        return contents(self.data)

    @property
    def backbone(self) -> tuple[str, dict[str, Any]]:
        """Name of the backbone, and what its factory is told.

        Raises:
            ValueError: it is told what the teacher's settings say.
        """
        given = self.values["backbone"]
        if not isinstance(given, Mapping):
            return str(given), {}
        for name in ("pretrained", "checkpoint"):
            if name in given:
                raise ValueError(f"backbone.{name}: where weights come from is the teacher's, teacher.{name}=…")
        return str(given.get("_target_", "???")), {k: v for k, v in given.items() if k != "_target_"}

    @property
    def latency_matters(self) -> bool:
        """Whether an objective or the budget names it."""
        wanted = (*self.objectives, *(limit.objective for limit in self.constraints))
        return any(isinstance(objective, LatencyMs) for objective in wanted)

    @property
    def devices(self) -> tuple[str, ...]:
        """The GPUs that workers take in turn: every one, or the one that `device` names; none where it is a CPU."""
        if self.device.type != "cuda":
            return ()
        named = ":" in str(self.values["device"])
        return (str(self.device),) if named else tuple(f"cuda:{k}" for k in range(torch.cuda.device_count()))


def kinds() -> dict[str, type]:
    """What the component of each group has to be."""
    hints = typing.get_type_hints(Settings)
    names = ("data", "task", "teacher", "space", "supernet", "latency", "search", "pruning", "finetune", "export")
    return {name: hints[name] for name in names}


def budget(limits: Any, objectives: tuple[Objective, ...]) -> tuple[Constraint, ...]:
    """The limits on costs, which are objectives or others by name."""
    if not isinstance(limits, Mapping):
        raise ValueError(f"a budget is a limit by cost, such as budget.macs=0.5, got budget={limits}")
    known = {objective.name: objective for objective in objectives}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    costs = {name: known.get(name) or converted(name, Objective, f"budget.{name}") for name in given}
    return Constraint.parse({costs[name]: limit for name, limit in given.items()})


def timers(chosen: LatencyDevice, among: Iterable[Objective]) -> dict[str, LatencyDevice]:
    """The devices by what they give: the chosen one, and those that objectives name, which measure as it does.

    Raises:
        ValueError: there is no device of that name.
    """
    protocol = {name: getattr(chosen, name) for name in PROTOCOL}
    others = {o.name: o.device for o in among if isinstance(o, LatencyMs) and o.device}
    known = options("latency")
    for name, device in others.items():
        if device not in known:
            raise ValueError(f"{name}: there is no latency device {device!r}; {hint(device, sorted(known))}")
    nodes = {name: OmegaConf.create(known[device].read_text(encoding="utf-8")) for name, device in others.items()}
    built = {name: build(node, name, LatencyDevice) for name, node in nodes.items()}  # type: ignore[arg-type]
    return {LatencyMs.name: chosen} | {name: replace(device, **protocol) for name, device in built.items()}


def check_engine(engine: Engine, space: ofa.SpaceConfig) -> None:
    """Refuse an engine that lacks something, or works on none of the choices that a space offers."""
    engine.check()
    wanted, offered = engine.kinds, space.kinds
    if wanted and not set(wanted) & set(offered):
        name = f"search={type(engine).__name__}"
        raise ValueError(f"{name} works on {' and '.join(wanted)}, the space offers {', '.join(offered)}")


def activations(supernet: SupernetTraining, space: ofa.SpaceConfig, engine: Engine) -> Pattern | None:
    """The pattern of what enters the layers, beside any weights that they may choose.

    Dense weights are among these, unless the search takes the smallest option of every layer.

    Raises:
        ValueError: it is none, or the hardware wants sparser weights beside it.
    """
    try:
        pattern = None if supernet.activations is None else Pattern.parse(supernet.activations)
        if pattern is not None and supernet.strict:
            weights = [w for w in map(Pattern.parse, space.sparsity) if w is not None]
            shares = [(1 - w.density, w.block) for w in weights]
            if not weights or not isinstance(engine, Smallest):
                shares.append((0.0, pattern.block))
            for share, block in shares:
                FineGrained(share, 1 - pattern.density, block)
    except ValueError as error:
        asked = f"supernet.activations={supernet.activations} with space.sparsity={[*space.sparsity]}"
        raise ValueError(f"{asked}: {error}") from None
    return pattern


def whole(values: Mapping[str, Any], name: str, least: int, of: str = "") -> int:
    """A whole number that is large enough."""
    number = converted(values[name], int, name)
    if number is None or number < least:
        raise ValueError(f"{name} is a number{of}, at least {least}, got {number}")
    return int(number)


def flag(values: Mapping[str, Any], name: str) -> bool:
    """A setting that is true or false."""
    return bool(converted(values[name], bool, name))


def device(name: str) -> torch.device:
    """The device of a name; `auto` is the best one here, `cuda` this process' own under torchrun.

    Raises:
        ValueError: torch has no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name} cannot be used here: {str(error).splitlines()[0]}") from None
