"""An exported folder is used without this library: load.py rebuilds the network, predict.py runs its ONNX file."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ofa
from ofa.conf.program.exporters import Onnx, Standalone, Weights
from ofa.digests import write_sealed
from ofa.export import load_network
from ofa.persistence import network_content
from ofa.slicing import Plan
from ofa.train import create
from ofa.train.backbones import origin
from ofa.train.data.preprocessing import Preprocessing

CLASSES = ["tawny owl", "wren", "größere Möwe"]
OWN = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, wide):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, wide, 3, padding=1), nn.Linear(wide, classes)
        self.register_buffer("scale", 1 + 0.1 * (nn.init.torch.arange(wide) % 3), persistent=False)

    def forward(self, x):
        x = self.first(x).relu().mean((2, 3))
        return self.last(x * self.scale)


def make(num_classes, wide=24):
    return Net(num_classes, wide)
"""
NETWORKS: dict[str, tuple[str, dict[str, Any], ofa.SpaceConfig]] = {
    "kernels and depth": ("mobilenetv3_small_050", {}, ofa.SpaceConfig(proof="off")),
    "heads": ("test_vit", {"img_size": 32}, ofa.SpaceConfig(proof="off", divisor=1)),
    "torchvision": ("torchvision/resnet18", {}, ofa.SpaceConfig(proof="off")),
    "patterns": ("networks.small", {"in_chans": 3}, ofa.SpaceConfig(proof="off", sparsity=("8:16",))),
    "own file": ("{folder}/mine.py:make", {"wide": 20}, ofa.SpaceConfig(proof="off", divisor=1)),
}
PREPARED = {
    "heads": Preprocessing(32, (0.5,) * 3, (0.25,) * 3, 0.9, "bicubic"),
    "own file": Preprocessing(32, (0.4,) * 3, (0.3,) * 3),
}


def left(folder: Path, name: str) -> tuple[nn.Module, torch.Tensor]:
    """A subnet in a folder, as a run leaves it, and its example."""
    (folder.parent / "mine.py").write_text(OWN)
    backbone, told, space = NETWORKS[name]
    backbone = backbone.format(folder=folder.parent)
    torch.manual_seed(len(name))
    x = torch.randn(1, 3, 32, 32)
    model = create(backbone, num_classes=3, **told)
    supernet = ofa.Supernet(model, x, space).eval()
    subnet = supernet.space.sample(np.random.default_rng(3))
    net, plan = supernet.extract(subnet).eval(), supernet.plan(subnet)
    prepared = PREPARED.get(name, Preprocessing(32, (0.5,) * 3, (0.25,) * 3))
    facts = {
        "name": "subnet-0042",
        "backbone": origin(backbone, num_classes=3, **told),
        "classes": CLASSES,
        "preprocessing": prepared.to_json(),
        "metrics": {"accuracy": 90.0, "accuracy_low": 88.0, "accuracy_high": 92.0, "test_pictures": 360, "macs": 1.5e6},
    }
    folder.mkdir()
    for exporter in (Weights(), Onnx(), Standalone()):
        exporter.write(net, x, folder / exporter.file, plan, facts)
    names = {path.name for path in folder.iterdir()} - {"load.py", "predict.py", "README.md"}
    write_sealed(folder / "subnet.json", {**facts, **network_content(net, plan)}, names)
    return net, x


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, nn.Module, torch.Tensor]]:
    place = tmp_path_factory.mktemp("left")
    return {name: (place / name, *left(place / name, name)) for name in NETWORKS}


REFUSED = """
import sys
import venv

class Refused:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in {refused}:
            raise ImportError(f"{{name}} is refused")

sys.meta_path.insert(0, Refused())
"""
LOADED = """
import runpy, torch
torch.set_num_threads(1)
found = []
for folder in sys.argv[2:]:
    scope = runpy.run_path(folder + "/load.py")
    for name in ("mine", "networks"):
        sys.modules.pop(name, None)
    net, x = scope["load"](), torch.load(folder + "/../" + folder.rpartition("/")[2] + ".x")
    with torch.no_grad():
        found.append([net.state_dict(), net(x)])
torch.save(found, sys.argv[1])
"""
PREDICTED = """
import json, runpy
print(json.dumps({folder: runpy.run_path(folder + "/predict.py")["predict"](sys.argv[1]) for folder in sys.argv[2:]}))
"""


