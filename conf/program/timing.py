"""The console program `ofa-latency`: how long networks take on a device, measured, and predicted from others."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ofa.conf.program.arguments import refused, words_or_usage
from ofa.conf.program.building import build, converted, hint, options

if TYPE_CHECKING:
    from rich.table import Table

    from ofa.search import LatencyModel
    from ofa.search.latency import Artefact, Measurement

NAME = "ofa-latency"
USAGE = """ofa-latency: how long networks take on a device, measured in turns, and predicted from others measured there.

  ofa-latency net=resnet50,mobilenetv3_small_100,my.pkg.net size=224
  ofa-latency net=resnet50 device=torch_cpu device.threads=2 device.clock=wall
  ofa-latency net=resnet18 device=remote 'device.command=ssh pi run m {{runs}}' 'device.copy=scp {{onnx}} pi:m'

  net      networks of timm, torchvision/NAME, package.module.factory, path/to/net.py:make, with commas between
  device   {devices}; its settings below it, such as device.seconds=2
  size     pixels of an edge of the picture: 224
  classes  outputs of the networks: 1000
  file     where measurements are kept and known ones are found: cache (~/.cache/ofa-lab/devices), or a path
  afresh   measure again what the file knows: false
  csv      also write all measurements of the device there, with their features

Six or more other networks in the file are enough for predictions, which are made before anything is measured."""
LEAST = 6  # networks that a model is fitted to


@dataclass(frozen=True)
class Question:
    """What was asked: which networks, on which device (a name, or a node of settings), and what to do with it.

    >>> Question.parse(["net=resnet18,resnet34", "size=64", "device.threads=2"]).net
    ('resnet18', 'resnet34')
    """

    net: tuple[str, ...]
    device: dict[str, Any]
    size: int = 224
    classes: int = 1000
    file: str = "cache"
    afresh: bool = False
    csv: str | None = None

    @classmethod
    def parse(cls, words: Sequence[str]) -> Question:
        """From `name=value` words.

        Raises:
            ValueError: a word that is none, an unknown name (close ones are shown), a wrong value, or no network.
        """
        names, kinds = (
            [f.name for f in fields(cls)],
            {"size": int, "classes": int, "afresh": bool, "file": str, "csv": str},
        )
        for word in words:
            name = word.partition("=")[0].partition(".")[0]
            if "=" not in word or name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                raise ValueError(f"{word}: settings are given as name=value; {hint(name, close or names)}")
        given, devices = [w for w in words if not w.startswith("device")], [w for w in words if w.startswith("device")]
        values = dict(word.split("=", 1) for word in given)
        nets = tuple(name.strip() for name in values.pop("net", "").split(",") if name.strip())
        if not nets:
            raise ValueError("net=… names the networks, with commas between")
        known = {name: converted(value, kinds[name], name) for name, value in values.items()}
        return cls(nets, _device(devices), **known)


def _device(words: Sequence[str]) -> dict[str, Any]:
    """The node of a device: the file that `device=` names, with what stands below it."""
    chosen = next((w.partition("=")[2] for w in words if w.startswith("device=")), "onnxruntime_cpu")
    known = options("latency")
    if chosen not in known:
        raise ValueError(f"device={chosen}: there is no device {chosen!r}; {hint(chosen, sorted(known))}")
    try:
        more = OmegaConf.from_dotlist([w.removeprefix("device.") for w in words if w.startswith("device.")])
        node = OmegaConf.merge(OmegaConf.create(known[chosen].read_text(encoding="utf-8")), more)
    except OmegaConfBaseException as error:
        raise ValueError(f"device: {str(error).splitlines()[0]}") from None
    plain = OmegaConf.to_container(node)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def answer(question: Question) -> Table:
    """Predict, measure, and give the table.

    Raises:
        ValueError: no such network or device, a network that the device cannot run, or a file that cannot be used.
    """
    from ofa.search.latency import DeviceFile, LatencyDevice, Meter

    device: LatencyDevice = build({**question.device, "file": question.file}, "device", LatencyDevice)
    artefacts = [_artefact(name, question) for name in question.net]
    with DeviceFile.of(device, Path()) as file:
        known = file.measurements
        digests = {artefact.digest for artefact in artefacts}
        model = fitted([one for graph, one in known.items() if graph not in digests])
        largest = max(artefacts, key=lambda artefact: artefact.features.get("macs", 0.0))
        found = Meter(device, file, largest).measure(artefacts, question.net, question.afresh)
        if question.csv is not None:
            file.to_csv(question.csv)
    return table(question, artefacts, found, model)


def _artefact(name: str, question: Question) -> Artefact:
    import torch

    from ofa.search.latency import Artefact
    from ofa.train import create

    torch.manual_seed(0)
    network = create(name, num_classes=question.classes).eval()
    try:
        artefact = Artefact(network, torch.rand(1, 3, question.size, question.size))
        _ = artefact.features
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return artefact


def fitted(known: Sequence[Measurement]) -> LatencyModel | None:
    """The model of what was measured on the device before; None of too few networks."""
    from ofa.search import LatencyModel
    from ofa.search.prediction import Table as Features

    if len(known) < LEAST:
        return None
    features = Features.of_rows([one.features for one in known]).features
    return LatencyModel.fit(features, [one.latency.median_ms for one in known])


def table(
    question: Question, artefacts: Sequence[Artefact], found: Sequence[Measurement], model: LatencyModel | None
) -> Table:
    """One network a row, in the order given."""
    from rich.table import Table

    from ofa.search.objectives import Macs
    from ofa.search.prediction import Table as Features

    held = "" if model is None else f"; {model.held_out}"
    shown = Table(title=f"{question.device['_target_'].rpartition('.')[2]}, {question.size} pixels{held}")
    for title in ("network", "MACs", "measured", "interval", *(("predicted", "band") if model else ())):
        shown.add_column(title, justify="left" if title == "network" else "right", no_wrap=True)
    for name, artefact, one in zip(question.net, artefacts, found, strict=True):
        latency = one.latency
        cells = [Macs().written(artefact.features.get("macs", 0.0)), f"{latency.median_ms:.4g} ms"]
        cells.append(f"{latency.low_ms:.4g} to {latency.high_ms:.4g}")
        if model is not None:
            features = Features.of_rows([artefact.features]).features
            low, high = (float(end[0]) for end in model.interval(features))
            cells += [f"{float(model.predict(features)[0]):.4g} ms", f"{low:.4g} to {high:.4g}"]
        shown.add_row(name, *cells)
    return shown


def main() -> None:
    """Entry point."""
    words = words_or_usage(USAGE.format(devices=", ".join(sorted(options("latency")))))
    try:
        from rich.console import Console

        result = answer(Question.parse(words))
    except (ValueError, OSError) as error:
        refused(NAME, error)
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(result)


if __name__ == "__main__":
    main()
