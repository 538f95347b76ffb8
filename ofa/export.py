"""Write an extracted subnet to disk, and read it again: its weights, an ONNX file, an exported program."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from ofa.backbone import as_call
from ofa.digests import read_sealed
from ofa.interruptions import interrupts
from ofa.persistence import plan_from_json
from ofa.slicing import reduced
from ofa.tracing import evaluating


def save_weights(net: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """All parameters and buffers as safetensors, with metadata; weights that are tied are written once.

    >>> import tempfile
    >>> from safetensors.torch import load_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(nn.Linear(4, 2), Path(folder) / "weights.safetensors")
    ...     sorted(load_file(Path(folder) / "weights.safetensors"))
    ['bias', 'weight']
    """
    from safetensors.torch import save_model

    save_model(net, str(path), dict(metadata or {}))
    path.chmod(path.parent.stat().st_mode & 0o666)  # for whom the folder is: safetensors' are the owner's alone


def load_network(backbone: nn.Module, folder: str | Path) -> nn.Module:
    """A network that a run has exported, plain PyTorch: the backbone, as small as `subnet.json` in its folder says.

    It has the weights of `weights.safetensors` beside it, and is in evaluation mode. `backbone` is the network that the
    run began with, with any weights.

    >>> from tempfile import TemporaryDirectory
    >>> from ofa import Supernet
    >>> from ofa.digests import write_sealed
    >>> from ofa.persistence import plan_content
    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.ones(1, 4))
    >>> net, plan = supernet.extract(supernet.space.smallest), supernet.plan(supernet.space.smallest)
    >>> with TemporaryDirectory() as folder:
    ...     save_weights(net, Path(folder) / "weights.safetensors")
    ...     write_sealed(Path(folder) / "subnet.json", plan_content(plan), ["weights.safetensors"])
    ...     again = load_network(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), folder)
    >>> torch.equal(again(torch.ones(1, 4)), net(torch.ones(1, 4)))
    True

    Raises:
        ValueError: a file is missing or was changed, or is of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    facts, weights = (Path(folder) / name for name in ("subnet.json", "weights.safetensors"))
    net = reduced(backbone, plan_from_json(json.dumps(read_sealed(facts))))
    if not weights.is_file():
        raise ValueError(f"{weights} is missing: a run leaves it where export.files names weights")
    try:
        load_model(net, str(weights))
    except (RuntimeError, SafetensorError) as error:
        told = " ".join(str(error).split())[:200]
        raise ValueError(f"{weights} does not fit the network that {facts} makes of the backbone: {told}") from None
    return net.eval()


def export_onnx(
    net: nn.Module,
    example_inputs: Any,
    path: Path,
    dynamic_batch: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """An ONNX file of the network in evaluation mode, for any number of samples and the example inputs' other sizes.

    A network that cannot do without its own batch size, and any with `dynamic_batch=False`, gets the example's.
    `metadata` stands in the file's `metadata_props`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     export_onnx(nn.Linear(4, 2), torch.zeros(1, 4), path := Path(folder) / "model.onnx")
    ...     import onnxruntime
    ...     session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ...     session.get_inputs()[0].shape
    ['batch', 4]
    """
    program = onnx_program(net, example_inputs, dynamic_batch)
    program.model.metadata_props.update(metadata or {})
    program.save(str(path))


def onnx_program(
    net: nn.Module, example_inputs: Any, dynamic_batch: bool = True, optimize: bool = True
) -> torch.onnx.ONNXProgram:
    """What `export_onnx` writes; without `optimize` as the exporter translates it, operator by operator.

    >>> program = onnx_program(nn.Linear(4, 2), torch.zeros(1, 4), optimize=False)
    >>> [node.op_type for node in program.model.graph]
    ['Gemm']
    """
    args, kwargs = as_call(example_inputs)
    with evaluating(net), torch.no_grad(), quiet():
        program = _any_batch(net, args, kwargs, optimize) if dynamic_batch else None
        return program or _as_given(net, args, kwargs, optimize)


def _as_given(net: nn.Module, args: Any, kwargs: Any, optimize: bool, shapes: Any = None) -> torch.onnx.ONNXProgram:
    program = torch.onnx.export(
        net, args, kwargs=kwargs, dynamic_shapes=shapes, dynamo=True, verbose=False, optimize=optimize
    )
    assert program is not None
    return program


def _any_batch(net: nn.Module, args: Any, kwargs: Any, optimize: bool) -> torch.onnx.ONNXProgram | None:
    """The program whose tensors' first dimension may be any, or None where the network fixes it.

    The exporter takes a dimension of 1 as fixed, so that it sees the example twice.
    """
    batch = torch.export.Dim("batch")
    more: tuple[Any, Any] = tree_map_only(Tensor, lambda t: torch.cat([t, t]) if t.dim() else t, (args, kwargs))
    shapes = tree_map(lambda leaf: {0: batch} if isinstance(leaf, Tensor) and leaf.dim() else None, more)
    named = inspect.signature(net.forward).bind(*shapes[0], **shapes[1]).arguments
    try:
        return _as_given(net, *more, optimize, named)
    except Exception as error:  # the exporter's errors share no base
        if interrupts(error):
            raise
        return None


def export_program(net: nn.Module, example_inputs: Any, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """A `torch.export` program: runs without the class's code (`torch.export.load(path).module()`).

    Each entry of `metadata` is an extra file in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_program(nn.Linear(4, 2), torch.zeros(1, 4), Path(folder) / "network.pt2")
    ...     torch.export.load(Path(folder) / "network.pt2").module()(torch.ones(1, 4)).shape
    torch.Size([1, 2])
    """
    args, kwargs = as_call(example_inputs)
    with evaluating(net), torch.no_grad(), quiet():
        extra, program = dict(metadata or {}), torch.export.export(net, args, kwargs)
        torch.export.save(program, whole := io.BytesIO(), extra_files=extra)
    path.write_bytes(whole.getbuffer())  # torch ends the process where it writes itself and the disk is full


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters' own progress and deprecation notes are not for this program's users.

    >>> with quiet():
    ...     print("progress of an exporter")
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
