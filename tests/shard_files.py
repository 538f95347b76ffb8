"""Tar shards of handwritten digits, as webdataset lays them out."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write_shard(path: Path, start: int, count: int, **labels: Callable[[int], str]) -> None:
    """Handwritten digits as PNG, and a file of each of the `labels` for every one; names as webdataset writes them."""
    pixels, targets = load_digits(return_X_y=True)
    with tarfile.open(path, "w") as archive:
        for i in range(start, start + count):
            content = io.BytesIO()
            Image.fromarray((pixels[i].reshape(8, 8) * 15).astype(np.uint8)).save(content, "png")
            files = {"png": content.getvalue()} | {kind: f(int(targets[i])).encode() for kind, f in labels.items()}
            for kind, value in files.items():
                member = tarfile.TarInfo(f"sub.dir/{i:06d}.{kind}")
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value))


def write_shards(folder: Path) -> None:
    """Three shards of training and one of test pictures, described as timm wants it."""
    names = [f"digits-train-{i}.tar" for i in range(3)]
    for i, name in enumerate(names):
        write_shard(folder / name, 40 * i, 40, cls=str)
    write_shard(folder / "digits-test.tar", 120, 30, json=lambda digit: json.dumps({"digit": digit}), cls=lambda _: "?")
    train = {"name": "train", "num_samples": 120, "filenames": names, "shard_lengths": [40] * 3}
    test = {"name": "validation", "num_samples": 30, "filenames": ["digits-test.tar"], "shard_lengths": [30]}
    splits = {"train": train, "validation": test | {"alt_label": "digit"}}
    (folder / "_info.json").write_text(json.dumps({"splits": splits}))
