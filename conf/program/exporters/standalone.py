"""The small files that make a network's folder one that needs no ofa-lab: load.py, predict.py, README.md."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ofa.conf.program.exporters.card import card
from ofa.conf.program.exporters.exporter import Exporter, Facts, distance, output
from ofa.files import write_text
from ofa.persistence import network_content
from ofa.slicing import Plan

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("load.py", "predict.py", "README.md")
"""Files that their owner may change."""


@dataclass(frozen=True)
class Standalone(Exporter):
    """`load.py` rebuilds the network from its backbone's library, `predict.py` runs ONNX, `README.md` is a card.

    A backbone from a file of yours has a copy of it beside them. What `load.py` rebuilds is compared with the network;
    outputs may differ by `tolerance`, relative to the largest. `predict.py` is written of networks that classify.
    """

    name: ClassVar[str] = "standalone"
    file: ClassVar[str] = "load.py"
    needs: ClassVar[tuple[str, ...]] = ("weights",)
    tolerance: float = 1e-5

    def write(self, network: nn.Module, example: Tensor, path: Path, plan: Plan, facts: Facts) -> Mapping[str, float]:
        folder, backbone = path.parent, facts["backbone"]
        file = own_file(backbone["source"])
        if file is not None and file.name in SCRIPTS:
            raise ValueError(f"{file} has the name of a file that is written beside it: give it another")
        if file is not None:
            shutil.copyfile(file, folder / file.name)
        write_text(path, loader(facts.get("name", folder.name), backbone, file))
        whole = self.check(network, example, path, plan)
        classifies = output(network, example).shape == (1, len(facts["classes"]))
        predicts = classifies and (folder / "model.onnx").is_file()
        if predicts:
            shutil.copyfile(TEMPLATES / "predict.py.txt", folder / "predict.py")
        write_text(folder / "README.md", card(facts, plan, predicts, whole))
        return {}

    def check(self, network: nn.Module, example: Tensor, path: Path, plan: Plan) -> bool:
        """Whether `load.py` gives all of the network; False where inputs of its layers become sparse, too.

        Raises:
            ValueError: what it gives is another network.
        """
        try:
            with torch.random.fork_rng(devices=[]), own_path():
                again: nn.Module = runpy.run_path(str(path))["build"](network_content(network, plan))
            again.load_state_dict(network.state_dict())
        except Exception as error:  # a user's factory may raise anything
            told = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} does not rebuild the network: {type(error).__name__}: {told}") from error
        again.to(example.device).eval()
        if hooks(again) != hooks(network):
            return False
        distance(output(again, example), output(network, example), path, self.tolerance)
        return True


def hooks(network: nn.Module) -> int:
    """How many functions change what goes into layers."""
    return sum(len(module._forward_pre_hooks) for module in network.modules())


@contextmanager
def own_path() -> Iterator[None]:
    """Inside, what is added to the path stays off it later."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before


def own_file(source: str) -> Path | None:
    """The file of a backbone that stands in a file of one's own, not in a package."""
    if source in ("timm", "torchvision") or "." in source:
        return None
    file = Path(sys.modules[source].__file__ or "")  # it has made the network
    return file if file.name == f"{source}.py" else None


def loader(name: str, backbone: Mapping[str, Any], file: Path | None) -> str:
    """The text of `load.py`."""
    source = backbone["source"]
    told = ", ".join(f"{key}={value!r}" for key, value in backbone["arguments"].items())
    first = f'"{backbone["name"]}"'
    library, call = {
        "timm": ("import timm", f"timm.create_model({first}, {told})"),
        "torchvision": ("import torchvision", f"torchvision.models.get_model({first}, {told})"),
    }.get(source, (f"import {source} as own", f"own.{backbone['name']}({told})"))
    plain = ["import torch", "from safetensors.torch import load_model"]
    words = {"name": name, "needs": source if file is None else f"what {file.name} imports", "factory": call}
    text = Template((TEMPLATES / "load.py.txt").read_text(encoding="utf-8")).substitute(
        words,
        standard="from pathlib import Path" if file is None else "import sys\nfrom pathlib import Path",
        libraries="\n".join(sorted([*plain, library] if file is None else plain, key=module_of)),
    )
    return text if file is None else text.replace(HERE, HERE + OWN.format(source=source))


HERE = "HERE = Path(__file__).resolve().parent\n"
OWN = """
sys.path.insert(0, str(HERE))
import {source} as own  # noqa: E402

if Path(own.__file__).read_bytes() != (HERE / "{source}.py").read_bytes():
    raise ImportError(f"another {source}.py is imported already: {{own.__file__}}")
"""


def module_of(line: str) -> tuple[bool, str]:
    """How imports are sorted.

    >>> sorted(["from b import c", "import d", "import a"], key=module_of)
    ['import a', 'import d', 'from b import c']
    """
    found = re.split(r"\s+", line)
    return found[0] == "from", found[1]
