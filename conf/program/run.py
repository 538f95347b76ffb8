"""A run: its settings in its folder, and what its stages share, made once when first asked for."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

import ofa
from ofa.conf.program.console import Console
from ofa.conf.program.folder import RunFolder
from ofa.conf.program.settings import Settings
from ofa.sparsity import eligible, sparsify_inputs
from ofa.train import Sandwich, Tracker, create
from ofa.train import checkpoint as checkpoints
from ofa.train.backbones import load_weights, origin
from ofa.train.collection import write_rows
from ofa.train.data import Splits
from ofa.train.progress import Progress
from ofa.train.saliency import sort_by

if TYPE_CHECKING:
    from ofa.onnx_files import OnnxSupernet  # imports onnx

DATA, PICTURES = "data.json", "pictures.csv"


class Run:
    """What stages work with. `say` is for people; `folder` holds what the stages before have left."""

    def __init__(self, settings: Settings, folder: RunFolder) -> None:
        self.settings, self.folder = settings, folder
        self.console = Console(quiet=not folder.writes)
        torch.set_num_threads(settings.threads)

    @classmethod
    def parse(cls, config: DictConfig) -> Run:
        """The run of a composed configuration; raises a ValueError for anything that the user can mend."""
        return cls.of(Settings.parse(config))

    @classmethod
    def of(cls, settings: Settings) -> Run:
        """The run of settings in the folder that they name."""
        return cls(settings, RunFolder.at(Path(settings.values["run"])))

    # ------------------------------------------------------------ what is told

    def say(self, text: object) -> None:
        """A line, or a table, on the console and in ofa.log."""
        self.console.print(text, markup=False)

    def progress(self, stage: str, total: int | None = None) -> Progress:
        """A bar on the console; a few lines where there is no terminal."""
        return Progress(stage, total, console=self.console, quiet=self.console.quiet)

    @cached_property
    def tracker(self) -> Tracker:
        """Where figures go: metrics.jsonl, and what `tracking` names."""
        return Tracker(self.folder.path, self.settings.tracking if self.folder.writes else None, self.settings.values)

    # ------------------------------------------------------------ data and networks

    @cached_property
    def splits(self) -> Splits:
        """The pictures; what there is to learn from is said before anything is done with them, once in a folder."""
        splits = self.settings.data.load()
        if splits.overview is not None and self.folder.writes:
            told = json.loads(json.dumps(splits.overview.to_json()))
            if self.folder.read(DATA) != told:
                if splits.overview.files:
                    write_rows(self.folder / PICTURES, splits.overview.files)
                self.folder.write(DATA, told)
                self.say(splits.overview)
        return splits

    @property
    def uneven(self) -> bool:
        """Whether one class has many more pictures than another, so that accuracy alone says little."""
        return bool(self.folder.read(DATA, {}).get("uneven"))

    @property
    def example(self) -> Tensor:
        """An example input as a batch of one."""
        return self.settings.task.example(self.splits).to(self.settings.device)

    @property
    def facts(self) -> dict[str, Any]:
        """What one has to know of a network to use it, without what becomes of a picture: its backbone, its classes."""
        (name, told), splits = self.settings.backbone, self.splits
        told = {"num_classes": splits.num_classes, "in_chans": splits.in_chans} | told
        backbone = origin(name, pretrained=self.settings.teacher.pretrained, **told)
        return {"backbone": backbone, "classes": list(splits.classes)}

    def title(self, pictures: float) -> str:
        """What figures of the test split are of, which has so many pictures."""
        name, data = self.settings.backbone[0], type(self.settings.data).__name__
        return f"{name} on {data}: {pictures:,.0f} test pictures, 95 % intervals"

    @property
    def picture(self) -> Tensor:
        """A real picture of the validation split, as a batch of one."""
        images, _ = next(iter(self.splits.validation.ordered(1)))
        return images.to(self.settings.device)

    def backbone(self) -> nn.Module:
        """The backbone with its first weights: random from the seed, timm's, or a file's."""
        settings, splits = self.settings, self.splits
        torch.manual_seed(settings.seed)
        (name, told), given = settings.backbone, settings.teacher
        file = given.checkpoint if given.trained else None
        told = {"num_classes": splits.num_classes, "in_chans": splits.in_chans} | told
        model = create(name, pretrained=given.pretrained, checkpoint=file, **told)
        if given.checkpoint and not given.trained:
            load_weights(model, Path(given.checkpoint), whole=True)
        model.to(settings.device)
        settings.task.check(model, splits, self.example)
        return model

    @cached_property
    def teacher(self) -> nn.Module:
        """The trained backbone, frozen.

        Raises:
            ValueError: the teacher's file is damaged.
        """
        model = self.backbone()
        model.load_state_dict(self.weights("teacher.pt"))
        return model.eval().requires_grad_(False)

    @cached_property
    def outline(self) -> ofa.Supernet:
        """The backbone with its first weights as a supernet, of which nothing is proved: what the space can offer.

        Raises:
            ValueError: that is nothing.
        """
        supernet = ofa.Supernet(self.backbone(), self.example, replace(self.settings.space, proof="off"))
        self._check_elastic(supernet)
        return supernet

    def _check_elastic(self, supernet: ofa.Supernet) -> None:
        if len(supernet.space):
            return
        path, reasons = self.folder / "report.txt", Counter(layer.reason for layer in supernet.report.layers)
        if self.folder.writes:
            supernet.report.save(path)
        why = "; ".join(f"{reason} ({number} layers)" for reason, number in reasons.most_common(3))
        raise ValueError(f"nothing of {self.settings.backbone[0]} is elastic: {why}; layer by layer in {path}")

    def convert(self) -> ofa.Supernet:
        """The teacher as a supernet that has not been trained."""
        settings, space = self.settings, self.settings.space
        model = self.backbone()
        model.load_state_dict(self.teacher.state_dict())
        with self.progress("conversion") as bar:
            supernet = ofa.Supernet(model, self.example, space, lambda done, of: bar.expect(of, done))
        self._check_elastic(supernet)
        if settings.activations is not None:
            taking, _ = eligible(supernet.model, settings.activations, space.exclude, space.sparsity_padding)
            sparsify_inputs(supernet.model, taking)
        if settings.supernet.sort:
            sort_by(supernet, settings.supernet.sort, self.splits, settings.task)
        return supernet

    @cached_property
    def supernet(self) -> ofa.Supernet:
        """The trained supernet."""
        weights = self.weights("supernet.pt")
        supernet = self.convert()
        supernet.load_state_dict(weights)
        return supernet.eval()

    @cached_property
    def onnx(self) -> OnnxSupernet:
        """What writes the ONNX files of the trained supernet's subnets."""
        from ofa.onnx_files import OnnxSupernet

        return OnnxSupernet(self.supernet, self.say)

    def learner(self, supernet: ofa.Supernet) -> Sandwich:
        """The supernet as it is trained and scored."""
        given = self.settings.supernet
        return Sandwich(
            supernet,
            self.splits,
            given.rule,
            given.soft,
            self.teacher if given.source == "teacher" else None,
            calibration_batch=given.calibration_batch,
            calibration_batches=given.calibration_batches,
            interference=given.interference,
            task=self.settings.task,
        )

    def weights(self, name: str) -> dict[str, Tensor]:
        """The weights of a training in the folder.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.folder / name
        state = checkpoints.load(path)
        if not isinstance(state.get("model"), dict):
            raise ValueError(f"{path} is no checkpoint of a training; delete it to start over")
        weights: dict[str, Tensor] = state.get("average") or state["model"]
        return weights
