"""Files of the work folder: JSON, written whole or not at all, and never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ofa.files import write_text
from ofa.persistence import tensors_digest
from ofa.tracing import operations_of

if os.name == "posix":
    import fcntl

FOLDER = Path(".vai")


def read_json(path: str | Path, *keys: str) -> Any:
    """What a file holds: an object that has at least `keys`, or anything where none are named.

    Raises:
        ValueError: it cannot be read, is a pickle, or holds something else.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    if content[:1] == b"\x80":
        raise ValueError(f"{path} is a pickle, which could run any code when read; only JSON is read: make it again")
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file of the optimizer: {error}") from None
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise ValueError(f"{path} is another file: it lacks {', '.join(missing)}")
    return found


def write_json(path: str | Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a file at once, so that a kill leaves the old one or the new one."""
    write_text(Path(path), json.dumps(content, indent=1))


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same folder waiting, where the system can; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.name != "posix":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems of networks have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def graph_digest(model: nn.Module, inputs: Any) -> str:
    """Identifies a network by its tensors' names and shapes and the operators that it runs on the inputs."""
    return hashlib.sha256(f"{shapes_of(model)} {operations_of(model, inputs)}".encode()).hexdigest()[:16]


def shapes_of(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return sorted((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())


def gradients_digest(model: nn.Module) -> str:
    """Identifies the gradients that a network has."""
    return tensors_digest({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
