"""Backbones: made by name, loaded from files, and refused with the reason."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from train.backbones import create

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
