"""Supernets that others have trained: their files' tensors follow the order of the network, as ours do."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ofa.supernet import Supernet
from ofa.train.backbones import in_order, read_weights

_MATRIX = re.compile(r"(.*)\.\d+to(\d+)_matrix")


def load_supernet(supernet: Supernet, path: Path) -> None:
    """Put the weights of once-for-all's, AttentiveNAS' or AlphaNet's file into a supernet of the same largest network.

    >>> import tempfile
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> supernet = Supernet(network, torch.randn(8, 4))
    >>> theirs = {f"layers.{name}": 2 * tensor for name, tensor in network.state_dict().items()}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"state_dict": theirs}, Path(folder) / "supernet.pth")
    ...     load_supernet(supernet, Path(folder) / "supernet.pth")
    >>> torch.equal(supernet.model[0].weight, 2 * network[0].weight)
    True

    Kernel matrices come along. Statistics of batch norms are those of the largest network, or nobody's.

    Raises:
        ValueError: the file is missing, damaged, or of another network, whose first different tensor is named; or it
            holds kernel matrices and the supernet has none, or none and the supernet has.
    """
    file, own = read_weights(path), supernet.model.state_dict()
    names = in_order(file, own)
    for name, tensor in own.items():
        found = names.get(name)
        if found is None or file[found].shape != tensor.shape:
            got = "nothing" if found is None else f"{found} {tuple(file[found].shape)}"
            raise ValueError(f"{path} is of another network: {name} {tuple(tensor.shape)} is met by {got}")
    weight_of = {found: name for name, found in names.items()}
    matrices = {
        f"{weight_of.get(f'{layer}.conv.weight', '').replace('.', '/')}:{size}": file[match.string].T
        for match in filter(None, map(_MATRIX.fullmatch, file))
        for layer, size in [match.groups()]
    }
    wanted = dict(supernet.transforms.matrices) if supernet.transforms else {}
    if matrices.keys() != wanted.keys():
        told = f"{len(matrices)} kernel matrices, and the space {len(wanted)}"
        raise ValueError(f"{path} has {told}: space.kernel_transform and space.kernel say which")
    with torch.no_grad():
        supernet.model.load_state_dict({name: file[found] for name, found in names.items()})
        for key, matrix in wanted.items():
            matrix.copy_(matrices[key])
    supernet.activate(supernet.active)