def alone(program: str, refused: tuple[str, ...], *arguments: str | Path, python: str = sys.executable) -> str:
    """What a program prints in a process that cannot import this library."""
    place = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-c", REFUSED.format(refused=refused) + program, *map(str, arguments)]
    done = subprocess.run(command, cwd="/", env=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_network_s_own_file_hides_none_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "load.py").write_text("from torch import nn\n\n\ndef make():\n    return nn.Linear(4, 2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    network = importlib.import_module("load").make()
    monkeypatch.setitem(sys.modules, "load", sys.modules.pop("load"))  # and gone behind
    facts = {"backbone": {"source": "load", "name": "make", "arguments": {}}, "classes": ["a", "b"]}
    folder = tmp_path / "subnet"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"load\.py has the name of a file that is written beside it"):
        Standalone().write(network, torch.zeros(1, 4), folder / "load.py", Plan({}), facts)
    assert not any(folder.iterdir())


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "owl.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


def test_what_load_py_gives_is_the_network_bit_for_bit(
    folders: dict[str, tuple[Path, nn.Module, torch.Tensor]], tmp_path: Path
) -> None:
    assert {folder.name for folder, _, _ in folders.values()} == set(NETWORKS)
    for folder, _, x in folders.values():
        torch.save(x, f"{folder}.x")
    alone(LOADED, ("ofa",), tmp_path / "found.pt", *(folder for folder, _, _ in folders.values()))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for (state, y), (name, (_, net, x)) in zip(torch.load(tmp_path / "found.pt"), folders.items(), strict=True):
        own = net.state_dict()
        assert state.keys() == own.keys() and all(torch.equal(state[key], own[key]) for key in own), name
        with torch.no_grad():
            assert torch.equal(y, net(x)), name
    torch.set_num_threads(threads)


def test_predict_py_gives_the_probabilities_of_pytorch(
    folders: dict[str, tuple[Path, nn.Module, torch.Tensor]], picture: Path
) -> None:
    from torchvision import transforms as T

    found = json.loads(alone(PREDICTED, ("ofa", "torch"), picture, *(folder for folder, _, _ in folders.values())))
    bicubic = T.Compose([T.Resize(35, T.InterpolationMode.BICUBIC), T.CenterCrop(32), T.ToTensor()])
    for name, (folder, net, _) in folders.items():
        told = json.loads((folder / "subnet.json").read_text())["preprocessing"]
        image = Image.open(picture)
        whole = torch.nn.functional.interpolate(T.ToTensor()(image)[None], (32, 32), mode="bilinear", antialias=True)
        x = bicubic(image)[None] if told["crop"] else whole
        with torch.no_grad():
            shares = net(T.Normalize(told["mean"], told["std"])(x)).softmax(1)[0].tolist()
        assert found[str(folder)] == pytest.approx(dict(zip(CLASSES, shares, strict=True)), abs=1e-5), name
        assert list(found[str(folder)].values()) == sorted(found[str(folder)].values(), reverse=True)


@pytest.mark.parametrize("name", ["weights.safetensors", "subnet.json", "model.onnx", "mine.py"])
@pytest.mark.parametrize("missing", [True, False])
def test_a_folder_with_a_file_that_is_missing_or_changed_is_refused(
    folders: dict[str, tuple[Path, nn.Module, torch.Tensor]], tmp_path: Path, name: str, missing: bool
) -> None:
    folder = shutil.copytree(folders["own file"][0], tmp_path / "copy")
    scope: dict[str, Any] = {"__name__": "load", "__file__": str(folder / "load.py")}
    exec((folder / "load.py").read_text(), scope)
    assert scope["facts"]()["classes"] == CLASSES
    if missing:
        (folder / name).unlink()
    else:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"e", b"i", 1))
    backbone, refused = create(f"{folders['own file'][0].parent}/mine.py:make", num_classes=3, wide=20), rf"{name} is"
    with pytest.raises(ValueError, match=f"{refused} missing, or is not the file that was exported"):
        scope["facts"]()
    with pytest.raises(ValueError, match=f"{refused} missing, or is not the file that was exported"):
        load_network(backbone, folder)


