"""The spaces of the latency experiment, and the networks of each that are measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

import ofa
from ofa.export import quiet
from ofa.search.latency import Artefact
from ofa.search.sampling import skewed, spread
from ofa.space import Genome


@dataclass(frozen=True)
class Family:
    """A backbone of timm and the space over it."""

    backbone: str
    size: int
    settings: dict[str, Any] = field(default_factory=dict)
    resolution: tuple[int, ...] = ()

    def supernet(self) -> tuple[ofa.Supernet, Tensor]:
        """The supernet, of which nothing is proved (only times matter here), and an example input."""
        torch.manual_seed(0)
        network = timm.create_model(self.backbone, num_classes=10, **self.settings).eval()
        example = torch.zeros(1, 3, self.size, self.size)
        space = ofa.SpaceConfig(proof="off", resolution=self.resolution)
        return ofa.Supernet(network, example, space).eval(), example


FAMILIES = {
    "mobilenetv3_small": Family("mobilenetv3_small_050", 48),
    "mobilenetv3_large": Family("mobilenetv3_large_100", 128),
    "resnet18": Family("resnet18", 128),
    "efficientnet": Family("efficientnet_b0", 128, resolution=(96, 112, 128)),
    "vit": Family("vit_tiny_patch16_224", 128, {"img_size": 128}),
}


def population(supernet: ofa.Supernet) -> Genome:
    """120 networks, spread evenly along the logarithm of their MACs."""
    pool = skewed(supernet.space, np.random.default_rng(1), 4000)
    return pool[spread(supernet.costs(pool)["macs"], 120)]


def artefacts(supernet: ofa.Supernet, example: Tensor, genomes: Genome) -> list[Artefact]:
    """What is timed."""
    features, found = supernet.features(genomes), []
    for i, genome in enumerate(genomes):
        subnet = supernet.space.decode(genome)
        own = {name: float(values[i]) for name, values in features.items()}
        found.append(Artefact(supernet.extract(subnet).eval(), supernet.resize(example, subnet), traced, own))
    return found


def traced(network: nn.Module, example: Any, path: Path) -> None:
    """An ONNX file by tracing, ten times as quick as the program's exporter; runtimes fold both to the same kernels."""
    with quiet(), torch.no_grad():
        torch.onnx.export(network, (example,), str(path), dynamo=False)
