"""Pruning information: what was removed from each module, and the plan that makes the slim network without tracing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ofa.files import write_text
from ofa.persistence import plan_to_json
from ofa.search.vitis.groups import output_axis
from ofa.search.vitis.names import is_depthwise
from ofa.slicing import Index, Plan


def write_information(path: str | Path, model: nn.Module, plan: Plan, facts: Mapping[str, Any]) -> None:
    """Write what `plan` removes from `model`, module by module, and the plan itself."""
    modules = dict(model.named_modules())
    names = dict.fromkeys(name.rpartition(".")[0] for name in plan.indices)
    rows = {name: removed_from(name, modules[name], plan) for name in names}
    content = {"network": type(model).__name__, **facts, "modules": rows}
    write_text(Path(path), plan_to_json(plan, content))


def removed_from(name: str, module: nn.Module, plan: Plan) -> dict[str, Any]:
    """The indices of a module's removed output and input channels, and how many of each stay."""
    tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    local, weight = max(tensors.items(), key=lambda item: item[1].ndim)
    index = plan.indices.get(f"{name}.{local}" if name else local, (None,) * weight.ndim)
    axis = output_axis(module, weight.ndim) or 0
    wide, narrow = (getattr(module, attribute, 0) for attribute in ("out_channels", "in_channels"))
    outputs = removed(index[axis], weight.shape[axis], wide)
    if weight.ndim < 2 or is_depthwise(module):
        multiplier = max(wide // max(narrow, 1), 1)
        inputs, narrow = sorted({i // multiplier for i in outputs}), narrow or weight.shape[axis]
    else:
        inputs, narrow = removed(index[1 - axis], weight.shape[1 - axis], narrow), narrow or weight.shape[1 - axis]
    stay = {"out_dim": (wide or weight.shape[axis]) - len(outputs), "in_dim": narrow - len(inputs)}
    return {"removed_outputs": outputs, "removed_inputs": inputs, **stay}


def removed(index: Index, size: int, channels: int) -> list[int]:
    """The positions that are not kept along a dimension; where it holds the channels of one group of `channels` only,
    those of every group."""
    groups = max(channels // size, 1)
    kept = torch.zeros(groups, size, dtype=torch.bool)
    if isinstance(index, torch.Tensor) and index.ndim > 1:
        kept.scatter_(1, index, True)
    else:
        kept[:, slice(None) if index is None else index] = True
    return torch.nonzero(~kept.flatten()).flatten().tolist()
