"""A dispatch mode that carries channel labels beside every tensor, and what it writes down."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ofa.arrays import IntArray
from ofa.tracing.labels import Demands, Labels, Operand, edge, varying

TURNS = ("permute", "transpose")  # views that other runtimes copy


@dataclass(frozen=True)
class Tracked:
    """What is known of a tensor: its label layers, whether it depends on the input, and what it adds something to."""

    layers: tuple[Tensor, ...] = ()
    dependent: bool = False
    token: int = 0
    roots: frozenset[int] = frozenset()


@dataclass(frozen=True)
class CostTerm:
    """A cost: `constant` times the number of kept labels in each vector, paid when `module` runs.

    A linear layer of 4 inputs that stay and 3 outputs, labels 1 to 3, costs 12 MACs; 8 where one of them is removed.

    >>> term = CostTerm(4, (np.arange(1, 4),), "linear", "head")
    >>> term.constant * len(term.vectors[0])
    12
    """

    constant: int
    vectors: tuple[IntArray, ...]
    kind: str
    module: str


@dataclass(frozen=True)
class Work:
    """An operator that computes something from the input, and what it costs: views do not.

    `macs` are those of its contractions, two of an attention; `reads` and `writes` the bytes of activations, `weights`
    those of parameters. The result has so many `positions` for each of its labels, in the whole batch.

    >>> Work("relu", CostTerm(256, (), "relu", "act"), (), (), (), positions=64).writes.constant
    256
    """

    kind: str
    writes: CostTerm
    reads: tuple[CostTerm, ...]
    weights: tuple[CostTerm, ...]
    macs: tuple[CostTerm, ...]
    positions: int


@dataclass(frozen=True)
class SizeUse:
    """A size that an operator was called with in `module`, and the labels that it counts (scale × kept + offset).

    `role` says what the size is to the operator: in, out, groups, kernel, padding, size, or several sizes.

    >>> reshape = SizeUse("attention", "size", 8, (np.arange(1, 5),), scale=2.0)  # 4 heads of 2 channels
    >>> reshape.scale * len(reshape.vectors[0]) + reshape.offset
    8.0
    """

    module: str
    role: str
    value: int | tuple[int, ...]
    vectors: tuple[IntArray, ...]
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Kernel:
    """An odd square kernel: the labels along its edge, shape (size,), and the padding that the operator was given."""

    module: str
    vector: IntArray
    same_padding: bool


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module with a single tensor in and a single tensor of the same shape out.

    `source` and `result` number the tensors: a call whose source is another's result follows it. `residual` says that
    it adds something to its input.

    >>> ModuleCall("block2", source=3, result=7, residual=True).residual
    True
    """

    module: str
    source: int
    result: int
    residual: bool
    buffers: tuple[int | None, int | None] = (None, None)  # input and output, as numbers of allocations


@dataclass(frozen=True)
class Trace:
    """Everything that one run of a network told.

    `parameters` are the labels along each dimension of each parameter and buffer, `demands` what operators want of
    labels, `macs` and `bytes` (of activations, per operator that allocates) the costs, `work` the operators in order,
    `size_uses` the sizes that the network's code may know, `calls` the modules that may be residual blocks, `faults`
    rules that failed, and how.
    `alive` are, at each moment at which memory is taken, the module that runs, (moments,), and which of `bytes` are in
    memory, (moments, buffers); `ran` the modules that ran, `batch` the samples that costs are for.

    >>> from ofa.tracing import trace
    >>> found = trace(nn.Linear(4, 3), (torch.zeros(2, 4),), {})
    >>> found.batch, list(found.parameters), len(found.macs), found.faults
    (2, ['weight', 'bias'], 1, ())
    """

    parameters: Mapping[str, Sequence[IntArray | None]]
    demands: Demands
    macs: tuple[CostTerm, ...]
    bytes: tuple[CostTerm, ...]
    alive: tuple[list[str], npt.NDArray[np.bool_]]
    work: tuple[Work, ...]
    size_uses: tuple[SizeUse, ...]
    kernels: tuple[Kernel, ...]
    calls: tuple[ModuleCall, ...]
    ran: frozenset[str]
    faults: tuple[str, ...]
    batch: int


class Memory(Protocol):
    """What the tracer tells about the life of tensors."""

    products: list[CostTerm]

    def alive(self) -> tuple[list[str], npt.NDArray[np.bool_]]: ...

    def ignore(self, tensor: Tensor) -> None: ...

    def begin(self, module: str) -> None: ...

    def note(self, tensor: Tensor, layers: Sequence[Tensor]) -> None: ...

    def index(self, tensor: Tensor) -> int | None: ...


