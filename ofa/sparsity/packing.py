"""Packed N:M weights: the values that stay and, in a few bits each, their places in the block."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofa.sparsity.layers import input_dim, layer_of
from ofa.sparsity.pattern import Pattern


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight of `shape` with blocks along `dim`: values (…, blocks, kept), and their places as a stream of bits.

    Raises:
        ValueError: the values or the places are not as many as that.
    """

    values: Tensor
    indices: Tensor
    pattern: Pattern
    shape: tuple[int, ...]
    dim: int

    def __post_init__(self) -> None:
        if not 0 <= self.dim < len(self.shape):
            raise ValueError(f"dimension {self.dim} is none of a weight of shape {self.shape}")
        others = [size for d, size in enumerate(self.shape) if d != self.dim]
        blocks = math.ceil(self.shape[self.dim] / self.pattern.block)
        values = (*others, blocks, self.pattern.block - self.pattern.zeros)
        nbytes = math.ceil(math.prod(values) * width(self.pattern) / 8)
        stream = tuple(self.indices.shape), self.indices.dtype
        if tuple(self.values.shape) != values or stream != ((nbytes,), torch.uint8):
            raise ValueError(
                f"a weight of shape {self.shape} with {self.pattern} along {self.dim} has values of shape {values} and"
                f" {nbytes} bytes of places, got {tuple(self.values.shape)} and {stream[0]} of {stream[1]}"
            )

    @property
    def bytes(self) -> int:
        return self.values.nbytes + self.indices.nbytes

    def unpack(self) -> Tensor:
        """The weight, zeros and all.

        Raises:
            ValueError: the places of a block do not ascend, or lie outside.
        """
        where = from_bits(self.indices, width(self.pattern), self.values.numel()).view(self.values.shape)
        if bool((where.diff(dim=-1) <= 0).any()) or bool((where >= self.pattern.block).any()):
            raise ValueError(
                f"the places of a block are not {where.shape[-1]} ascending ones below {self.pattern.block}"
            )
        blocks = self.values.new_zeros(*self.values.shape[:-1], self.pattern.block)
        rows = blocks.scatter_(-1, where, self.values).flatten(-2)
        return rows.narrow(-1, 0, self.shape[self.dim]).movedim(-1, self.dim).contiguous()


def pack(weight: Tensor, pattern: Pattern, dim: int = 1) -> Packed:
    """The weight in packed form.

    Raises:
        ValueError: it does not have the pattern along `dim`.
    """
    weight, dim = weight.detach(), dim % weight.ndim
    if not pattern.fits(weight, dim):
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} has blocks along {dim} with fewer zeros than {pattern}"
        )
    blocks = pattern.blocks(weight.movedim(dim, -1), weight.ndim - 1)
    mask = pattern.mask((blocks != 0).to(weight.dtype), -1)
    kept = (*blocks.shape[:-1], pattern.block - pattern.zeros)
    bits = to_bits(mask.nonzero()[:, -1], width(pattern))
    return Packed(blocks[mask].view(kept), bits, pattern, tuple(weight.shape), dim)


def width(pattern: Pattern) -> int:
    """Bits that a place in a block takes."""
    return (pattern.block - 1).bit_length()


def to_bits(numbers: Tensor, bits: int) -> Tensor:
    """Numbers below 2^bits one after the other without gaps, the lowest bit first, as bytes."""
    stream = (numbers.to(torch.uint8).unsqueeze(1) >> places(bits, numbers)) & 1
    filled = F.pad(stream.flatten(), (0, -stream.numel() % 8)).view(-1, 8)
    return (filled << places(8, numbers)).sum(1, dtype=torch.uint8)


def from_bits(stream: Tensor, bits: int, count: int) -> Tensor:
    """The `count` numbers that `to_bits` wrote."""
    single = ((stream.unsqueeze(1) >> places(8, stream)) & 1).flatten()[: count * bits]
    return (single.view(count, bits) << places(bits, stream)).sum(1)


def places(bits: int, like: Tensor) -> Tensor:
    return torch.arange(bits, dtype=torch.uint8, device=like.device)


