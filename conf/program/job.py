"""One run: its configuration, checked and built, its folder, and what its stages have made so far."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor, nn

import ofa
from ofa.conf.program.building import build, converted
from ofa.conf.program.pruning import Pruning, limits_of
from ofa.conf.program.records import differences, digest, flat, read_json, write_json
from ofa.conf.program.schema import Export, SupernetTraining, Teacher
from ofa.search import Constraint, Engine, Objective
from ofa.search.latency import LatencyDevice
from ofa.search.pruning import Smallest
from ofa.sparsity import FineGrained, Pattern, eligible, sparsify_inputs
from ofa.train import Sandwich, Tracker, create
from ofa.train import checkpoint as checkpoints
from ofa.train.data import DataSet, Pictures
from ofa.train.distribution import rank
from ofa.train.progress import Progress
from ofa.train.saliency import sort_by
from ofa.train.tasks import Task

# What each stage depends on; a run folder refuses another value, except for what can be done again at no loss.
DEPENDS = {
    "teacher": ("backbone", "data", "task", "teacher", "seed"),
    "supernet": ("space", "supernet"),
    "latency": ("latency",),
    "search": ("objectives", "budget", "search", "method"),
    "prune": ("pruning",),
    "export": ("export",),
}
REPEATABLE = ("search", "export")
# The first file that each other stage leaves: without it, nothing was made with the settings of an earlier call.
BEGUN = {
    "teacher": "teacher.pt",
    "supernet": "supernet.pt",
    "latency": "latency.jsonl",
    "prune": "pruning/01/archive.sqlite",
}
NETWORK = "network"  # the kind of a row's file that holds its own weights; other rows share the supernet's
TRAINED = ("teacher", "supernet")  # by all processes together; the first does the rest


class Job:
    """A configured run in its folder. Everything is built, so that a mistake shows before the first epoch."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.writes = rank() == 0  # of the processes that torchrun starts, one
        self.console = Console(quiet=not self.writes)
        self.folder = writable(Path(config.run))
        unknown = [s for s in config.stages if s not in DEPENDS]
        if unknown:
            raise ValueError(f"unknown stages {unknown}; allowed: {', '.join(DEPENDS)}")
        self.data: Any = build(config.data, "data", DataSet)
        self.task: Task = build(config.task, "task", Task)
        self.teacher_config: Teacher = build(config.teacher, "teacher", Teacher)
        if self.teacher_config.pretrained and isinstance(self.data, Pictures):
            self.data = self.data.suited(str(config.backbone))
        self.space_config: ofa.SpaceConfig = build(config.space, "space", ofa.SpaceConfig)
        self.supernet_config: SupernetTraining = build(config.supernet, "supernet", SupernetTraining)
        self.latency_config: LatencyDevice = build(config.latency, "latency", LatencyDevice)
        self.engine: Engine = build(config.search, "search", Engine)
        self.pruning_config: Pruning = build(config.pruning, "pruning", Pruning)
        self.export_config: Export = build(config.export, "export")
        self.activations = self._activations()
        plain: Any = OmegaConf.to_container(config, resolve=True)
        self.objectives = Objective.parse(converted(plain["objectives"], tuple[Objective, ...], "objectives"))
        known = {objective.name: objective for objective in self.objectives}
        limits = {name: limit for name, limit in (plain["budget"] or {}).items() if limit is not None}
        costs = {name: known.get(name) or converted(name, Objective, f"budget.{name}") for name in limits}
        self.constraints = Constraint.parse({costs[name]: limit for name, limit in limits.items()})
        self.stages = [stage for stage in (DEPENDS if self.writes else TRAINED) if stage in self._wanted]
        self.device = device(config.device)
        torch.set_num_threads(int(config.threads))
        self.workers: int = converted(config.workers, int, "workers")
        if not self.workers or self.workers < 1:
            raise ValueError(f"workers is a number of processes, at least 1, got {self.workers}")
        self._check_together()

    def _check_together(self) -> None:
        """
        Raises:
            ValueError: settings that cannot work together, each of them sound.
        """
        engine, name = self.engine, f"search={type(self.engine).__name__}"
        engine.check()
        offered = self.space_config.kinds
        if engine.kinds and not set(engine.kinds) & set(offered):
            raise ValueError(f"{name} works on {' and '.join(engine.kinds)}, the space offers {', '.join(offered)}")
        if "prune" in self._wanted:
            limits_of(self.pruning_config, self.constraints, engine.bounded)
        if "search" in self._wanted and engine.needs_budget and all(c.upper is None for c in self.constraints):
            raise ValueError(f"{name} goes to a budget, and there is none: budget.macs=0.5, or of another cost")

    def _activations(self) -> Pattern | None:
        """The pattern of what enters the layers, beside any weights that they may choose.

        Dense weights are among these, unless the search takes the smallest option of every layer.

        Raises:
            ValueError: it is none, or the hardware wants sparser weights beside it.
        """
        given = self.supernet_config
        try:
            pattern = None if given.activations is None else Pattern.parse(given.activations)
            if pattern is not None and given.strict:
                weights = [w for w in map(Pattern.parse, self.space_config.sparsity) if w is not None]
                shares = [(1 - w.density, w.block) for w in weights]
                if not weights or not isinstance(self.engine, Smallest):
                    shares.append((0.0, pattern.block))
                for share, block in shares:
                    FineGrained(share, 1 - pattern.density, block)
        except ValueError as error:
            asked = f"supernet.activations={given.activations} with space.sparsity={[*self.space_config.sparsity]}"
            raise ValueError(f"{asked}: {error}") from None
        return pattern

    @property
    def latency_matters(self) -> bool:
        """Whether an objective or the budget names it."""
        return "latency_ms" in [o.name for o in self.objectives] + [c.name for c in self.constraints]

    @property
    def _wanted(self) -> set[str]:
        """The stages asked for, and what they need: who looks for a low latency has to know it."""
        asked = set(self.config.stages)
        return asked | {"latency"} if self.latency_matters and asked & {"search", "prune"} else asked

    # ------------------------------------------------------------ bookkeeping

    @cached_property
    def tracker(self) -> Tracker:
        mirrored = self.config.tracking and self.writes
        return Tracker(self.folder, build(self.config.tracking, "tracking") if mirrored else None)

    def progress(self, stage: str, total: int | None = None) -> Progress:
        return Progress(stage, total, console=self.console, quiet=not self.writes)

    def settings(self, stage: str) -> dict[str, Any]:
        """What `stage` and those before it depend on, as plain values."""
        names = [name for s in DEPENDS for name in DEPENDS[s] if list(DEPENDS).index(s) <= list(DEPENDS).index(stage)]
        plain: Any = OmegaConf.to_container(self.config, resolve=True)
        return flat({name: plain[name] for name in names if name in plain})

    def begin(self, stage: str) -> None:
        """Refuse a folder in which this stage, or one before it, was made with other settings.

        Raises:
            ValueError: names every setting that differs, both values, and the way out.
        """
        path = self.folder / "settings.json"
        stored = read_json(path) if path.exists() else {}
        for made in list(DEPENDS)[: list(DEPENDS).index(stage) + 1]:
            now, before = self.settings(made), stored.get(made)
            begun = made not in REPEATABLE and (self.folder / BEGUN[made]).exists()
            if begun and before is not None and before != now:
                rows = differences(before, now)
                raise ValueError(
                    f"{self.folder} holds a {made} made with other settings ({rows}); choose another run=…"
                )
        if self.writes:
            write_json(path, {**stored, stage: self.settings(stage)})

    def finish(self, stage: str) -> None:
        if not self.writes:
            return
        done = self._done()
        write_json(self.folder / "done.json", {**done, stage: digest(self.settings(stage))})

    def finished(self, stage: str) -> bool:
        return self._done().get(stage) == digest(self.settings(stage))

    def _done(self) -> dict[str, str]:
        path = self.folder / "done.json"
        return read_json(path) if path.exists() else {}

    # ------------------------------------------------------------ what stages make

    @cached_property
    def splits(self) -> Any:
        return self.data.load()

    @property
    def example(self) -> Tensor:
        example: Tensor = self.task.example(self.splits)
        return example.to(self.device)

    @property
    def devices(self) -> tuple[str, ...]:
        """The GPUs that workers take in turn: every one, or the one that `device` names; none where it is a CPU."""
        if self.device.type != "cuda":
            return ()
        named = ":" in str(self.config.device)
        return (str(self.device),) if named else tuple(f"cuda:{k}" for k in range(torch.cuda.device_count()))

    @property
    def picture(self) -> Tensor:
        """A real picture of the validation split, as a batch of one."""
        images, _ = next(iter(self.splits.validation.ordered(1)))
        picture: Tensor = images.to(self.device)
        return picture

    def backbone(self) -> nn.Module:
        """The backbone with its first weights: random from the seed, timm's, or a file's."""
        torch.manual_seed(int(self.config.seed))
        given, chosen = self.teacher_config, self.config.backbone
        node: Any = OmegaConf.to_container(chosen, resolve=True) if isinstance(chosen, DictConfig) else {}
        name = str(node.pop("_target_", "???") if node else chosen)
        splits = self.splits
        model = create(name, splits.num_classes, splits.in_chans, given.pretrained, given.checkpoint, **node)
        model.to(self.device)
        self.task.check(model, splits, self.example)
        return model

    @cached_property
    def teacher(self) -> nn.Module:
        """The trained backbone, frozen.

        Raises:
            ValueError: the teacher stage has not been finished, or its file is damaged.
        """
        model = self.backbone()
        model.load_state_dict(self.weights("teacher"))
        return model.eval().requires_grad_(False)

    def convert(self) -> ofa.Supernet:
        """The teacher as a supernet that has not been trained."""
        model = self.backbone()
        model.load_state_dict(self.teacher.state_dict())
        with self.progress("conversion") as bar:
            supernet = ofa.Supernet(model, self.example, self.space_config, lambda done, of: bar.expect(of, done))
        if not len(supernet.space):
            raise ValueError(f"nothing of {self.config.backbone} is elastic:\n{supernet.report}")
        if self.activations is not None:
            given = self.space_config
            taking, _ = eligible(supernet.model, self.activations, given.exclude, given.sparsity_padding)
            sparsify_inputs(supernet.model, taking)
        if self.supernet_config.sort:
            sort_by(supernet, self.supernet_config.sort, self.splits, self.task)
        return supernet

    @cached_property
    def supernet(self) -> ofa.Supernet:
        """The trained supernet."""
        weights = self.weights("supernet")
        supernet = self.convert()
        supernet.load_state_dict(weights)
        return supernet.eval()

    def learner(self, supernet: ofa.Supernet) -> Sandwich:
        given = self.supernet_config
        teacher = self.teacher if given.source == "teacher" else None
        return Sandwich(
            supernet,
            self.splits,
            given.rule,
            given.soft,
            teacher,
            calibration_batch=given.calibration_batch,
            calibration_batches=given.calibration_batches,
            interference=given.interference,
            task=self.task,
        )

    def weights(self, stage: str) -> dict[str, Tensor]:
        """What a stage has trained.

        Raises:
            ValueError: it has not been finished, or its file is damaged.
        """
        path = self.folder / f"{stage}.pt"
        if not path.exists():
            raise ValueError(f"{path} is missing: run the stage {stage!r} first (stages=[{stage},…])")
        state = checkpoints.load(path)
        if not isinstance(state.get("model"), dict):
            raise ValueError(f"{path} is no checkpoint of a training; delete it to start over")
        weights: dict[str, Tensor] = state.get("average") or state["model"]
        return weights


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


def writable(folder: Path) -> Path:
    """`folder`, made if necessary.

    Raises:
        ValueError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"run folder {folder} cannot be written: {error.strerror}; choose another run=…") from None
    return folder
