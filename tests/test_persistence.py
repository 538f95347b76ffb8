"""Saved supernets and subnets go back into the network that they are of, and into no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import build

import ofa
from ofa.persistence import load_subnet, save_subnet

QUICK = ofa.SpaceConfig(proof="off")


def test_a_supernet_comes_back_and_another_network_is_refused(tmp_path: Path) -> None:
    model, x = build("mobilenetv2")
    supernet = ofa.Supernet(model, x, QUICK).eval()
    supernet.sort()
    supernet.save(tmp_path / "net.pt")
    other = ofa.Supernet(build("mobilenetv2")[0], x, QUICK).eval()
    other.activate(other.space.smallest)
    other.load(tmp_path / "net.pt")
    supernet.activate(supernet.space.smallest)
    with torch.no_grad():
        assert torch.equal(other(x), supernet(x))
    with pytest.raises(ValueError, match=r"another network: tensor .* is \(.*\) there and missing here.*more"):
        ofa.Supernet(*build("resnet"), QUICK).load(tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"choice blocks\.1\.0\.conv_pw\.width is .* there and"):
        narrow = ofa.SpaceConfig(width=(0.5, 1.0), proof="off")
        ofa.Supernet(model, x, narrow).load(tmp_path / "net.pt")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    supernet = ofa.Supernet(*build("resnet"), QUICK)
    (tmp_path / "net.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"net\.pt holds no supernet"):
        supernet.load(tmp_path / "net.pt")
    (tmp_path / "subnet.json").write_text("{}")
    with pytest.raises(ValueError, match=r"subnet\.json holds no subnet"):
        load_subnet(tmp_path / "subnet.json")


def test_a_subnet_of_another_network_is_refused(tmp_path: Path) -> None:
    resnet, vit = (ofa.Supernet(*build(name), QUICK) for name in ("resnet", "vit"))
    path = tmp_path / "subnet.json"
    save_subnet(resnet.space.smallest, resnet.digest, {"accuracy": 1.0}, path)
    assert load_subnet(path, resnet) == resnet.space.smallest
    with pytest.raises(ValueError, match=r"of another network .*missing"):
        load_subnet(path, vit)
