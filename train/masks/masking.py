"""Training under N:M masks, which a mask update keeps or renews; N may grow.

Between steps the weights are sparse, so that forward and backward passes cost what they cost without. The optimiser
sees the dense weights, and the gradient that the sparse ones got (straight through).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ofa.sparsity import Pattern, check_pattern, layer_of, mask_of, sparsify, weight_of
from ofa.train.data import Splits
from ofa.train.masks.updates import SRSTE, MaskUpdate
from ofa.train.tasks import Learner, Step


@dataclass(frozen=True)
class Masking:
    """How masks change while a network learns.

    Masks are taken anew every `interval` steps, unless `update` keeps them. The number of zeros grows to the pattern's
    in `stages` equal parts, the last of which begins at the share `until` of the training: 12:16 in 3 stages is 4:16,
    8:16, 12:16.

    >>> masking = Masking(stages=3)
    >>> [str(masking.grown(Pattern.parse("12:16"), stage)) for stage in range(3)], masking.stage(0.25)
    (['4:16', '8:16', '12:16'], 1)

    Raises:
        ValueError: interval or stages below 1, or `until` outside (0, 1].
    """

    update: MaskUpdate = field(default_factory=SRSTE)
    interval: int = 1
    stages: int = 1
    until: float = 0.5

    def __post_init__(self) -> None:
        if self.interval < 1 or self.stages < 1:
            raise ValueError(f"interval and stages are at least 1, got {self.interval} and {self.stages}")
        if not 0 < self.until <= 1:
            raise ValueError(f"until is a share of the training above 0 and up to 1, got {self.until}")

    def stage(self, progress: float) -> int:
        """Which stage, from 0, the training is in."""
        reached = progress * (self.stages - 1) / self.until
        return min(self.stages - 1, math.floor(reached + 1e-9))

    def grown(self, pattern: Pattern, stage: int) -> Pattern:
        """The pattern as far as it has grown in a stage."""
        return Pattern(math.ceil(pattern.zeros * (stage + 1) / self.stages), pattern.block)

    def start(
        self, model: nn.Module, patterns: Mapping[str, Pattern], scores: Mapping[str, Tensor] | None = None
    ) -> Masks:
        """Put the first zeros into the model's weights, by the update's scores or `scores`; gives what keeps them so.

        Raises:
            ValueError: there is no pattern, or one is for no layer of the model.
            TypeError: a pattern is text.
        """
        if not patterns:
            raise ValueError("there is no layer to mask: no pattern given")
        for pattern in patterns.values():
            check_pattern(pattern)
        return Masks(self, model, patterns, scores)


class Masks:
    """The masks of a model that learns. `attach` lets them follow an optimiser; `state_dict` holds all of them."""

    def __init__(
        self,
        masking: Masking,
        model: nn.Module,
        patterns: Mapping[str, Pattern],
        scores: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.masking, self.model, self.patterns = masking, model, dict(patterns)
        self.layers = {name: layer_of(model, name) for name in patterns}
        self.weights = {name: weight_of(layer) for name, layer in self.layers.items()}
        self.steps, self.stage = 0, 0
        self.handles: list[RemovableHandle] = []
        dense = self.weights if masking.update.dense else {}
        self.dense = {name: weight.detach().clone() for name, weight in dense.items()}
        own = {name: masking.update.scores(weight.detach()) for name, weight in self.weights.items()}
        self.masks = sparsify(model, self._grown(), {**own, **(scores or {})})

    def attach(self, optimizer: Optimizer) -> None:
        """Follow every step of the optimiser; leave the optimiser followed before.

        Gradients are unscaled when it steps (`GradScaler.step` sees to that unless the optimiser is fused).

        Raises:
            ValueError: the optimiser does not train one of the weights.
        """
        trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        missing = [name for name, weight in self.weights.items() if weight.requires_grad and weight not in trained]
        if missing:
            raise ValueError(f"the optimiser does not train the weight of {missing[0]}: is it of another network?")
        for handle in self.handles:
            handle.remove()
        self.handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        for kept in (self.masks, self.dense):  # the model may have moved, or changed its memory format
            for name, tensor in kept.items():
                kept[name] = torch.empty_like(self.weights[name]).copy_(tensor)

    def _grown(self) -> dict[str, Pattern]:
        return {name: self.masking.grown(pattern, self.stage) for name, pattern in self.patterns.items()}

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        """Let the zeros grow to the stage of this share of the training, before a step's forward pass."""
        stage = self.masking.stage(progress)
        if stage != self.stage:
            self.stage = stage
            for name, tensor in self.dense.items():
                self.weights[name].copy_(tensor)
            self._renew()
            self.project()

    @torch.no_grad()
    def project(self) -> None:
        """Put zeros where the masks say."""
        for name, weight in self.weights.items():
            weight.mul_(self.masks[name])

    @torch.no_grad()
    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The optimiser gets the dense weights, if there are any, and the gradient that the update makes of theirs."""
        for name, weight in self.weights.items():
            dense = self.dense.get(name, weight)
            if weight.grad is not None:
                self.masking.update.steer(weight.grad, dense, weight, self.masks[name])
            if name in self.dense:
                weight.copy_(dense)

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the dense weights, renew the masks if it is time, and make the weights sparse again."""
        self.steps += 1
        for name, tensor in self.dense.items():
            tensor.copy_(self.weights[name])
        if self.dense and self.steps % self.masking.interval == 0:
            self._renew()
        self.project()

    def _renew(self) -> None:
        """Masks by the scores of the dense weights; of fixed masks, by those that were left."""
        if not self.dense:
            self.project()  # what the optimiser's momentum moved must not come back
        for name, pattern in self._grown().items():
            scores = self.masking.update.scores(self.weights[name].detach())
            mask_of(self.layers[name], pattern, scores, out=self.masks[name])

    def state_dict(self) -> dict[str, Any]:
        return {
            "made": self._made(),
            "steps": self.steps,
            "stage": self.stage,
            "masks": {name: mask.bool() for name, mask in self.masks.items()},
            "dense": self.dense,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; the sparse weights are the model's.

        Raises:
            ValueError: it belongs to other masks.
        """
        mine, theirs = self._made(), state["made"]
        differ = [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]
        if differ:
            rows = [f"{key} {theirs.get(key, 'dense')} there, {mine.get(key, 'dense')} now" for key in differ[:3]]
            raise ValueError(f"it was made with other masks: {'; '.join(rows)}")
        self.steps, self.stage = state["steps"], state["stage"]
        for kept, loaded in ((self.masks, state["masks"]), (self.dense, state["dense"])):
            for name, tensor in kept.items():
                tensor.copy_(loaded[name])

    def _made(self) -> dict[str, Any]:
        settings = asdict(self.masking) | {"update": repr(self.masking.update)}
        return settings | {f"layer {name}": str(pattern) for name, pattern in self.patterns.items()}


@dataclass(frozen=True, eq=False)
class Masked:
    """Another learner, under masks of its model's weights.
    `backward` lets the zeros grow before each step; `state_dict` holds masks and dense weights besides.

    >>> from ofa.train.data import Digits
    >>> from ofa.train.tasks import Supervised
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> masks = Masking().start(network, {"1": Pattern.parse("2:4")})
    >>> learner = Masked(Supervised(network, Digits(size=8).load()), masks)
    >>> float((learner.model[1].weight == 0).float().mean())
    0.5

    Raises:
        ValueError: the masks are of another network than the learner's.
    """

    learner: Learner
    masks: Masks

    def __post_init__(self) -> None:
        if self.masks.model is not self.learner.model:
            raise ValueError("the masks are of another network than the learner's model")

    @property
    def model(self) -> nn.Module:
        return self.learner.model

    @property
    def splits(self) -> Splits:
        return self.learner.splits

    @property
    def stage(self) -> int:
        return self.masks.stage

    def attach(self, optimizer: Optimizer) -> None:
        self.masks.attach(optimizer)

    def project(self) -> None:
        self.masks.project()

    def backward(self, images: Tensor, labels: Tensor, step: Step) -> dict[str, float]:
        self.masks.advance(step.number / max(step.total - 1, 1))
        return self.learner.backward(images, labels, step)

    def validate(self) -> dict[str, float]:
        return self.learner.validate()

    def state_dict(self) -> dict[str, Any]:
        return {"learner": self.learner.state_dict(), "masks": self.masks.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "masks" not in state:
            raise ValueError("it was made without masks")
        self.learner.load_state_dict(state["learner"])
        self.masks.load_state_dict(state["masks"])
