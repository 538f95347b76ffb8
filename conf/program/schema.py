"""What the stages of a run can be told, beyond the components of `ofa`, `ofa.train` and `ofa.search`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ofa.conf.program.exporters import Exporter, Onnx, Packed, Standalone, Weights
from ofa.conf.program.pruning import Finetuning
from ofa.slicing import L1, Importance
from ofa.train import Recipe, SandwichRule
from ofa.train.sampling import Rule
from ofa.train.tasks import AdaptiveSoft, DistillationLoss


@dataclass(frozen=True)
class Teacher:
    """How the backbone gets the weights that everything else comes from.

    `pretrained` takes timm's weights. `checkpoint` is a file of weights, a state_dict as torch saves it. From there
    `recipe` says how they are trained. `trained` false leaves them as they are. `label_smoothing` softens the labels.
    """

    recipe: Recipe = field(default_factory=Recipe)
    pretrained: bool = False
    checkpoint: str | None = None
    trained: bool = True
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not (self.trained or self.pretrained or self.checkpoint):
            raise ValueError(
                "weights that stay as they are come from a file (teacher.checkpoint=mine.pt), or from timm"
            )


@dataclass(frozen=True)
class SupernetTraining:
    """How the supernet is trained; `source` says who teaches: the trained backbone, or the largest subnet.

    `recipe` says how long and how fast, `rule` which subnets learn in a step, `soft` how their distance to who teaches
    is measured. It begins with the backbone's weights, or with those of `checkpoint`, a supernet's file that
    others have published; where it is not `trained` they stay. `calibration_batches` of
    `calibration_batch` training pictures give a subnet batch statistics of its own. `interference` notes the angle
    between the gradients of the largest and the smallest subnet. `sort` is the importance by which units are
    ordered before, or none: one of conf/importance, by name, or a class of yours. `activations` is the N:M pattern
    of what enters the layers that take it; the hardware that this is meant for wants weights at 12:16 then, unless
    `strict` is false.
    """

    trained: bool = True
    checkpoint: str | None = None
    recipe: Recipe = field(default_factory=Recipe)
    rule: Rule = field(default_factory=SandwichRule)
    soft: DistillationLoss = field(default_factory=AdaptiveSoft)
    source: Literal["teacher", "largest"] = "teacher"
    sort: Importance | None = field(default_factory=L1)
    calibration_batches: int = 8
    calibration_batch: int = 64
    interference: bool = False
    activations: str | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        if self.source not in ("teacher", "largest"):
            raise ValueError(f"source is teacher or largest, got {self.source!r}")
        if self.calibration_batches < 1 or self.calibration_batch < 2:
            raise ValueError("calibration needs at least 1 batch of at least 2 pictures")


@dataclass(frozen=True)
class FrontFinetuning(Finetuning):
    """How the networks that leave learn on before they are exported, each by itself, as pruned networks do.

    `recipe` says how long and how fast, `times` how many times the epochs of that. `teacher_share` is the share of the
    loss that comes from who teaches the supernet. Where it is not `trained`, they leave as the search has scored them.
    `shared` lets them learn together, with one set of weights: a step has the cheapest, the dearest and two others.
    """

    teacher_share: float = 0.9
    trained: bool = True
    times: int = 1
    shared: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.times < 1:
            raise ValueError(f"times is at least 1, got {self.times}")
        if self.shared and self.trials:
            raise ValueError(f"trials are of networks that learn by themselves, got {self.trials} with shared=true")

    @property
    def lengthened(self) -> FrontFinetuning:
        """The same, with a recipe that is as long as it says."""
        return replace(self, recipe=replace(self.recipe, epochs=self.recipe.epochs * self.times), times=1)


@dataclass(frozen=True)
class Export:
    """Which subnets of the front leave, at most `subnets`, spread over it, and as which `files`.

    These are kinds of files by name, of conf/exporter, or classes of yours.
    """

    subnets: int = 8
    files: tuple[Exporter, ...] = (Weights(), Packed(), Onnx(), Standalone())

    def __post_init__(self) -> None:
        if self.subnets < 1:
            raise ValueError(f"at least 1 subnet, got {self.subnets}")
        names = [exporter.name for exporter in self.files]
        if len(set(names)) < len(names):
            raise ValueError(f"each kind of file once, got {', '.join(names)}")
        for place, exporter in enumerate(self.files):
            missing = [kind for kind in exporter.needs if kind not in names[:place]]
            if missing:
                raise ValueError(f"{exporter.name} comes after {', '.join(missing)}, got {', '.join(names)}")
