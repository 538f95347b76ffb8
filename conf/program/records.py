"""Small records of a run: JSON that is written whole or not at all, settings by dotted name, what identifies them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ofa.files import write_text


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again, nothing else is lost") from None


def write_json(path: Path, value: Any) -> None:
    """Written whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False))


def read_lines(path: Path) -> list[Any]:
    """The rows of a JSON-lines file, which is mended: a line that a kill cut off is dropped."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names.

    >>> flat({"data": {"size": 48}, "seed": 0})
    {'data.size': 48, 'seed': 0}
    """
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, inner in value.items() for k, v in flat(inner, f"{prefix}.{name}".lstrip(".")).items()}


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Every setting that differs, with both values.

    >>> differences({"seed": 0, "data.size": 48}, {"seed": 1, "data.size": 48})
    'seed was 0, is now 1'
    """
    keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    return "; ".join(f"{k} was {before.get(k)}, is now {now.get(k)}" for k in keys)


def digest(value: Any) -> str:
    """Identifies plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
