"""The console program and its Hydra configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf


def typed(value: Any) -> str:
    """A setting as a part of a folder's name that people can type: no quotes, braces, blanks or equals signs.

    >>> typed("path/to/net.py:make"), typed("torchvision/resnet18"), typed("my_package.nets.make")
    ('net-make', 'torchvision-resnet18', 'my_package.nets.make')
    >>> typed({"_target_": "my_package.nets.make", "width": 32})
    'my_package.nets.make-width-32'
    """
    if isinstance(value, Mapping):
        others = [f"{typed(key)}-{typed(inner)}" for key, inner in value.items() if key != "_target_"]
        return "-".join([*([typed(value["_target_"])] if "_target_" in value else []), *others])
    text = re.sub(r"^(?:.*/)?([^/]+)\.py:", r"\1-", str(value))
    return re.sub(r"[^\w.]+", "-", text).strip("-.")


OmegaConf.register_new_resolver("typed", typed, replace=True)
