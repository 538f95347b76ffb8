"""A file of facts that is sealed: it holds the digests of the files beside it, and its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ofa.files import write_text


def write_sealed(path: Path, facts: Mapping[str, Any], names: Iterable[str]) -> None:
    """Facts as JSON, an entry a line, with the digests of the files of these names in the same folder.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "weights").write_text("1 2 3")
    ...     write_sealed(Path(folder) / "facts.json", {"classes": ["cat", "dog"]}, ["weights"])
    ...     read_sealed(Path(folder) / "facts.json")["classes"]
    ['cat', 'dog']
    """
    content = {**facts, "digests": {name: file_digest(path.with_name(name)) for name in sorted(names)}}
    content = json.loads(json.dumps(content))
    write_text(path, entries({**content, "digest": own_digest(content)}))


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote.

    Raises:
        ValueError: the file, or one that it names, is missing or is not the one that was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        intact = content.pop("digest") == own_digest(content)
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        content, intact = {}, False
    wanted = content["digests"] if intact else {path.name: ""}
    changed = [path.with_name(name) for name, digest in wanted.items() if file_digest(path.with_name(name)) != digest]
    if changed:
        raise ValueError(f"{changed[0]} is missing, or is not the file that was exported")
    return dict(content)


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def own_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def entries(content: Mapping[str, Any]) -> str:
    """JSON with an entry of each mapping or list of lists a line.

    >>> print(entries({"sizes": {"a": [2, 3], "b": [4]}, "kept": [["a", 1]], "classes": ["cat", "dog"]}))
    {
     "sizes": {
      "a": [2, 3],
      "b": [4]
     },
     "kept": [
      ["a", 1]
     ],
     "classes": ["cat", "dog"]
    }
    """
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {block(value)}" for name, value in content.items()) + "\n}"


def block(value: Any) -> str:
    """A mapping or a list of lists on several lines, others on one."""
    if value and isinstance(value, dict):
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()) + "\n }"
    if value and isinstance(value, list) and isinstance(value[0], list):
        return "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in value) + "\n ]"
    return json.dumps(value)
