"""A user's own pictures, made from photographs that ship with scikit-learn and scikit-image: whole, odd, broken."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

CLASSES, MORE = ("flower", "sky", "temple"), ("cat", "coffee", "rocket")
NUMBERS = {"flower": 40, "sky": 40, "temple": 40}


@cache
def photographs() -> dict[str, np.ndarray]:
    """A part of a photograph for each class, (height, width, 3)."""
    china, flower = load_sample_images().images
    more = {"cat": data.chelsea(), "coffee": data.coffee(), "rocket": data.rocket()}
    return {"flower": flower, "sky": china[:180], "temple": china[130:], **more}


def cropped(label: str, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A piece of the class's photograph, width and height as asked."""
    whole, (width, height) = photographs()[label], size
    top, left = rng.integers(whole.shape[0] - height), rng.integers(whole.shape[1] - width)
    return Image.fromarray(whole[top : top + height, left : left + width])


def write_classes(
    folder: Path, numbers: Mapping[str, int] = NUMBERS, size: tuple[int, int] = (80, 64), seed: int = 0
) -> None:
    """`folder`/<class>/<number>.jpg, different pieces of photographs, the same ones again for more."""
    for label, number in numbers.items():
        rng = np.random.default_rng([seed, (*CLASSES, *MORE).index(label)])
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            cropped(label, size, rng).save(folder / label / f"{i:03}.jpg", quality=90)


def write_odd(folder: Path, size: tuple[int, int] = (80, 64)) -> dict[str, Path]:
    """One of each kind that stands in people's folders, in the class `flower`; paths by kind."""
    picture, place = cropped("flower", size, np.random.default_rng(99)), folder / "flower"
    names = {
        "turned": "turned.jpg", "grey": "grey.png", "transparent": "transparent.png", "palette": "palette.gif",
        "deep": "deep.png", "cmyk": "cmyk.jpg", "bitmap": "bitmap.png", "copy": "copy.jpg",
    }  # fmt: skip
    paths = {kind: place / name for kind, name in names.items()}
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees to the right
    picture.transpose(Image.Transpose.ROTATE_90).save(paths["turned"], exif=exif, quality=95)
    picture.convert("L").save(paths["grey"])
    clear = picture.copy()
    clear.putalpha(Image.linear_gradient("L").resize(size))
    clear.save(paths["transparent"])
    picture.quantize(64).save(paths["palette"])
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(paths["deep"])
    picture.convert("CMYK").save(paths["cmyk"], quality=95)
    picture.convert("1").save(paths["bitmap"])
    shutil.copy(place / "000.jpg", paths["copy"])
    return paths


def write_broken(folder: Path) -> dict[str, Path]:
    """Files that look like pictures by their names, and are none; paths by kind."""
    place = folder / "sky"
    whole = (place / "000.jpg").read_bytes()
    contents = {
        "cut.jpg": whole[: len(whole) * 9 // 10], "empty.png": b"", "text.jpg": b"<html>404</html>",
        "header.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
    }  # fmt: skip
    for name, content in contents.items():
        (place / name).write_bytes(content)
    return {Path(name).stem: place / name for name in contents}


def write_own_pictures(folder: Path) -> None:
    """Everything at once: an empty class, notes beside the pictures, broken and odd ones among whole ones."""
    write_classes(folder)
    write_odd(folder)
    write_broken(folder)
    (folder / "nothing").mkdir()
    (folder / "flower" / "notes.txt").write_text("where they are from")
