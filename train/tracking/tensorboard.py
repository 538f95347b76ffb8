"""Figures in event files of TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.train.tracking.tracker import Mirror


@dataclass(frozen=True)
class TensorBoard:
    """TensorBoard's files in the folder `name` of the run; `tensorboard --logdir runs` shows those of all runs.

    >>> TensorBoard().name
    'tensorboard'

    Raises:
        ValueError: TensorBoard is not installed; names the extra.
    """

    name: str = "tensorboard"

    def start(self, folder: Path, settings: Mapping[str, Any]) -> Events:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("TensorBoard is not installed: pip install 'ofa-lab[tensorboard]'") from None
        writer: Any = SummaryWriter(str(folder / self.name))
        writer.add_text("settings", "\n\n".join(f"{key}: {value}" for key, value in settings.items()))
        return Events(writer)


class Events(Mirror):
    """A writer whose steps are the epochs of each stage."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def log(self, figures: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        step = next((int(value) for name, value in numbers.items() if name.endswith("/epoch")), None)
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self.writer.close()
