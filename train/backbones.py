"""Backbones: networks made by timm, with weights from its hub or from a local file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def create(
    name: str,
    num_classes: int,
    in_chans: int = 3,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A timm backbone; `kwargs` go to its constructor, `checkpoint` is a weight file (safetensors, pth).

    A classifier in the file with another number of classes is left out: the new one stays as initialised.

    Raises:
        ValueError: no such backbone (close names are given), an argument that it does not take, or a weight
            file that is missing, damaged, or another network's.
    """
    from train.zoo import timm

    check_name(name)
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **kwargs
        )
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"backbone {name!r} cannot be made: {error}") from None
    except OSError as error:
        raise ValueError(f"pretrained weights of {name!r} cannot be fetched: {error}") from None
    if checkpoint is not None:
        load_weights(model, Path(checkpoint))
    return model


def check_name(name: str) -> None:
    """Raise a ValueError with close names if timm has no such backbone."""
    from train.zoo import timm

    if ":" in name or timm.is_model(name):  # "hf-hub:owner/model" is resolved on the hub
        return
    close = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.6)
    hint = f"close: {', '.join(close)}" if close else "timm.list_models() names all"
    raise ValueError(f'unknown backbone "{name}"; {hint}')


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weight file into `model`, except for a classifier with another number of classes.

    Raises:
        ValueError: the file is missing, damaged, or another network's.
    """
    weights, own = read_weights(path), model.state_dict()
    other = {key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape}
    if other and all(key.startswith(_classifiers(model)) for key in other):
        weights |= {key: own[key] for key in own if key.startswith(_classifiers(model))}
        other = set()
    missing, unknown = own.keys() - weights.keys(), weights.keys() - own.keys()
    if missing or unknown or other:
        shapes = [f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}" for key in sorted(other)[:3]]
        raise ValueError(
            f"{path} holds the weights of another network: {len(missing)} missing {sorted(missing)[:3]},"
            f" {len(unknown)} unknown {sorted(unknown)[:3]}, {len(other)} of another shape {shapes}"
        )
    model.load_state_dict(weights)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors or torch file, without executing anything in it.

    Raises:
        ValueError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"no weight file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many types for a damaged file
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{path} is damaged or no weight file ({reason})") from None
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):  # where training programs put it
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no named tensors")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """How the names of the classifier's parameters begin, as timm records it."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
