"""Finetune networks under N:M masks, and write what they reach: patterns, and ways to renew the masks.

python experiments/fine_grained/run.py [--seeds 0 1 2] [--steps 200]                     # ResNet-20-like, Fashion-MNIST
python experiments/fine_grained/run.py --backbone lite0 --weights FILE [--steps 100 --before 200]  # Lite0 at 64²
"""

from __future__ import annotations

import argparse
import sys
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments import results
from experiments.supernets.run import cut, recipe, teacher
from ofa.sparsity import Pattern, eligible, sparsify_inputs
from ofa.train import FashionMNIST, Supervised, create, evaluate, fit
from ofa.train.data import Splits
from ofa.train.data.splits import TensorSplit
from ofa.train.masks import Fixed, Magnitude, Masked, Masking

RESULTS = Path(__file__).parent / "results.csv"


@dataclass(frozen=True)
class Variant:
    """Patterns of weights and of activations, and how masks change."""

    weights: str = "dense"
    activations: str = "dense"
    masking: Masking = field(default_factory=Masking)


VARIANTS = {
    "dense": Variant(),
    "2:4": Variant("2:4"),
    "4:8": Variant("4:8"),
    "8:16": Variant("8:16"),
    "12:16": Variant("12:16"),
    "12:16, activations 8:16": Variant("12:16", "8:16"),
    "12:16, by magnitude": Variant("12:16", masking=Masking(Magnitude())),
    "12:16, fixed": Variant("12:16", masking=Masking(Fixed())),
    "12:16, in 3 stages": Variant("12:16", masking=Masking(stages=3)),
}
LITE = ("dense", "2:4", "4:8", "8:16", "12:16", "12:16, activations 8:16", "12:16, fixed")


def few(split: Any, number: int, seed: int = 0) -> TensorSplit:
    """So many pictures of a split, the same for the same seed."""
    assert isinstance(split, TensorSplit)
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:number]
    return replace(split, images=split.images[chosen], labels=split.labels[chosen])


def lite0(splits: Splits, seed: int, folder: Path, weights: Path, steps: int) -> nn.Module:
    """EfficientNet-Lite0 with ImageNet's weights, its classifier and all else finetuned for so many steps."""
    torch.manual_seed(seed)
    model = create("tf_efficientnet_lite0", 10, 3, checkpoint=weights)
    part, epochs = cut(splits, steps, 256)
    fit(Supervised(model, part), replace(recipe(epochs, seed), lr=0.02), path=folder / f"lite0-{steps}-{seed}.pt")
    return model.requires_grad_(False)


def run(name: str, master: nn.Module, steps: int, seed: int, splits: Splits) -> dict[str, Any]:
    """One finetuning from the trained network; test pictures are asked once, at the end."""
    variant, net = VARIANTS[name], deepcopy(master).requires_grad_(True)
    part, epochs = cut(splits, steps, 256)
    weights, activations = Pattern.parse(variant.weights), Pattern.parse(variant.activations)
    if activations is not None:
        sparsify_inputs(net, eligible(net, activations)[0])
    learner: Any = Supervised(net, part, teacher=master)
    patterns = {} if weights is None else eligible(net, weights)[0]
    sparse = sum(net.get_parameter(f"{layer}.weight").numel() for layer in patterns)
    if patterns:
        learner = Masked(learner, variant.masking.start(net, patterns))
    test = partial(evaluate, net)
    pruned = test(part.validation.ordered(256))["accuracy"]
    fit(learner, replace(recipe(epochs, seed), lr=0.02))
    row = {"variant": name, "seed": seed, "share": round(sparse / sum(p.numel() for p in net.parameters()), 3)}
    return row | {"pruned": round(pruned, 2), "test": round(test(splits.test.ordered(256))["accuracy"], 2)}


def table() -> str:
    """Mean and standard deviation over the seeds, as Markdown."""
    lines = []
    for (backbone, name), rows in results.by(results.read(RESULTS), "backbone", "variant").items():
        share = mean(float(row["share"]) for row in rows)
        reached = [results.spread(row[figure] for row in rows) for figure in ("pruned", "test")]
        lines.append([backbone, name, len(rows), f"{share:.0%}", *reached])
    headings = ["backbone", "weights", "seeds", "parameters with a pattern", "as pruned", "finetuned, test"]
    return results.markdown(headings, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--backbone", choices=["resnet20", "lite0"], default="resnet20")
    parser.add_argument("--weights", type=Path, help="EfficientNet-Lite0's file, for lite0")
    parser.add_argument("--before", type=int, default=200, help="steps that lite0 is finetuned for while dense")
    parser.add_argument("--test", type=int, default=10_000, help="pictures of the test split")
    parser.add_argument("--folder", type=Path, default=Path("runs/supernets"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    splits = FashionMNIST(size=28 if given.backbone == "resnet20" else 64).load()
    splits = replace(splits, test=few(splits.test, given.test))
    if given.backbone == "lite0":
        splits = coloured(splits)
    known, lite = results.by(results.read(RESULTS), "backbone", "variant", "seed"), given.backbone == "lite0"
    for seed in given.seeds:
        names = [n for n in (LITE if lite else VARIANTS) if (given.backbone, n, str(seed)) not in known]
        if names and lite:
            master = lite0(splits, seed, given.folder, given.weights, given.before)
        elif names:
            master = teacher("resnet20", splits, seed, given.folder)
        for name in names:
            results.append(RESULTS, {"backbone": given.backbone, **run(name, master, given.steps, seed, splits)})
    print(table())


def coloured(splits: Splits) -> Splits:
    """Grey pictures as three equal channels, normalised as EfficientNet-Lite's weights want them."""
    half = (0.5,) * 3
    preprocessing = replace(splits.preprocessing, mean=half, std=half)

    def part(split: Any) -> TensorSplit:
        assert isinstance(split, TensorSplit)
        return replace(split, images=split.images.expand(-1, 3, -1, -1), preprocessing=preprocessing)

    parts = part(splits.train), part(splits.validation), part(splits.test)
    return replace(splits, train=parts[0], validation=parts[1], test=parts[2], preprocessing=preprocessing)


if __name__ == "__main__":
    main()
