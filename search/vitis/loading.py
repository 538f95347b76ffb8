"""Slim networks for weights that are there already: the layers of a network become as small as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ofa.search.vitis.errors import OptimizerError
from ofa.search.vitis.names import is_depthwise
from ofa.search.vitis.sparse_and_slim import cut, read_plan, slim_network
from ofa.slicing import Change, State, aliases, find_owners


def slim_model_from_state_dict(model: nn.Module, state_dict: State) -> nn.Module:
    """`model` with layers as small as the weights of a slim network, which it has from then on; nothing is traced.

    As there, `model` itself is changed, and given back. Convolutions, also depthwise ones and such in groups, linear
    layers, embeddings, and normalisations but those of groups; what else a network knows of its widths (heads of an
    attention) is in the pruning information: `transform_to_slim_model`.

    Raises:
        OptimizerError: names are missing or unknown, or it is not to be seen from the weights what a layer becomes.
    """
    whole = model.state_dict()
    if whole.keys() != state_dict.keys():
        differ = sorted(whole.keys() ^ state_dict.keys())
        raise OptimizerError(f"these weights are not of a {type(model).__name__}: {differ[:3]} is in one of both alone")
    smaller = {name for name, tensor in state_dict.items() if tensor.shape != whole[name].shape}
    changes = [
        Change(path, attribute, value)
        for path, module in model.named_modules()
        if any(name.rpartition(".")[0] == path for name in smaller)
        for attribute, value in attributes_of(path, module, parts_of(path, state_dict))
    ]
    return reshaped(model, state_dict, changes)


def transform_to_slim_model(model: nn.Module, state_dict: State, json_path: str | Path) -> nn.Module:
    """`model` as the slim network of a pruning-info file, with weights of the sparse or the slim one, without tracing.

    As there, `model` itself is changed, and given back.

    Raises:
        ValueError: the file is no pruning-info file, or of another network, or the weights are.
    """
    plan, state = read_plan(json_path), dict(state_dict)
    slim, whole = slim_network(model, plan), model.state_dict()
    if all(name in whole and whole[name].shape == tensor.shape for name, tensor in state.items()):
        state = cut(state, plan, aliases(model))
    try:
        slim.load_state_dict(state)
    except RuntimeError as error:
        raise OptimizerError(f"these weights are not of the network in {json_path}: {error}") from None
    return reshaped(model, slim.state_dict(), plan.changes)


def reshaped(model: nn.Module, state: State, changes: Sequence[Change]) -> nn.Module:
    """`model` with the tensors of `state` in its own and with changed attributes; parameters stay the same objects."""
    with torch.no_grad():
        for name, places in find_owners(model).items():
            for module, local in places:
                if name in state:
                    put_in(module, local, state[name])
    for change in changes:
        setattr(model.get_submodule(change.module), change.attribute, change.value)
    model.load_state_dict(state)
    return model


def put_in(module: nn.Module, local: str, tensor: Tensor) -> None:
    parameter = module._parameters.get(local)
    if parameter is None:
        module._buffers[local] = tensor.detach().to(getattr(module, local)).clone()
    elif parameter.shape != tensor.shape:
        parameter.data, parameter.grad = tensor.detach().to(parameter).clone(), None


def parts_of(path: str, state: State) -> dict[str, Tensor]:
    """The tensors of a module by their own names."""
    return {name.rpartition(".")[2]: tensor for name, tensor in state.items() if name.rpartition(".")[0] == path}


def attributes_of(
    path: str, module: nn.Module, parts: Mapping[str, Tensor]
) -> Iterator[tuple[str, int | tuple[int, ...]]]:
    """The attributes of a module that repeat the sizes of its tensors.

    Raises:
        OptimizerError: they are not known of such a module.
    """
    tensor = next(iter(parts.values()))
    match module:
        case nn.modules.conv._ConvNd():
            yield from channels_of(module, parts["weight"])
        case nn.Linear():
            yield from zip(("out_features", "in_features"), parts["weight"].shape, strict=True)
        case nn.modules.batchnorm._NormBase():
            yield "num_features", len(tensor)
        case nn.LayerNorm() | nn.RMSNorm():
            yield "normalized_shape", tuple(tensor.shape)
        case nn.PReLU():
            yield "num_parameters", len(tensor)
        case nn.Embedding():
            yield from zip(("num_embeddings", "embedding_dim"), parts["weight"].shape, strict=True)
        case _:
            raise OptimizerError(
                f"weights alone do not say what {path or 'the network'}, a {type(module).__name__}, becomes:"
                " transform_to_slim_model(model, state_dict, json_path) has it from the pruning information"
            )


def channels_of(module: nn.modules.conv._ConvNd, weight: Tensor) -> Iterator[tuple[str, int]]:
    """The channels and the groups of a convolution with another weight; a depthwise one has as many as channels."""
    first, second = weight.shape[:2]
    if is_depthwise(module):
        channels = first // (module.out_channels // module.in_channels) if not module.transposed else first
        outputs = first * second if module.transposed else first
        yield from (("in_channels", channels), ("groups", channels), ("out_channels", outputs))
    elif module.transposed:
        yield from (("in_channels", first), ("out_channels", second * module.groups))
    else:
        yield from (("out_channels", first), ("in_channels", second * module.groups))
