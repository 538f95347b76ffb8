"""What becomes of a picture before a network sees it, as one value that goes with every file of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preprocessing:
    """Pixels from 0 to 1, resized to a square of `size` pixels, minus `mean`, divided by `std` (one for each channel).

    `crop` is the share of the shorter edge that is seen: that edge becomes `size / crop` pixels long, and the square in
    the middle is taken. Where it is None, the whole picture is squeezed into the square.

    >>> Preprocessing(224, (0.5,), (0.25,), crop=0.875).to_json()["resize"]
    {'shorter_edge': 256, 'interpolation': 'bilinear'}
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is the edge of a picture in pixels, at least 1, got {self.size}")
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean and std have a number for each channel, got {self.mean} and {self.std}")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(f"crop is the share of the shorter edge that is seen, in (0, 1], got {self.crop}")

    @property
    def channels(self) -> int:
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """In the words of one who has the network's file and nothing else; `resize` comes first, then `crop`."""
        edge = {"width_and_height": self.size} if self.crop is None else {"shorter_edge": int(self.size / self.crop)}
        return {
            "size": [self.size, self.size],
            "channels": {1: "grey", 3: "RGB"}.get(self.channels, str(self.channels)),
            "resize": {**edge, "interpolation": self.interpolation},
            "crop": None if self.crop is None else "centre",
            "range": [0.0, 1.0],
            "mean": list(self.mean),
            "std": list(self.std),
        }
