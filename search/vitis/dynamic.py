"""Weights of the Vitis AI Optimizer's own elastic network, whose layers are wrapped (`conv1.conv.weight`)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ofa import Supernet
from ofa.backbone import unwrapped
from ofa.search.vitis.errors import OptimizerError

SHOWN = 3  # names in a message


def load_dynamic_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """`model` with the weights that Vitis' own elastic network was trained to; `conv1.conv.weight` is `conv1.weight`.

    It is the elastic network of `ofa_model()`, or a plain one of the same class: both have all channels.

    Raises:
        OptimizerError: the weights are of another network, which is left as it is.
    """
    found = unwrapped(model)
    network = found.model if isinstance(found, Supernet) else found
    wanted, given = network.state_dict(), without_prefix(state_dict, network)
    names = {name: (theirs if (theirs := wrapped(network, name)) in given else name) for name in wanted}
    lacking = [wrapped(network, name) for name, theirs in names.items() if theirs not in given]
    unknown = [name for name in given if name not in names.values()]
    kind = type(network).__name__
    if lacking or unknown:
        raise OptimizerError(f"these weights are not of {kind}'s elastic network: {differences(lacking, unknown)}")
    for name, theirs in names.items():
        if given[theirs].shape != wanted[name].shape:
            shapes = f"{theirs} is {tuple(given[theirs].shape)}, here {tuple(wanted[name].shape)}"
            raise OptimizerError(f"these weights are of another {kind}: {shapes}")
    network.load_state_dict({name: given[theirs] for name, theirs in names.items()})
    return model


def without_prefix(state_dict: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights by name, without the prefix of `DataParallel`, which a network's own names may begin with, too.

    Raises:
        OptimizerError: it is something else, such as a checkpoint that holds weights beside other things.
    """
    if not isinstance(state_dict, Mapping) or not all(isinstance(value, Tensor) for value in state_dict.values()):
        inside = f" with {', '.join(map(str, list(state_dict)[:SHOWN]))}" if isinstance(state_dict, Mapping) else ""
        got = f"{type(state_dict).__name__}{inside}"
        raise OptimizerError(f"state_dict is the tensors of a network by their names, got {got}")
    own = all(name.startswith("module.") for name in network.state_dict())
    prefix = "module." if all(name.startswith("module." * (1 + own)) for name in state_dict) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}


def wrapped(network: nn.Module, name: str) -> str:
    """What Vitis calls a tensor of a network."""
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    inner = "bn" if isinstance(module, nn.BatchNorm2d) else "conv"
    whole = isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d))
    return f"{path}.{inner}.{leaf}" if path and whole else name


def differences(lacking: list[str], unknown: list[str]) -> str:
    """The first names that are missing, and those that nothing has."""
    parts = ((lacking, "missing"), (unknown, "unknown"))
    return "; ".join(f"{len(names)} {word} ({', '.join(names[:SHOWN])})" for names, word in parts if names)
