"""One small model of every architecture module of timm and of every classification family of torchvision."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

LIST = Path(__file__).parent / "families.csv"
EDGES = (64, 96, 128, 160, 224, 256, 299, 384)


def families() -> list[tuple[str, str]]:
    """(family, model) pairs, from `families.csv`; the file is made if it is missing."""
    if not LIST.exists():
        rows = [(f"timm.{module}", smallest_timm(module)) for module in sorted(timm.list_modules())]
        rows += [(f"torchvision.{family}", name) for family, name in sorted(smallest_torchvision().items())]
        with LIST.open("w", newline="") as file:
            csv.writer(file).writerows([("family", "model"), *(row for row in rows if row[1])])
    with LIST.open() as file:
        return [(row["family"], row["model"]) for row in csv.DictReader(file)]


def parameters(build: object) -> float:
    """Number of parameters, counted without memory for them; infinite if the model cannot be built that way."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in build().parameters())  # type: ignore[operator]
    except Exception:
        return float("inf")


def smallest_timm(module: str) -> str:
    names = timm.list_models(module=module)
    return min(names, key=lambda name: parameters(lambda: timm.create_model(name)), default="")


def smallest_torchvision() -> dict[str, str]:
    """The smallest model of each module of `torchvision.models` that classifies images."""
    found: dict[str, tuple[float, str]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        family = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        size = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
        found[family] = min(found.get(family, (float("inf"), name)), (size, name))
    return {family: name for family, (_, name) in found.items()}


def quiet(name: str) -> dict[str, bool | None]:
    """GoogLeNet and Inception warn unless told how to start; detection networks would download a backbone."""
    if name in ("googlenet", "inception_v3"):
        return {"init_weights": False}
    return {"weights_backbone": None} if name in torchvision.models.list_models(torchvision.models.detection) else {}


def build(family: str, name: str) -> tuple[nn.Module, torch.Tensor]:
    """The model with random weights, and the smallest square image that it runs on.

    Raises:
        ValueError: it runs on no image; the last error is quoted.
    """
    last: Exception | None = None
    for model, shape in candidates(family, name):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                if all(t.isfinite().all() for t in [model(x)] if isinstance(t, torch.Tensor)):
                    return model, x
        except Exception as error:
            last = error
    raise ValueError(f"{name} runs on no image: {last}")


def candidates(family: str, name: str) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """The model for growing images: the number of positions is fixed where the model takes an `img_size`."""
    torch.manual_seed(0)
    if family.startswith("torchvision"):
        size = {"image_size": 64} if "vit_" in name and "max" not in name else {}
        model = torchvision.models.get_model(name, **quiet(name), **size).eval()
        yield from ((model, (1, 3, edge, edge)) for edge in EDGES)
        return
    model = timm.create_model(name).eval()
    channels, edge, _ = model.default_cfg["input_size"]
    if not model.default_cfg.get("fixed_input_size"):
        yield from ((model, (1, channels, e, e)) for e in EDGES if e >= 64 and e < edge)
    else:
        for e in (128, 224):
            try:
                yield timm.create_model(name, img_size=e).eval(), (1, channels, e, e)
            except Exception:  # no such argument, or no such size: the next one
                continue
    yield model, (1, channels, edge, edge)
