"""Checkpoints: one file that is either whole or the previous one, and holds only tensors and plain values."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ofa.files import replacing


def save(path: Path, state: Mapping[str, Any], keep: int = 1) -> None:
    """Write `state` beside `path`, make sure that it is on the disk, and only then let it take that name.

    The `keep` - 1 states before it stay as `<stem>-1`, `<stem>-2` …, the newest first.
    """
    with replacing(path, binary=True, needed=size_of(state)) as file:
        torch.save(dict(state), file)
        shift(path, keep)


def size_of(state: Any) -> int:
    """Bytes of the tensors in nested values, which is nearly the size of their file."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    inner = state.values() if isinstance(state, Mapping) else state if isinstance(state, (list, tuple)) else ()
    return sum(map(size_of, inner))


def shift(path: Path, keep: int) -> None:
    """Let earlier states move on by one; `path` itself never goes missing."""
    names = [path, *(path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(1, keep))]
    for newer, older in reversed(list(pairwise(names))):
        if newer == path and path.exists():
            link = path.with_name(f".{older.name}.link")
            link.unlink(missing_ok=True)
            shutil.copy2(path, link) if os.name != "posix" else link.hardlink_to(path)
            link.replace(older)
        elif newer.exists():
            newer.replace(older)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU; nothing in the file is executed.

    Raises:
        ValueError: the file is missing, damaged, or no checkpoint.
    """
    if not path.is_file():
        raise ValueError(f"no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums that it writes
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types, down to KeyError, for a damaged file
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{path} is damaged or no checkpoint ({reason}); delete it to start over") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a checkpoint")
    return state