def save_packed(
    net: nn.Module, patterns: Mapping[str, Pattern], path: Path | str, metadata: Mapping[str, str] | None = None
) -> int:
    """All parameters and buffers as safetensors, the named layers' weights packed; gives the file's size in bytes.

    `metadata` stands beside what is said of the packing.

    >>> import tempfile
    >>> from ofa.sparsity import sparsify
    >>> network, patterns = nn.Sequential(nn.Linear(64, 64)), {"0": Pattern.parse("2:4")}
    >>> masks = sparsify(network, patterns)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = save_packed(network, patterns, Path(folder) / "packed.safetensors")
    >>> size < 0.6 * 4 * 64 * 64  # of the bytes that the weight alone takes dense
    True

    Raises:
        ValueError: a weight does not have its pattern (the layer is named), or the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors, facts, layers = {}, {}, {name: layer_of(net, name) for name in patterns}
    for key, tensor in once(net).items():
        layer, _, local = key.rpartition(".")
        if local != "weight" or layer not in layers:
            tensors[key] = tensor.detach().clone(memory_format=torch.contiguous_format)
            continue
        try:
            packed = pack(tensor, patterns[layer], input_dim(layers[layer]))
        except ValueError as error:
            raise ValueError(f"{layer}: {error}") from None
        tensors |= {f"{key}:values": packed.values, f"{key}:indices": packed.indices}
        facts[key] = {"pattern": str(packed.pattern), "shape": packed.shape, "dim": packed.dim}
    try:
        save_file(tensors, path, {**(metadata or {}), "packed": json.dumps(facts)})
        return Path(path).stat().st_size
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be written: {error}") from None


def load_packed(net: nn.Module, path: Path | str) -> None:
    """Put what `save_packed` wrote into a network of the same architecture, exactly.

    >>> import tempfile
    >>> from ofa.sparsity import sparsify
    >>> network, other, patterns = nn.Linear(8, 2), nn.Linear(8, 2), {"": Pattern.parse("2:4")}
    >>> masks = sparsify(network, patterns)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = save_packed(network, patterns, Path(folder) / "packed.safetensors")
    ...     load_packed(other, Path(folder) / "packed.safetensors")
    >>> torch.equal(other.weight, network.weight)
    True

    Raises:
        ValueError: the file is damaged, or of another network or dtype; the first differences are named.
    """
    tensors, own = read_packed(path), once(net)
    differ = sorted(key for key in {*own, *tensors} if shape(own, key) != shape(tensors, key))
    if differ:
        rows = [f"{key} is {shape(tensors, key)} there and {shape(own, key)} here" for key in differ[:3]]
        raise ValueError(f"{path} is of another network: {'; '.join(rows)}")
    for key, tensor in own.items():
        if tensor.dtype != tensors[key].dtype:
            raise ValueError(
                f"{path} is exact in its own dtypes alone: {key} is {tensors[key].dtype} there and {tensor.dtype} here"
            )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(tensors[key])


def read_packed(path: Path | str) -> dict[str, Tensor]:
    """The tensors that `save_packed` wrote, unpacked.

    Raises:
        ValueError: the file is damaged or another.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["packed"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if not isinstance(facts, dict):
            raise TypeError(f"what is packed is said by layer, got {facts!r}")
        weights = {key: restored(tensors, key, fact) for key, fact in facts.items()}
        return tensors | weights
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no packed network: {error}") from None


def restored(tensors: dict[str, Tensor], key: str, fact: Mapping[str, Any]) -> Tensor:
    """A weight from its values and places, which leave `tensors`."""
    values, indices = tensors.pop(f"{key}:values", None), tensors.pop(f"{key}:indices", None)
    pattern = Pattern.parse(fact["pattern"])
    if values is None or indices is None or pattern is None:
        raise ValueError(f"{key} has no values, no indices or no pattern")
    return Packed(values, indices, pattern, tuple(fact["shape"]), fact["dim"]).unpack()


def once(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers under the first of their names."""
    names: dict[Tensor, str] = {}
    for key, tensor in net.state_dict(keep_vars=True).items():
        names.setdefault(tensor, key)
    return {key: tensor for tensor, key in names.items()}


def shape(tensors: Mapping[str, Tensor], key: str) -> str:
    return str(tuple(tensors[key].shape)) if key in tensors else "missing"