def test_a_picture_that_cannot_be_read_is_one_line(
    folders: dict[str, tuple[Path, nn.Module, torch.Tensor]], picture: Path, tmp_path: Path
) -> None:
    script = folders["own file"][0] / "predict.py"
    (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:200])
    for path, words in ((tmp_path / "broken.png", "cannot be read as a picture"), (tmp_path / "none.png", "none.png")):
        done = subprocess.run([sys.executable, script, path], capture_output=True, text=True)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and words in done.stderr
    done = subprocess.run([sys.executable, script, picture], capture_output=True, text=True, check=True)
    assert done.stdout.count("%") == 3 and CLASSES[2] in done.stdout


def test_what_was_loaded_goes_on_learning_and_is_saved(
    folders: dict[str, tuple[Path, nn.Module, torch.Tensor]], tmp_path: Path
) -> None:
    folder, _, x = folders["kernels and depth"]
    scope: dict[str, Any] = {"__name__": "load", "__file__": str(folder / "load.py")}
    exec((folder / "load.py").read_text(), scope)
    net = scope["load"]().train()
    optimiser, losses = torch.optim.SGD(net.parameters(), 0.05), []
    for _ in range(4):
        loss = nn.functional.cross_entropy(net(torch.cat([x, x + 1])), torch.tensor([0, 1]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    torch.save(net.state_dict(), tmp_path / "longer.pt")
    torch.save(net, tmp_path / "whole.pt")
    again, whole = scope["load"](), torch.load(tmp_path / "whole.pt", weights_only=False).eval()
    again.load_state_dict(torch.load(tmp_path / "longer.pt"))
    with torch.no_grad():
        assert torch.equal(again(x), net.eval()(x)) and torch.equal(whole(x), net(x))


def needed(*names: str) -> set[str]:
    """What distributions need, all in all."""
    found, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        with contextlib.suppress(metadata.PackageNotFoundError):
            rows = metadata.requires(name) or ()
            key = re.sub(r"[-_.]+", "-", name).lower()
            if key not in found:
                found.add(key)
                waiting += [re.split(r"[^\w.-]", row)[0] for row in rows if "extra ==" not in row]
    return found


def environment(folder: Path, *names: str) -> str:
    """A new environment that has these distributions and what they need, as links; gives its Python."""
    venv.create(folder, symlinks=True, with_pip=False)
    place = next(folder.glob("lib/python*/site-packages"))
    for name in needed(*names):
        tops = {file.parts[0] for file in metadata.files(name) or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            source = Path(str(metadata.distribution(name).locate_file(top)))
            if not (place / top).exists():
                (place / top).symlink_to(source)
    return str(folder / "bin/python")


@pytest.mark.slow
def test_fresh_environments_are_enough(
    folders: dict[str, tuple[Path, nn.Module, torch.Tensor]], picture: Path, tmp_path: Path
) -> None:
    folder = folders["kernels and depth"][0]
    with_torch = environment(tmp_path / "torch", "timm", "safetensors")
    with_onnx = environment(tmp_path / "onnx", "onnxruntime", "pillow")
    for python, absent in ((with_torch, ("ofa", "onnxruntime")), (with_onnx, ("ofa", "torch", "timm"))):
        for name in absent:
            done = subprocess.run([python, "-c", f"import {name}"], cwd="/", capture_output=True, env={})
            assert done.returncode == 1 and b"ModuleNotFoundError" in done.stderr
    for python, script, words in ((with_torch, "load.py", "conv_stem.weight ("), (with_onnx, "predict.py", " %  wren")):
        command = [python, folder / script, *([picture] if script == "predict.py" else [])]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, env={})
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
