"""From a configuration node to the component it names: checked against the class, which is its own schema."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import typing
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

OURS = "ofa"


def build(node: DictConfig | Mapping[str, Any], path: str) -> Any:
    """The component that `node._target_` names, built from the node's other keys; `path` stands in error messages.

    Raises:
        ValueError: an unknown key (close ones are shown), a value of another type, a target outside this project,
            or whatever the component itself refuses.
    """
    values = node if not isinstance(node, DictConfig) else OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, Mapping)
    cls = resolve(values.get("_target_"), path)
    given = {str(k): v for k, v in values.items() if k != "_target_"}
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init and not f.name.startswith("_")}
    for key in given:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise ValueError(f"{path}.{key} is no setting of {cls.__name__}{hint} Allowed: {', '.join(fields)}")
    hints = typing.get_type_hints(cls)
    missing = [k for k, v in given.items() if v == "???"]
    if missing:
        raise ValueError(f"{path}.{missing[0]} must be given")
    arguments = {key: converted(value, hints[key], f"{path}.{key}") for key, value in given.items()}
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def resolve(target: Any, path: str) -> Any:
    """The dataclass of a dotted name inside this project."""
    package, _, name = str(target).rpartition(".")
    if package.partition(".")[0] != OURS:
        raise ValueError(f"{path}._target_ names a class of {OURS}, got {target!r}")
    try:
        cls = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError):
        raise ValueError(f"{path}._target_: there is no {target!r}") from None
    if not dataclasses.is_dataclass(cls):
        raise ValueError(f"{path}._target_: {target!r} is no component")
    return cls


def converted(value: Any, hint: Any, path: str) -> Any:
    """`value` as the annotated type; sequences become tuples, nodes with a `_target_` become components."""
    if isinstance(value, Mapping) and "_target_" in value:
        return build(value, path)
    if isinstance(value, Mapping) and (cls := component(hint)) is not None:
        if inspect.isabstract(cls):
            raise ValueError(f"{path} needs a _target_: which {cls.__name__} is meant?")
        return build({"_target_": f"{cls.__module__}.{cls.__qualname__}", **value}, path)
    if isinstance(value, list):
        return tuple(converted(v, element(hint), path) for v in value)
    if value is None or hint is Any or not plain(hint):
        return value
    holder = dataclasses.make_dataclass("Holder", [("value", hint)])
    try:
        return OmegaConf.merge(OmegaConf.structured(holder), {"value": value}).value
    except OmegaConfBaseException:
        raise ValueError(f"{path} is {described(hint)}, got {value!r}") from None


def element(hint: Any) -> Any:
    """The type of a sequence's elements, also where it is one of several that are allowed."""
    tuples = [a for a in typing.get_args(hint) if typing.get_origin(a) is tuple]
    return (typing.get_args(tuples[0] if tuples else hint) or (Any,))[0]


def component(hint: Any) -> type | None:
    """The class of a component that an annotation names, optional or not; None for anything else."""
    classes = [a for a in (typing.get_args(hint) or (hint,)) if isinstance(a, type) and a is not type(None)]
    known = len(classes) == 1 and (dataclasses.is_dataclass(classes[0]) or inspect.isabstract(classes[0]))
    return classes[0] if known and classes[0].__module__.partition(".")[0] == OURS else None


def plain(hint: Any) -> bool:
    """Whether OmegaConf can check the type by itself: a scalar, or an optional one."""
    scalars = [a for a in (typing.get_args(hint) or (hint,)) if a is not type(None)]
    return len(scalars) == 1 and scalars[0] in (int, float, bool, str)


def described(hint: Any) -> str:
    scalars = [a for a in (typing.get_args(hint) or (hint,)) if a is not type(None)]
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names[scalars[0]]
