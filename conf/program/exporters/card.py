"""A network's README: what it is, from what, its figures with their intervals, how to use it, its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

from ofa.conf.program.exporters.exporter import Facts
from ofa.slicing import Plan

CARD = Path(__file__).parent / "templates" / "README.md.txt"
SHOWN = {
    "macs": ("multiply-adds", 1e6, "M"),
    "executed_macs": ("multiply-adds without N:M hardware", 1e6, "M"),
    "params": ("parameters", 1e6, "M"),
    "weight_bytes": ("weights", 1e6, "MB"),
    "peak_bytes": ("largest activations", 1e6, "MB"),
}
"""Costs in a card: in words, the unit's size, the unit."""
LOAD = """In PyTorch, from this folder, with nothing but torch, safetensors and {needs}:

```python
from load import load

network = load()  # in evaluation mode; an ordinary torch.nn.Module
```

It can be trained on, `network.train()`, saved by `torch.save(network.state_dict(), …)`, and exported."""
PREDICT = """

Without PyTorch, with onnxruntime, numpy and Pillow: `python predict.py PICTURE`. `model.onnx` holds the classes and the
preprocessing in its metadata."""
ZEROS = """

Of its weights some are zero in a pattern (`zeros` in `subnet.json`). To keep them while it is trained on:

```python
from load import facts

zeros = facts()["zeros"]
masks = {name: p != 0 for name, p in network.named_parameters() if name in zeros}
# … after each step of the optimiser
with torch.no_grad():
    for name, p in network.named_parameters():
        if name in masks:
            p.mul_(masks[name])
```"""


def card(facts: Facts, plan: Plan, predicts: bool, whole: bool) -> str:
    """The text; `predicts` says whether predict.py is there, `whole` whether load.py gives all of the network."""
    backbone, classes = facts["backbone"], facts["classes"]
    maker = f"`{backbone['name']}` of `{backbone['source']}`"
    seen = picture(facts.get("preprocessing"))
    what = f"A network for {len(classes)} classes ({listed(classes)}){seen}. It is {maker} with smaller layers."
    if not (plan.changes or plan.skipped or plan.zeros):
        what = what.replace(" with smaller layers", ", whole")
    use = LOAD.format(needs=backbone["source"]) + PREDICT * predicts + ZEROS * bool(plan.zeros)
    return Template(CARD.read_text(encoding="utf-8")).substitute(
        name=facts.get("name", "network"),
        what=what,
        figures="\n".join(f"| {name} | {text} |" for name, text in figures(facts)),
        use=use,
        limits="\n".join(f"- {line}" for line in limits(facts, plan, whole)),
    )


def picture(preprocessing: Mapping[str, Any] | None) -> str:
    """What it sees, in words.

    >>> picture({"size": [48, 48], "channels": "grey"})
    ', of grey pictures of 48 x 48 pixels'
    """
    if preprocessing is None:
        return ""
    return f", of {preprocessing['channels']} pictures of {' x '.join(map(str, preprocessing['size']))} pixels"


def listed(classes: list[str], most: int = 12) -> str:
    """The first names.

    >>> listed(["cat", "dog", "owl"], most=2)
    'cat, dog, …'
    """
    return ", ".join([*classes[:most], *(["…"] if len(classes) > most else [])])


def figures(facts: Facts) -> Iterator[tuple[str, str]]:
    """Scores with their intervals, latencies, costs: name and text of each."""
    metrics = facts.get("metrics", {})
    for name, value in metrics.items():
        low, high = (metrics.get(f"{name}{end}") for end in ("_low", "_high"))
        if low is not None and high is not None and not name.startswith("predicted_"):
            yield name.replace("_", " "), f"{value:.4g} (95 %: {low:.4g} to {high:.4g})"
    for name, (words, size, unit) in SHOWN.items():
        if name in metrics:
            yield words, f"{metrics[name] / size:.4g} {unit}"


def limits(facts: Facts, plan: Plan, whole: bool) -> Iterator[str]:
    """What the figures do not say."""
    metrics = facts.get("metrics", {})
    if "test_pictures" in metrics:
        yield (
            f"The scores are of {metrics['test_pictures']:,.0f} test pictures of the data that it was trained on; other"
            " pictures may be harder. The score by which it was chosen (`validation accuracy`) is too good for that."
        )
    for name, device in facts.get("latency", {}).items():
        yield f"`{name}` is of one device: {', '.join(f'{k} {v}' for k, v in device.items() if k != 'device')}."
    if plan.zeros:
        yield "Zeros in patterns make it faster only where hardware and runtime make use of them."
    if not whole:
        yield "Inputs of some layers become sparse in a run; `load.py` leaves that out, `model.onnx` does not."
    yield "A class that is not listed is taken for one that is."
