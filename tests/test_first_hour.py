"""A new user's first hour: own pictures and an own network in a new folder, by the console programs alone."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from own_pictures import CLASSES, MORE, write_classes, write_own_pictures
from PIL import Image, ImageOps
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).with_name("ofa")
MINE = ("--config-dir=.", "experiment=mine", "data=image_folder", "data.folder=my pictures", "data.empty=skip")
BRIEF = (
    "supernet.recipe.epochs=4", "teacher.recipe.batch_size=32", "search.evaluations=12", "search.population=6",
    "export.subnets=2", "space.divisor=4", "space.proof=quick",
)  # fmt: skip
NET = """
import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.norms[0](self.first(images)))
        return torch.relu(images + self.norms[1](self.second(inner)))


class Net(nn.Module):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, 4, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Residual(width), nn.MaxPool2d(2), Residual(width))
        self.head = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


def make(num_classes: int, width: int = 16) -> nn.Module:
    return Net(num_classes, width)
"""


class Desk:
    """The folder that the user stands in; every command that is typed there, and that none shows a traceback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ofa(self, *words: str, status: int = 0) -> str:
        """What a command says, one line of which is the last word where it fails."""
        home = {"HOME": str(self.folder), "OFA_CACHE": str(self.folder / ".cache")}
        done = subprocess.run(
            [PROGRAM, *words], cwd=self.folder, env=os.environ | home, capture_output=True, text=True, timeout=900
        )
        logs = [path.read_text() for path in self.folder.glob("runs/*/ofa.log")]
        assert not any("Traceback" in text for text in (done.stdout, done.stderr, *logs)), done.stdout + done.stderr
        assert done.returncode == status, f"ofa {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        assert not status or re.search(r"\A(checking .*\n)*ofa: .*\n\Z", done.stderr), done.stderr
        return done.stdout + done.stderr

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def tested(self) -> Iterator[tuple[Path, str]]:
        """The pictures that nothing was trained or chosen with, and their classes."""
        with (self.folder / "runs/mine/pictures.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if row["split"] == "test":
                    yield self.folder / "my pictures" / row["path"], row["label"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A folder of one's own, with everything that stands in people's folders of pictures."""
    begun = Desk(tmp_path_factory.mktemp("desk"))
    begun.ofa("init", "mine")
    desk = Desk(begun.folder / "mine")
    (desk.folder / "net.py").write_text(NET)
    write_own_pictures(desk.folder / "my pictures")
    write_classes(desk.folder / "my pictures", dict.fromkeys((*CLASSES, *MORE), 100))
    return desk


def seen(path: Path, told: dict[str, Any]) -> np.ndarray:
    """A picture as a network's metadata say that it is to be prepared: (1, 3, height, width)."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    edge, (height, width) = told["resize"]["shorter_edge"], told["size"]
    scale = edge / min(picture.size)
    filtered = Image.Resampling[told["resize"]["interpolation"].upper()]
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), filtered)
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    pixels = np.asarray(picture.crop((left, top, left + width, top + height))) / 255
    wanted = (pixels - told["mean"]) / told["std"]
    return wanted.transpose(2, 0, 1)[None].astype(np.float32)


def scored(path: Path, pictures: Iterable[tuple[Path, str]]) -> float:
    """The accuracy of an ONNX file in per cent, from what its metadata say and nothing else."""
    told = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    classes, preprocessing = json.loads(told["classes"]), json.loads(told["preprocessing"])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (node,) = session.get_inputs()
    names, labels = zip(*pictures, strict=True)
    (logits,) = session.run(None, {node.name: np.concatenate([seen(name, preprocessing) for name in names])})
    return 100 * float(np.mean([classes[i] == label for i, label in zip(logits.argmax(1), labels, strict=True)]))


# ------------------------------------------------------------ before anything is trained


def test_what_is_here_and_what_can_be_set_is_said(desk: Desk) -> None:
    assert "processors" in desk.ofa("doctor") and "data.folder" in desk.ofa("--help", "data=image_folder", "data")


