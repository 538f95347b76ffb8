"""One file as a picture of three colours, upright: how every kind of pixels is converted, and why some are refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

CONVERTED = {
    "1": "black and white, as three equal channels",
    "L": "grey, as three equal channels",
    "LA": "grey with transparency, laid on white",
    "P": "palette, by its colours; what is transparent becomes white",
    "RGBA": "transparent parts laid on white",
    "I;16": "grey of 16 bits, divided by 257",
    "I;16B": "grey of 16 bits, divided by 257",
    "I": "grey, taken as 16 bits and divided by 257",
    "CMYK": "by Pillow's formula, without a colour profile",
}
"""What becomes of a picture of each of Pillow's modes, for people; other modes go by Pillow's `convert("RGB")`."""


def read(path: Path) -> Image.Image:
    """The whole picture, upright and in RGB; raises whatever its decoder does where it is not whole.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "clear.png"
    ...     Image.new("RGBA", (4, 3), (200, 0, 0, 0)).save(path)
    ...     read(path).getpixel((0, 0))
    (255, 255, 255)
    """
    with untroubled(), Image.open(path) as image:
        return coloured(ImageOps.exif_transpose(image))


@contextmanager
def untroubled() -> Iterator[None]:
    """Inside, decoders do not warn of what they can read all the same, such as EXIF data of a careless program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def turned(image: Image.Image) -> bool:
    """Whether the camera was held so that the file says to turn or mirror it."""
    return image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)


def coloured(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGB.

    Raises:
        ValueError: its numbers have no known range.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray(eight_bits(np.asarray(image.convert("I")))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 to 65535 as ones from 0 to 255, rounded.

    >>> eight_bits(np.array([0, 257, 65535]))
    array([  0,   1, 255], dtype=uint8)
    """
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"its pixels reach from {pixels.min()} to {pixels.max()}; save it with 8 or 16 bits")
    return np.rint(pixels / 257).astype(np.uint8)