class Tracer(TorchDispatchMode):
    """Runs the rule of every operator that is dispatched, and notes what they say until the run is `traced`.

    Operators without a rule freeze what they touch.
    """

    def __init__(self, model: nn.Module, rule_for: Callable[[Any, Call], Any], memory: Memory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rule_for = rule_for
        self.labels = Labels()
        self.parameters: dict[str, list[IntArray | None]] = {}
        self.macs: list[CostTerm] = []
        self.work: list[Work] = []
        self.size_uses: list[SizeUse] = []
        self.kernels: list[Kernel] = []
        self.calls: list[ModuleCall] = []
        self.ran: set[str] = set()
        self.faults: list[str] = []
        self.batch = 1
        self.known: Any = WeakTensorKeyDictionary()
        self.memory = memory
        self.stack: list[str] = [""]
        self.tokens = itertools.count(1)
        self.why = ""
        self._label_parameters(model)

    def traced(self) -> Trace:
        """What was noted, as a value."""
        return Trace(
            self.parameters,
            self.labels.demands(),
            tuple(self.macs),
            tuple(self.memory.products),
            self.memory.alive(),
            tuple(self.work),
            tuple(self.size_uses),
            tuple(self.kernels),
            tuple(self.calls),
            frozenset(self.ran),
            tuple(self.faults),
            self.batch,
        )

    @property
    def module(self) -> str:
        return self.stack[-1]

    def note_sizes(self, tensors: Any) -> None:
        """Remember the sizes that code of the running module can read from these tensors."""
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                for layer in self.tracked(tensor).layers:
                    for d in varying(layer):
                        self.add_size_use("size", [edge(layer, d)])

    def _label_parameters(self, model: nn.Module) -> None:
        tensors = itertools.chain(model.named_parameters(), model.named_buffers())
        for name, tensor in tensors:
            layers, vectors = [], []
            for d, size in enumerate(tensor.shape):
                vectors.append(None if size <= 1 else self.labels.fresh(size).numpy())
                if vectors[-1] is not None:
                    shape = [1] * tensor.ndim
                    shape[d] = size
                    layers.append(torch.from_numpy(vectors[-1]).reshape(shape))
            self.parameters[name] = vectors
            self.known[tensor] = Tracked(tuple(layers))
            self.memory.ignore(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        names = [argument.name for argument in func._schema.arguments]
        inputs = dict(zip(names, args, strict=False)) | kwargs
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        # In-place operators change what is known of their first argument: ask before running.
        shapes, strides = tuple(tuple(t.shape) for t in tensors), tensors[0].stride() if tensors else ()
        self.memory.begin(self.module)
        before = Call(func.overloadpacket.__name__, inputs, tensors, shapes, strides)
        moved, counted = self._bytes(before.name, tensors), len(self.macs)
        result = func(*args, **kwargs)
        self.why = f"{before.name} in {self.module or 'the network'}{site()}"
        dependent = any(self.tracked(t).dependent for t in tensors)
        rule = self.rule_for(func, before)
        layers = rule(self, before, result)
        self._remember(before, result, layers, dependent)
        self._note_work(before, result, moved, tuple(self.macs[counted:]))
        return result

    def _bytes(self, name: str, tensors: Sequence[Tensor]) -> list[tuple[CostTerm, bool]]:
        """The bytes of tensors, and whether they depend on the input."""
        known = ((tensor, self.tracked(tensor)) for tensor in tensors if tensor.numel())
        return [(bytes_of(tensor, own.layers, name, self.module), own.dependent) for tensor, own in known]

    def _note_work(
        self, call: Call, result: Any, moved: list[tuple[CostTerm, bool]], macs: tuple[CostTerm, ...]
    ) -> None:
        """An operator that reads an activation, and is no view of it or turns it."""
        reads = tuple(term for term, dependent in moved if dependent)
        out = next((t for t in tree_leaves(result) if isinstance(t, Tensor) and t.numel()), None)
        view = not call.name.endswith("_") and any(out is not None and share_memory(out, t) for t in call.tensors)
        turned = out is not None and call.name in TURNS and not out.is_contiguous()
        if out is None or not reads or (view and not turned):
            return
        weights = tuple(term for term, dependent in moved if not dependent)
        [(writes, _)] = self._bytes(call.name, [out])
        self.work.append(Work(call.name, writes, reads, weights, macs, writes.constant // out.element_size()))

    def _remember(self, call: Call, result: Any, layers: Any, dependent: bool) -> None:
        outputs = [result] if isinstance(result, Tensor) else list(result) if isinstance(result, (tuple, list)) else []
        per_output = layers if isinstance(layers, list) else [layers] * len(outputs)
        roots = self._roots(call)
        for out, out_layers in zip(outputs, per_output, strict=True):
            if isinstance(out, Tensor):
                layers_kept = tuple(self._checked(out_layers))
                self.known[out] = Tracked(layers_kept, dependent, next(self.tokens), roots)
                if dependent:
                    self.memory.note(out, layers_kept)

    def _checked(self, layers: Any) -> Iterator[Tensor]:
        """Layers without those that no longer vary: a literal index into channels keeps its channel."""
        for layer in layers:
            if varying(layer):
                yield layer
            elif layer.numel():
                self.labels.freeze(layer, f"a literal index: {self.why}")

    def _roots(self, call: Call) -> frozenset[int]:
        """The tensors that the result is equal to plus something: an addition's operands, or its only operand's own."""
        sources = [self.tracked(t) for t in call.tensors]
        if call.name in ("add", "add_"):
            return frozenset().union(*(s.roots | {s.token} for s in sources))
        return sources[0].roots if len(sources) == 1 else frozenset()

    def tracked(self, tensor: Tensor) -> Tracked:
        found = self.known.get(tensor)
        return found if found is not None else Tracked()

    def operand(self, tensor: Tensor) -> Operand:
        known = self.tracked(tensor)
        labelled = {d for layer in known.layers for d in varying(layer)}
        rigid = {d for d, size in enumerate(tensor.shape) if size > 1 and d not in labelled}
        if not known.dependent:
            rigid = {d for d in rigid if differs(tensor, d)}
        return Operand(tuple(tensor.shape), known.layers, frozenset(rigid))

    def vector(self, tensor: Tensor, dim: int) -> Tensor | None:
        """Labels along one dimension, shape (size,); zeros if its size is fixed, None if it follows other sizes."""
        operand, found = self.operand(tensor), None
        for layer in operand.layers:
            if dim not in varying(layer):
                continue
            tied = self.labels.tie(layer, set(varying(layer)) - {dim}, self.why)
            if tied is not None:
                if found is not None:
                    self.labels.freeze(tied, self.why)
                found = tied.reshape(-1)
        if found is None and (dim in operand.rigid or tensor.shape[dim] == 1):
            return torch.zeros(tensor.shape[dim], dtype=torch.int64)
        return found

    def add_macs(self, constant: int, vectors: list[Tensor], kind: str) -> None:
        arrays = tuple(v.numpy().ravel() for v in vectors)
        self.macs.append(CostTerm(constant, arrays, kind, self.module))

    def add_size_use(
        self, role: str, vectors: Sequence[Tensor | None], scale: float = 1.0, offset: float = 0.0
    ) -> None:
        """Remember a size (one vector) or a tuple of sizes; roles ending in 's' are tuples."""
        if any(v is None for v in vectors):
            return
        arrays = tuple(v.numpy().ravel() for v in vectors if v is not None)
        values = tuple(round(scale * len(a) + offset) for a in arrays)
        value = values if role in ("kernel", "padding", "sizes") else values[0]
        self.size_uses.append(SizeUse(self.module, role, value, arrays, scale, offset))


@dataclass(frozen=True)
class Call:
    """One dispatched operator: its name without overload, its arguments by name, its tensors as they were before."""

    name: str
    inputs: Mapping[str, Any]
    tensors: list[Tensor]
    shapes: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.inputs.get(name)


def bytes_of(tensor: Tensor, layers: Sequence[Tensor], kind: str, module: str) -> CostTerm:
    """The bytes of a tensor as a cost, its labels in `layers`.

    >>> bytes_of(torch.zeros(1, 3, 8), [torch.arange(1, 4).reshape(1, 3, 1)], "relu", "act").constant  # of a channel
    32
    """
    labelled = {d for layer in layers for d in varying(layer)}
    free = (size for d, size in enumerate(tensor.shape) if d not in labelled)
    vectors = tuple(layer.numpy().ravel() for layer in layers)
    return CostTerm(tensor.element_size() * math.prod(free), vectors, kind, module)


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether one is a view of the other, or both of a third."""
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)


def site() -> str:
    """File and line of the user's code that is running, as ` (package/file.py:12)`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = shown(frame.f_code.co_filename)
        if name:
            return f" ({name}:{frame.f_lineno})"
        frame = frame.f_back
    return ""


@functools.cache
def shown(filename: str) -> str:
    """The last two parts of a user's file, nothing for torch's and this package's own."""
    path = Path(filename)
    own = path.suffix != ".py" or Path(__file__).parents[1] in path.parents or "torch" in path.parts
    return "" if own else "/".join(path.parts[-2:])


def differs(tensor: Tensor, dim: int) -> bool:
    """Whether a constant's values vary along a dimension."""
    if tensor.stride(dim) == 0 or tensor.shape[dim] <= 1:
        return False
    return not bool((tensor == tensor.narrow(dim, 0, 1)).all())


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module's own flag returns.

    >>> network = nn.Dropout()
    >>> with evaluating(network):
    ...     network.training
    False
    >>> network.training
    True
    """
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag
