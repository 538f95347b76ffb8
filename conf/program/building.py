"""From a configuration node to the component it names: checked against the class, which is its own schema.

A component is any importable class, ours or a user's; what a group or a setting wants of it, an abstract class or a
protocol says.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.resources
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

CONF = Path(__file__).parents[1]


def build(node: DictConfig | Mapping[str, Any], path: str, kind: type | None = None) -> Any:
    """The component that `node._target_` names, built from the node's other keys; `path` stands in error messages.

    Raises:
        ValueError: an unknown key (close ones are shown), a value of another type, a target that cannot be imported or
            is not of the `kind`, or whatever the component itself refuses.
    """
    values = node if not isinstance(node, DictConfig) else resolved(node)
    cls = resolve(values.get("_target_"), path, kind)
    given = {str(k): v for k, v in values.items() if k != "_target_"}
    hints = settings_of(cls)
    for key in given:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=3)
            meant = f" did you mean {', '.join(close)}?" if close else ""
            known = ", ".join(hints) or "none"
            raise ValueError(f"{path}.{key} is no setting of {chosen(path, cls)};{meant} allowed: {known}")
    missing = [k for k, v in given.items() if v == "???"]
    if missing:
        raise ValueError(f"{path}.{missing[0]} must be given")
    arguments = {key: converted(value, hints[key], f"{path}.{key}") for key, value in given.items()}
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def resolved(node: DictConfig) -> dict[str, Any]:
    """A configuration's values as plain Python, interpolations resolved.

    Raises:
        ValueError: one refers to what must be given, and is not.
    """
    try:
        values: Any = OmegaConf.to_container(node, resolve=True)
    except InterpolationToMissingValueError as error:
        name = str(error).splitlines()[0].rpartition(" ")[2]
        raise ValueError(f"{name} must be given") from None
    return dict(values)


def chosen(group: str, cls: type) -> str:
    """How a component came in: the option of its group, and who chose that; elsewhere its class.

    A method, or an experiment, may choose an option that nobody typed.
    """
    if not HydraConfig.initialized() or group not in HydraConfig.get().runtime.choices:
        return cls.__name__
    choices, typed = HydraConfig.get().runtime.choices, HydraConfig.get().overrides.task
    option = f"{group}={choices[group]} ({cls.__name__})"
    if any(str(override).startswith(f"{group}=") for override in typed):
        return option
    for other in ("experiment", "method"):
        path = CONF / other / f"{choices.get(other)}.yaml"
        if path.is_file() and f"override /{group}:" in path.read_text(encoding="utf-8"):
            return f"{option}, which {other}={choices[other]} chose"
    return option


def settings_of(cls: type) -> dict[str, Any]:
    """The settings of a component with their types: a dataclass' fields, or else what its constructor takes."""
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        names = [f.name for f in dataclasses.fields(cls) if f.init and not f.name.startswith("_")]
    else:
        hints = typing.get_type_hints(inspect.getattr_static(cls, "__init__"))
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names = [p.name for p in inspect.signature(cls).parameters.values() if p.kind in named]
    return {name: hints.get(name, Any) for name in names}


def resolve(target: Any, path: str, kind: type | None = None) -> type:
    """The class of a dotted name.

    Raises:
        ValueError: it cannot be imported (the reason is given), or it is no class of the kind that is wanted.
    """
    package, _, name = str(target).rpartition(".")
    if not package:
        raise ValueError(f"{path}._target_ names a class by its module, such as package.module.Class, got {target!r}")
    try:
        module = importlib.import_module(package)
    except Exception as error:  # a user's module may raise anything
        missing = isinstance(error, ModuleNotFoundError) and f"{package}.".startswith(f"{error.name}.")
        reason = "" if missing else f" ({type(error).__name__}: {error})"
        raise ValueError(f"{path}._target_: there is no {target!r}{reason}") from None
    cls = getattr(module, name, None)
    if cls is None:
        raise ValueError(f"{path}._target_: there is no {target!r}")
    if not isinstance(cls, type) or inspect.isabstract(cls):
        raise ValueError(f"{path}._target_: {target!r} is no class that can be made")
    lacking = "" if kind is None else lacks(cls, kind)
    if kind is not None and lacking:
        raise ValueError(f"{path}._target_: {target!r} is no {kind.__name__}: {lacking}")
    return cls


def lacks(cls: type, kind: type) -> str:
    """Why a class is not of a kind; empty if it is. A protocol's methods are enough."""
    if not getattr(kind, "_is_protocol", False):
        return "" if issubclass(cls, kind) else f"it does not inherit from {kind.__module__}.{kind.__qualname__}"
    wanted = [name for name in vars(kind) if not name.startswith("_") and not hasattr(cls, name)]
    return f"it has no {', '.join(wanted)}" if wanted else ""


def converted(value: Any, hint: Any, path: str) -> Any:
    """`value` as the annotated type; sequences become tuples, nodes and names of components become these."""
    kind = component(hint)
    if isinstance(value, Mapping) and "_target_" in value:
        return build(value, path, kind)
    if isinstance(value, str) and kind is not None:
        return build(option(kind, value, path), path, kind)
    if isinstance(value, Mapping) and kind is not None:
        if inspect.isabstract(kind):
            raise ValueError(f"{path} needs a _target_: which {kind.__name__} is meant?")
        return build({"_target_": f"{kind.__module__}.{kind.__qualname__}", **value}, path)
    if isinstance(value, list) and not (kind is None and plain(hint)):
        return tuple(converted(v, element(hint), path) for v in value)
    if value is None or hint is Any or not plain(hint):
        return value
    holder = dataclasses.make_dataclass("Holder", [("value", hint)])
    try:
        return OmegaConf.merge(OmegaConf.structured(holder), {"value": value}).value
    except OmegaConfBaseException:
        raise ValueError(f"{path} is {described(hint)}, got {value!r}") from None


def option(kind: type, name: str, path: str) -> DictConfig:
    """The node in `<kind>/<name>.yaml`, such as objective/macs.yaml: ours, or one on Hydra's search path.

    What stands behind an @ goes with the name that the component is given: latency_ms@torch_cpu.

    Raises:
        ValueError: there is no such file.
    """
    group = group_of(kind)
    known, (file, at, _) = options(group), name.partition("@")
    if file not in known:
        words = f"there is no {group.replace('_', ' ')} {name!r}; {hint(name, sorted(known))}"
        raise ValueError(f"{path}: {words} A class of yours goes by {{_target_: …}}")
    node = OmegaConf.create(known[file].read_text(encoding="utf-8"))
    assert isinstance(node, DictConfig)
    return OmegaConf.merge(node, {"name": name}) if at else node  # type: ignore[return-value]


def hint(name: str, known: Iterable[str]) -> str:
    """Close names, or all.

    >>> hint("teachr", ["export", "teacher"]), hint("x", ["export", "teacher"])
    ('did you mean teacher?', 'there are export, teacher.')
    """
    names = [*known]
    close = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(names) or 'none'}."


def group_of(kind: type) -> str:
    """The folder of a kind's YAML files: `mask_update` for MaskUpdate."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def options(group: str) -> dict[str, Traversable]:
    """The YAML files of a group by name, in every folder where some are."""
    known: dict[str, Traversable] = {}
    for folder in folders():
        files = folder.joinpath(group)
        if files.is_dir():
            known |= {file.name.removesuffix(".yaml"): file for file in files.iterdir() if file.name.endswith(".yaml")}
    return known


def folders() -> Iterator[Traversable]:
    """Where YAML files are: those of this program, and those on the search path of a run (`hydra.searchpath`)."""
    yield CONF
    for source in HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else ():
        if source.schema == "file":
            yield Path(source.path)
        elif source.schema == "pkg" and source.provider != "hydra":
            yield importlib.resources.files(source.path.replace("/", "."))


def element(hint: Any) -> Any:
    """The type of a sequence's elements, also where it is one of several that are allowed."""
    tuples = [a for a in typing.get_args(hint) if typing.get_origin(a) is tuple]
    return (typing.get_args(tuples[0] if tuples else hint) or (Any,))[0]


def component(hint: Any) -> type | None:
    """The class of a component that an annotation names, optional or not; None for anything else."""
    if typing.get_origin(hint) not in (None, typing.Union, types.UnionType):
        return None
    classes = [a for a in (typing.get_args(hint) or (hint,)) if isinstance(a, type) and a is not type(None)]
    if len(classes) != 1 or classes[0].__module__ in ("collections.abc", "typing"):
        return None
    made = dataclasses.is_dataclass(classes[0]) or inspect.isabstract(classes[0])
    return classes[0] if made or getattr(classes[0], "_is_protocol", False) else None


def plain(hint: Any) -> bool:
    """Whether OmegaConf can check the type by itself: a scalar, or an optional one."""
    scalars = [a for a in (typing.get_args(hint) or (hint,)) if a is not type(None)]
    return len(scalars) == 1 and scalars[0] in (int, float, bool, str)


def described(hint: Any) -> str:
    scalars = [a for a in (typing.get_args(hint) or (hint,)) if a is not type(None)]
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names[scalars[0]]