MISTAKES = {
    "data=imagefolder": "there is no data 'imagefolder'; did you mean image_folder?",
    "data.folder=nowhere": "no folder nowhere; pictures go in <folder>/<class>/",
    "data.empty=refuse": "no pictures of class nothing; data.empty=skip leaves such classes out",
    "data.broken=refuse": "4 broken files: sky/cut.jpg",
    "data.size=[64,64]": "data.size is a whole number, got [64, 64]",
    "data.sise=64": "did you mean size",
    "backbone._target_=nett.make": "there is no module 'nett' here; did you mean net?",
    "backbone._target_=net.mak": "net.py has no factory 'mak'; did you mean make?",
    "backbone.wide=3": "got an unexpected keyword argument 'wide'; it takes num_classes, width",
    "teacher.checkpoint=none.pt": "no weight file none.pt",
    "teacher.recipe.batch_size=5000": "batch_size 5000 asked of",
    "search.evaluations=0": "a search needs at least 1 evaluation",
    "budget.macs=50": "if 50 per cent is meant, say 0.5",
    "budget.macs=0.001": "this space reaches macs from",
    "objectives=[acuracy,macs]": "did you mean accuracy?",
    "threads=0": "threads is a number of torch, at least 1, got 0",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_trained(desk: Desk, mistake: str) -> None:
    said = desk.ofa(*MINE, mistake, "run=runs/mistakes", status=2)
    assert MISTAKES[mistake] in said.splitlines()[-1]
    assert not (desk.folder / "runs/mistakes/teacher.pt").exists()


def test_what_a_run_costs_is_said_and_leaves_nothing(desk: Desk) -> None:
    before = sorted(desk.folder.iterdir())
    said = desk.ofa("doctor", *MINE, *BRIEF, "run=runs/later")
    assert re.search(r"^  together +about [\d:]+", said, re.MULTILINE), said
    assert [path for path in sorted(desk.folder.iterdir()) if path.name != "__pycache__"] == before


# ------------------------------------------------------------ from nothing to ONNX


@pytest.fixture(scope="module")
def said(desk: Desk) -> str:
    """What the whole run says."""
    return desk.ofa(*MINE, *BRIEF)


def test_what_there_is_to_learn_from_is_said_first(desk: Desk, said: str) -> None:
    table, training = said.index("class"), said.index("teacher  ")
    first = " ".join(said[table:training].split())
    for words in (
        "all 6", "80 x 64 to 80 x 64", "1 in CMYK", "1 in I;16", "1 in RGBA", "turned 1 by", "copies 1 of a file",
        "4 broken files: sky/cut.jpg", "empty classes: nothing", "sees 64 x 64 pixels, as it follows the pictures",
    ):  # fmt: skip
        assert words in first, words
    assert max(map(len, said.splitlines())) <= 200
    told = desk.read("runs/mine/data.json")
    assert sum(sum(parts.values()) for parts in told["classes"].values()) == 608 and len(told["left_out"]) == 4


def test_every_file_names_the_classes_and_gives_by_hand_what_the_table_says(desk: Desk, said: str) -> None:
    rows = desk.read("runs/mine/front.json")
    assert len(rows) >= 2 and rows[0]["name"] == "teacher" and rows[0]["accuracy"] > 60
    assert f"{rows[0]['accuracy']:.1f} ± " in said
    pictures = list(desk.tested)
    for row in rows:
        place = desk.folder / "runs/mine" / "subnets" / row["name"]
        assert json.loads((place / "subnet.json").read_text())["classes"] == sorted(CLASSES + MORE)
        assert scored(place / "model.onnx", pictures) == pytest.approx(row["accuracy"], abs=100 / len(pictures) + 0.01)
    assert rows[1]["macs"] < rows[0]["macs"]
    assert (desk.folder / "runs/mine/front.png").stat().st_size > 1000


def test_the_same_command_goes_on_and_other_pictures_are_noticed(desk: Desk, said: str) -> None:
    assert desk.ofa(*MINE, *BRIEF).count("done before") == 5
    added = desk.folder / "my pictures/temple/added.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(added)
    refused = desk.ofa(*MINE, *BRIEF, status=2).splitlines()[-1]
    assert re.search(r"runs/mine holds a teacher made with other settings \(data\.contents\.\w+ was", refused)
    assert "teacher: accuracy" in desk.ofa(*MINE, *BRIEF, "run=runs/more", "reuse=true", "stages=[teacher]")
    added.unlink()
    assert desk.ofa(*MINE, *BRIEF).count("done before") == 5


# ------------------------------------------------------------ a network that is trained already


def test_a_trained_network_comes_in_as_it_is_and_is_pruned(desk: Desk, said: str) -> None:
    weights = load_file(desk.folder / "runs/mine/subnets/teacher/weights.safetensors")
    torch.save(weights, desk.folder / "mine.pt")
    given = ("teacher=given", "teacher.checkpoint=mine.pt", "run=runs/half", "method=iterative", "budget.macs=0.6")
    pruned = desk.ofa(*MINE, *given, "pruning.finetuning.recipe.epochs=2", "pruning.tolerance=100", "space.divisor=4")
    teacher, *steps = desk.read("runs/half/front.json")
    row = min(steps, key=lambda step: step["macs"])
    trained = desk.read("runs/mine/front.json")[0]
    assert f"not trained; accuracy {trained['validation_accuracy']:.2f} % on" in pruned
    assert teacher["accuracy"] == trained["accuracy"] and row["macs"] <= 0.6 * teacher["macs"]
    assert scored(desk.folder / "runs/half" / row["files"]["onnx"], desk.tested) > 50
