"""Packed weights: unpacked they are what they were, and they take the bytes that they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import build
from safetensors.torch import load_file, save_file
from torch import nn

from ofa.sparsity import Pattern, eligible, save_packed, sparsify
from ofa.sparsity.packing import from_bits, load_packed, pack, to_bits


@settings(deadline=None)
@given(
    block=st.integers(2, 40),
    share=st.floats(0, 1),
    shape=st.sampled_from([(5, 37), (32, 3, 3, 3), (9, 64, 1, 1), (2, 7, 5)]),
    dim=st.integers(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_unpacked_weights_are_what_was_packed(
    block: int, share: float, shape: tuple[int, ...], dim: int, dtype: torch.dtype, seed: int
) -> None:
    pattern = Pattern(max(1, min(block - 1, round(share * block))), block)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    weight *= pattern.mask(weight.abs(), dim)
    packed = pack(weight, pattern, dim)
    assert torch.equal(packed.unpack(), weight) and packed.unpack().dtype == dtype
    blocks = weight.numel() // shape[dim] * -(-shape[dim] // block)
    kept = blocks * (block - pattern.zeros)
    assert packed.bytes == kept * weight.element_size() + -(-kept * (block - 1).bit_length() // 8)


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=50))
def test_numbers_in_bits_come_back(bits: int, numbers: list[int]) -> None:
    given = torch.tensor([n % 2**bits for n in numbers], dtype=torch.int64)
    stream = to_bits(given, bits)
    assert stream.dtype == torch.uint8 and len(stream) == -(-len(numbers) * bits // 8)
    assert torch.equal(from_bits(stream, bits, len(numbers)), given)


def test_a_kept_weight_may_be_zero() -> None:
    weight = torch.tensor([[0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(pack(weight, Pattern(2, 4)).unpack(), weight)


def test_two_of_four_take_half_the_bytes_and_a_bit_more() -> None:
    weight = torch.randn(64, 64)
    weight *= Pattern(2, 4).mask(weight.abs())
    assert pack(weight, Pattern(2, 4)).bytes == weight.nbytes // 2 + 64 * 64 // 2 * 2 // 8


def test_a_weight_without_the_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a weight of shape \(3, 8\) has blocks along 1 with fewer zeros than 2:4"):
        pack(torch.ones(3, 8), Pattern(2, 4))


@pytest.mark.parametrize("name", ["mobilenetv3", "resnext", "vit"])
def test_a_packed_network_loads_exactly_and_is_smaller(name: str, tmp_path: Path) -> None:
    model, x = build(name)
    patterns, _ = eligible(model, Pattern(6, 8))
    sparsify(model, patterns)
    path = tmp_path / "packed.safetensors"
    assert save_packed(model, patterns, path) == path.stat().st_size
    dense = sum(p.nbytes for p in model.parameters())
    assert path.stat().st_size < 0.6 * dense
    other, _ = build(name)
    load_packed(other, path)
    own = model.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in other.state_dict().items())
    with torch.no_grad():
        assert torch.equal(other(x), model(x))


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    def network() -> nn.Sequential:
        first = nn.Linear(8, 8)
        net = nn.Sequential(first, nn.Linear(8, 8))
        net[1].weight = first.weight
        return net

    net, other = network(), network()
    save_packed(net, {}, tmp_path / "net.safetensors")
    load_packed(other, tmp_path / "net.safetensors")
    assert torch.equal(other[1].weight, net[0].weight) and torch.equal(other[1].bias, net[1].bias)


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    net, path = nn.Sequential(nn.Linear(8, 4)), tmp_path / "net.safetensors"
    with pytest.raises(ValueError, match=r"^0: a weight of shape \(4, 8\) has blocks along 1 with fewer zeros"):
        save_packed(net, {"0": Pattern(2, 4)}, path)
    with pytest.raises(ValueError, match=r"'1' is no module of the model"):
        save_packed(net, {"1": Pattern(2, 4)}, path)
    save_packed(net, sparse(net), path)
    with pytest.raises(ValueError, match=r"of another network: 0.weight is \(4, 8\) there and \(4, 9\) here"):
        load_packed(nn.Sequential(nn.Linear(9, 4)), path)
    with pytest.raises(ValueError, match=r"0.bias is \(4,\) there and missing here"):
        load_packed(nn.Sequential(nn.Linear(8, 4, bias=False)), path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"net.safetensors holds no packed network"):
        load_packed(net, path)
    save_file({"0.weight": torch.ones(4, 8)}, path)
    with pytest.raises(ValueError, match=r"net.safetensors holds no packed network"):
        load_packed(net, path)
    with pytest.raises(ValueError, match=r"missing.safetensors holds no packed network"):
        load_packed(net, tmp_path / "missing.safetensors")


PACKED = {"pattern": "2:4", "shape": [4, 8], "dim": 1}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([], r"what is packed is said by layer, got \[\]"),
        ({"1.weight": PACKED}, r"1.weight has no values, no indices or no pattern"),
        ({"0.weight": 5}, r"not subscriptable"),
        ({"0.weight": {}}, r"'pattern'"),
        ({"0.weight": {**PACKED, "pattern": "dense"}}, r"0.weight has no values, no indices or no pattern"),
        ({"0.weight": {**PACKED, "pattern": "2;4"}}, r"a pattern is zeros:block"),
        (
            {"0.weight": {**PACKED, "pattern": "1:4"}},
            r"has values of shape \(4, 2, 3\) and 6 bytes of places, got \(4,",
        ),
        ({"0.weight": {**PACKED, "shape": [4, 9]}}, r"has values of shape \(4, 3, 2\)"),
        ({"0.weight": {**PACKED, "shape": ["a", "b"]}}, r"unsupported operand"),
        ({"0.weight": {**PACKED, "dim": 2}}, r"dimension 2 is none of a weight of shape \(4, 8\)"),
        ({"0.weight": {**PACKED, "dim": "1"}}, r"not supported between"),
    ],
)
def test_a_damaged_description_is_refused(facts: Any, message: str, tmp_path: Path) -> None:
    net, path = nn.Sequential(nn.Linear(8, 4)), str(tmp_path / "net.safetensors")
    assert save_packed(net, sparse(net), path) > 0
    save_file(load_file(path), path, {"packed": json.dumps(facts)})
    with pytest.raises(ValueError, match=f"net.safetensors holds no packed network: .*{message}"):
        load_packed(net, path)


BYTES = torch.zeros(3, dtype=torch.uint8)


@pytest.mark.parametrize("places", [BYTES, BYTES + 255, BYTES[:2], BYTES.view(1, 3), BYTES.float()])
def test_places_that_are_none_are_refused(places: torch.Tensor, tmp_path: Path) -> None:
    net, path, pattern = nn.Sequential(nn.Linear(12, 2)), tmp_path / "net.safetensors", Pattern(4, 6)
    sparsify(net, {"0": pattern})
    save_packed(net, {"0": pattern}, path)
    stored = load_file(path)
    assert stored["0.weight:indices"].shape == BYTES.shape
    fact = {"pattern": "4:6", "shape": [2, 12], "dim": 1}
    save_file({**stored, "0.weight:indices": places}, path, {"packed": json.dumps({"0.weight": fact})})
    with pytest.raises(ValueError, match=r"net.safetensors holds no packed network: .*places"):
        load_packed(net, path)


def test_files_of_another_dtype_or_place_are_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(8, 4))
    save_packed(net, sparse(net), tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"0.weight is torch.float32 there and torch.float16 here"):
        load_packed(nn.Sequential(nn.Linear(8, 4)).half(), tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"absent/net.safetensors cannot be written"):
        save_packed(net, {}, tmp_path / "absent/net.safetensors")


def sparse(net: nn.Module) -> dict[str, Pattern]:
    patterns = {"0": Pattern(2, 4)}
    sparsify(net, patterns)
    return patterns
