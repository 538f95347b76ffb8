"""Write an extracted subnet to disk: its weights, an ONNX file, an exported program."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ofa.backbone import as_call
from ofa.tracing import evaluating


def save_weights(net: nn.Module, path: Path) -> None:
    """All parameters and buffers as safetensors; weights that are tied are written once.

    >>> import tempfile
    >>> from safetensors.torch import load_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(nn.Linear(4, 2), Path(folder) / "weights.safetensors")
    ...     sorted(load_file(Path(folder) / "weights.safetensors"))
    ['bias', 'weight']
    """
    from safetensors.torch import save_model

    save_model(net, str(path))


def export_onnx(net: nn.Module, example_inputs: Any, path: Path) -> None:
    """An ONNX file of the network in evaluation mode, with the example inputs' shapes.

    >>> import tempfile
    >>> import onnx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_onnx(nn.Linear(4, 2), torch.zeros(1, 4), Path(folder) / "network.onnx")
    ...     file = onnx.load(Path(folder) / "network.onnx")
    >>> [size.dim_value for size in file.graph.output[0].type.tensor_type.shape.dim]
    [1, 2]

    Raises:
        RuntimeError: torch gives no program.
    """
    args, kwargs = as_call(example_inputs)
    with evaluating(net), torch.no_grad(), quiet():
        program = torch.onnx.export(net, args, kwargs=kwargs, dynamo=True, verbose=False)
    if program is None:
        raise RuntimeError(f"torch.onnx.export gave no program for {path}")
    program.save(str(path))


def export_program(net: nn.Module, example_inputs: Any, path: Path) -> None:
    """A `torch.export` program: runs without the class's code (`torch.export.load(path).module()`).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_program(nn.Linear(4, 2), torch.zeros(1, 4), Path(folder) / "network.pt2")
    ...     torch.export.load(Path(folder) / "network.pt2").module()(torch.ones(1, 4)).shape
    torch.Size([1, 2])
    """
    args, kwargs = as_call(example_inputs)
    with evaluating(net), torch.no_grad(), quiet():
        torch.export.save(torch.export.export(net, args, kwargs), path)


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
