"""A supernet as ONNX: exported a few times, and sliced for every subnet after that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ofa.export import export_onnx
from ofa.interruptions import interrupts
from ofa.onnx_files.comparison import Expected
from ofa.onnx_files.formulas import Sizes, sizes_of
from ofa.onnx_files.graphs import Unsliceable, open_graph
from ofa.onnx_files.probes import probes
from ofa.onnx_files.template import Template
from ofa.supernet import Supernet

TOLERANCE = 1e-5  # of a sliced file, relative to the network's largest output; real ones differ by 1e-6
ROUNDING = 4  # or so many times what the network's own rounding comes to, where that is more
LEAST, MOST = 2, 4  # probes that a template is learned from

Shapes = tuple[tuple[int, ...], ...]


def silent(text: str) -> None:
    """Nobody listens."""


class OnnxSupernet:
    """Writes ONNX files of a supernet's subnets, as `ofa.export.export_onnx` does, in a fraction of its time.

    The first one takes longer: a template is learned, once for every size of the example inputs that needs its own.
    Each file is compared with its network in onnxruntime; where it differs, or the graph cannot be sliced, the
    exporter writes it, and `say` hears why, once. Weights are the network's own, whatever it has learned meanwhile.

    >>> from tempfile import TemporaryDirectory
    >>> from ofa.onnx_files import difference
    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.ones(1, 4))
    >>> network = supernet.extract(supernet.space.smallest)
    >>> with TemporaryDirectory() as folder:
    ...     OnnxSupernet(supernet, say=print).export(network, torch.ones(1, 4), path := Path(folder) / "model.onnx")
    ...     difference(path, network, torch.ones(1, 4)) < 1e-6
    True
    """

    def __init__(self, supernet: Supernet, say: Callable[[str], None] = silent) -> None:
        self.supernet, self.say = supernet, say
        self.blocks = tuple(block for stage in supernet.conversion.stages for block in stage.blocks)
        self._learners: dict[Shapes, Learner] = {}
        self._said: set[str] = set()

    def export(self, network: nn.Module, example: Any, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """An ONNX file of an extracted subnet in evaluation mode, for any number of samples where it takes them."""
        try:
            self._slice(network, example, path, metadata or {})
        except Exception as error:  # the errors of onnx_ir, onnxruntime and the exporter share no base
            if interrupts(error):
                raise
            self._tell(str(error).partition("\n")[0] or type(error).__name__)
            export_onnx(network, example, path, metadata=metadata)

    def _tell(self, reason: str) -> None:
        if reason not in self._said:
            self.say(f"ONNX is exported, not sliced: {reason}")
        self._said.add(reason)

    def _slice(self, network: nn.Module, example: Any, path: Path, metadata: Mapping[str, str]) -> None:
        """The file from the first template that gives it: of examples of this size, or else of another.

        Raises:
            Unsliceable: none does, or nobody could tell.
        """
        expected = Expected(network, example)
        if expected.moved <= TOLERANCE:
            raise Unsliceable("the network answers the same whatever it is given, which would hide a wrong slice")
        shapes = tuple(tuple(leaf.shape) for leaf in tree_leaves(example) if isinstance(leaf, Tensor))
        if shapes not in self._learners:
            for learner in dict.fromkeys(self._learners.values()):
                if any(fits(known, network, expected, path, metadata) for known in learner.known):
                    self._learners[shapes] = learner
                    return
            self._learners[shapes] = Learner(self.supernet, example, self.blocks)
        for template in self._learners[shapes].templates():
            if fits(template, network, expected, path, metadata):
                return
        raise Unsliceable("a sliced file is not its network")


class Learner:
    """Learns a template from probes, one more each time that the last template did not do."""

    def __init__(self, supernet: Supernet, example: Any, blocks: tuple[str, ...]) -> None:
        self.example, self.blocks = example, blocks
        self.probes = probes(supernet, example)
        self.models: list[ir.Model] = []
        self.sizes: list[Sizes] = []
        self.known: list[Template] = []  # the latest
        self.hopeless: str = ""

    def templates(self) -> Iterator[Template]:
        """What is known, then what more probes show.

        Raises:
            Unsliceable: probes differ in more than what sizes explain.
        """
        yield from self.known
        while len(self.models) < MOST:
            if self.hopeless:
                raise Unsliceable(self.hopeless)
            try:
                self._learn()
            except Unsliceable as reason:
                self.hopeless = str(reason)
                raise
            yield from self.known

    def _learn(self) -> None:
        for _ in range(1 if self.models else LEAST):
            network = next(self.probes)
            self.models.append(open_graph(network, self.example))
            self.sizes.append(sizes_of(network))
        self.known = [Template.of(self.models, self.sizes, self.blocks)]


def fits(template: Template, network: nn.Module, expected: Expected, path: Path, metadata: Mapping[str, str]) -> bool:
    """Write a network's file from a template, and keep it where it is the network, on examples."""
    equal = False
    try:
        model = template.filled(network, tree_leaves(expected.samples[0]), expected.outputs[0])
        model.metadata_props.update(metadata)
        torch.onnx.ONNXProgram(model, None).save(str(path))
        found = expected.difference(path)
        equal = found <= TOLERANCE or found <= ROUNDING * expected.rounding
    except Exception as error:  # what onnx_ir and onnxruntime say of graphs that are none has no common base
        if interrupts(error):
            raise
    finally:
        if not equal:
            path.unlink(missing_ok=True)
    return equal
