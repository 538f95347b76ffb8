"""Figures, settings, the front and the networks in a run of Weights & Biases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.train.tracking.tracker import Mirror


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases; `offline` needs neither network nor account (`wandb sync` uploads it later).

    `project`, `entity` and `name` are where a run stands and what it is called; runs in one folder, as those of a
    sweep, are a `group`, unless it has another name. `mode` is online or offline. `artefacts` keeps the supernet, and
    each network with its figures.

    >>> Wandb(project="pruning", group="sweep").mode
    'offline'

    Raises:
        ValueError: another mode.
    """

    project: str = "ofa-lab"
    mode: str = "offline"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    artefacts: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online"):
            raise ValueError(f"mode is 'offline' or 'online', got {self.mode!r}")

    def start(self, folder: Path, settings: Mapping[str, Any]) -> Shown:
        """A wandb run that keeps its files in `folder`; the same folder goes on with the same run."""
        import wandb  # takes two seconds, so only when asked for

        place = folder.resolve()
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.name or place.name,
            group=self.group or place.parent.name,
            config=dict(settings),
            mode="online" if self.mode == "online" else "offline",
            dir=folder,
            id=hashlib.sha256(str(place).encode()).hexdigest()[:12],
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
        return Shown(run, self.artefacts)


class Shown(Mirror):
    """A run of wandb, which sees what leaves."""

    def __init__(self, run: Any, artefacts: bool) -> None:
        self.run, self.artefacts = run, artefacts

    def log(self, figures: Mapping[str, Any]) -> None:
        self.run.log(dict(figures))

    def leave(self, folder: Path) -> None:
        """The front as a table and as a page, and the networks as artefacts that name the supernet they are from."""
        import wandb

        front = json.loads((folder / "front.json").read_text())
        rows = [{name: value for name, value in row.items() if name != "files"} for row in front]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[json.dumps(row[n]) if n == "subnet" else row.get(n) for n in columns] for row in rows]
        page = (folder / "front.html").read_text(encoding="utf-8")
        self.run.log({"front": wandb.Table(columns, cells), "front page": wandb.Html(page, inject=False)})
        if not self.artefacts:
            return
        supernet = wandb.Artifact(f"supernet-{self.run.id}", type="supernet")
        supernet.add_file(str(folder / "supernet.pt"))
        self.run.log_artifact(supernet)
        for row in rows:
            network = wandb.Artifact(
                f"{row['name']}-{self.run.id}", type="network", metadata=row | {"supernet": supernet.name}
            )
            for path in sorted((folder / "subnets" / str(row["name"])).iterdir()):
                network.add_file(str(path))
            self.run.log_artifact(network)

    def finish(self) -> None:
        self.run.finish()
