"""What `--help` shows: groups with their options, and every setting of their classes with type, default and sense."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ofa.conf.program.arguments import CONFIG, composed, defaults, groups, refused, relaxed
from ofa.conf.program.building import component, group_of, hint, options, resolve, settings_of

WIDE = 180  # columns of a file, or of what grep reads
FLAGS = ("--help", "-h")
REQUIRED = "???"
OF_SETTINGS = ("stage", "objective", "exporter", "importance", "distillation_loss", "mask_update")
EXAMPLES = {
    "ofa": (
        ("ofa", "the digits, from nothing to a front of subnets, in runs/"),
        ("ofa data=image_folder data.folder=/pictures backbone=net.py:make", "own pictures, own network"),
        ("ofa method=iterative budget.macs=0.5 teacher=given teacher.checkpoint=mine.pt", "prune a trained network"),
    ),
    "ofa-tune": (
        ("ofa-tune", "the digits: 20 short trainings of the supernet"),
        ("ofa-tune data=fashion_mnist tuning.trials=30 tuning.epochs=5", "longer, on other pictures"),
        ("ofa-tune tuning.space.supernet.recipe.lr.high=0.3", "another range of a setting"),
    ),
}
WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "anything"}


@dataclass(frozen=True)
class Setting:
    """One line: a setting by its dotted name, what may be given, what holds otherwise, and what it does."""

    name: str
    kind: str
    default: str
    sense: str


@dataclass(frozen=True)
class Chapter:
    """The settings of one class, which the option of a group names."""

    title: str
    rows: tuple[Setting, ...]


def wanted(arguments: Sequence[str]) -> bool:
    return any(flag in arguments for flag in FLAGS)


def explain(program: str, config: str, arguments: Sequence[str]) -> None:
    """Print the whole manual, or that of the groups which the arguments name.

    Raises:
        SystemExit: there is no such group, or option of it.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    asked = [a for a in arguments if a not in FLAGS]
    overrides = [a for a in asked if "=" in a]
    try:
        composed(config, [*map(relaxed, overrides)])
        chosen = [a.partition("=")[0] for a in asked if a.partition("=")[0] in (*titles(config), "settings")]
        unknown = [a for a in asked if "=" not in a and a not in chosen]
        if unknown:
            raise ValueError(f"there is no group {unknown[0]!r}; {hint(unknown[0], sorted(titles(config)))}")
    except ValueError as error:
        refused(program, error)
    if not chosen:
        console.print(opening(program, config), markup=False)
    if not chosen or "settings" in chosen:
        console.print(Text("settings", "bold"), table(top_settings()), sep="\n")
    seen: set[type] = set()
    for group in chosen or titles(config):
        if group != "settings":
            picked = [a.partition("=")[2] for a in overrides if a.startswith(f"{group}=")]
            console.print(page(group, picked, seen))
    if not chosen:
        console.print(f"One group alone: {program} --help data. What the settings come to: {program} --cfg job.")


def titles(config: str) -> list[str]:
    """Every part of the manual: groups of the configuration, and folders from which settings name their options."""
    return [*groups(), *OF_SETTINGS, *(["tuning"] if config == "tune" else [])]


def opening(program: str, config: str) -> RenderableType:
    lines = Table.grid(padding=(0, 3))
    lines.add_column(no_wrap=True)
    for command, sense in EXAMPLES[program]:
        lines.add_row(f"  {command}", sense)
    if program == "ofa":
        lines.add_row("")
        lines.add_row("  ofa doctor [settings]", "what is here, and what a run with these settings would cost")
        lines.add_row("  ofa init [folder]", "a starter folder: a network, a configuration, a page about both")
    head = "A backbone goes in, a front of verified subnets comes out." if program == "ofa" else STUDY
    return Group(f"{program}: {head}\n", lines, "\nGroups: " + ", ".join(titles(config)) + "\n")


STUDY = "tunes the training of the supernet; takes all settings of ofa, and those of the group tuning."


def top_settings() -> list[Setting]:
    """The settings that stand in no group, as config.yaml has them, with the comment behind each."""
    rows, content = [], OmegaConf.to_container(OmegaConf.load(CONFIG))
    assert isinstance(content, dict)
    for line in CONFIG.read_text(encoding="utf-8").splitlines():
        found = re.match(r"(\w+):\s+(\S.*?)\s+#\s+(.*)$", line)
        if found:
            name, default, sense = found.groups()
            rows.append(Setting(name, kind_of_value(content[name]), default, sense))
    return rows


def kind_of_value(value: Any) -> str:
    """The type of a setting that no class declares."""
    return WORDS.get(type(value), "list" if isinstance(value, list) else "limits by cost")


def page(group: str, picked: Sequence[str], seen: set[type]) -> RenderableType:
    """A group: its options, each with a line, and the settings of the classes that they name."""
    names = picked or [*sorted(options(group), key=lambda name: (name != defaults().get(group), name))]
    list_of = Table.grid(padding=(0, 3))
    for name in names:
        list_of.add_row(f"  {group}={name}" if group in groups() else f"  {name}", Text(summary(group, name)))
    parts: list[RenderableType] = [Text(f"\n{heading(group)}", "bold"), *([list_of] if names else [])]
    for chapter in chapters(group, names, seen):
        parts += [Text(f"\n  {chapter.title}", "italic"), table(chapter.rows)]
    return Group(*parts)


def heading(group: str) -> str:
    return f"{group} (default: {defaults()[group] or 'none'})" if group in groups() else group


def table(rows: Sequence[Setting]) -> Table:
    lines = Table.grid(padding=(0, 2))
    for row in rows:
        cells = (f"    {row.name}", row.kind, row.default, row.sense)
        lines.add_row(*map(Text, cells))
    return lines


# ------------------------------------------------------------ options and their settings


def summary(group: str, name: str) -> str:
    """One line about an option: the first comment of its file, or the first sentence of its class."""
    for line in options(group)[name].read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ")
        if not line.startswith("#"):
            break
    node = node_of(group, name)
    return first_sentence(resolve(node["_target_"], group)) if "_target_" in node else ""


def node_of(group: str, name: str) -> dict[str, Any]:
    """The settings of an option's file, over those of the files that it begins with."""
    content: Any = OmegaConf.to_container(OmegaConf.create(options(group)[name].read_text(encoding="utf-8")))
    bases = [entry for entry in content.pop("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    result: Any = {}
    for node in (*(node_of(group, base) for base in bases), content.get(group, content)):
        result = OmegaConf.to_container(OmegaConf.merge(result, node))
    return dict(result)


def chapters(group: str, names: Sequence[str], seen: set[type]) -> Iterator[Chapter]:
    """The settings of each class that has not been seen: those of the options, and of the components in them."""
    if group == "tuning":
        node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG.with_name("tune.yaml")).tuning)
        yield from walk(resolve(node["_target_"], group), node, group, seen)
    for name in names:
        node = node_of(group, name)
        if "_target_" in node:
            label = f"{group}={name}" if group in groups() else name
            path = group if group in groups() else ""
            yield from walk(resolve(node["_target_"], group), node, path, seen, label)


def walk(cls: type, node: Mapping[str, Any], path: str, seen: set[type], label: str = "") -> Iterator[Chapter]:
    """A class and, behind it, the components that its settings hold."""
    hints, inner = settings_of(cls), []
    rows = []
    for name, hinted in hints.items():
        value = node.get(name, default_of(cls, name))
        dotted = f"{path}.{name}".lstrip(".")
        part = held(value, hinted, dotted)
        inner += [(*part, dotted)] if part else []
        rows.append(Setting(dotted, typed(hinted), shown(value, part if value is not None else None), sense(cls, name)))
    if cls not in seen and rows:
        origin = f" ({label})" if label else f" ({path})"
        yield Chapter(f"{cls.__name__}{origin}: {first_sentence(cls)}", tuple(rows))
    seen.add(cls)
    for kind, settings, dotted in inner:
        yield from walk(kind, settings, dotted, seen)


def held(value: Any, hinted: Any, path: str) -> tuple[type, dict[str, Any]] | None:
    """Class and settings of the component that a setting holds; None where it holds none, or one by name."""
    kind = component(hinted)
    if kind is None or isinstance(value, str) or (value is None and lacks_class(kind)):
        return None
    if value is None:
        return kind, {}
    if isinstance(value, Mapping):
        cls = resolve(value["_target_"], path) if "_target_" in value else kind
        return cls, {key: inner for key, inner in value.items() if key != "_target_"}
    return type(value), {}


def lacks_class(kind: type) -> bool:
    """Whether a kind is abstract, so that nothing is known of what may be given for it."""
    return inspect.isabstract(kind) or not dataclasses.is_dataclass(kind)


def default_of(cls: type, name: str) -> Any:
    """What a class takes where nothing is given; `???` where something has to be."""
    if not dataclasses.is_dataclass(cls):
        default = inspect.signature(cls).parameters[name].default
        return REQUIRED if default is inspect.Parameter.empty else default
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def shown(value: Any, part: tuple[type, dict[str, Any]] | None = None) -> str:
    """A default as one would give it."""
    if part is not None:
        return part[0].__name__
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if value == REQUIRED:
        return "must be given"
    return value if isinstance(value, str) else str(value) if isinstance(value, int | float) else named(value)


def named(value: object) -> str:
    """A component by the name of its option, if it has one, or by its class."""
    return str(getattr(value, "name", "")) or type(value).__name__ if dataclasses.is_dataclass(value) else "{}"


def typed(hinted: Any) -> str:
    """What may be given for an annotation, in words."""
    origin, arguments = typing.get_origin(hinted), typing.get_args(hinted)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys("null" if a is type(None) else typed(a) for a in arguments))
    if origin is typing.Literal:
        return ", ".join(map(str, arguments))
    if origin in (tuple, list) or getattr(origin, "__name__", "") == "Sequence":
        return f"list of {typed(arguments[0])}" if arguments else "list"
    if origin is not None or not isinstance(hinted, type):
        return WORDS.get(hinted, "mapping" if origin else str(hinted))
    if hinted in WORDS:
        return WORDS[hinted]
    return (
        f"{group_of(hinted)}: {', '.join(known)}" if (known := sorted(options(group_of(hinted)))) else hinted.__name__
    )


# ------------------------------------------------------------ words from docstrings


def sense(cls: type, name: str) -> str:
    """What a docstring says of a setting: the sentence that begins with its name in backticks, or the first with it."""
    said = [part for base in cls.__mro__ if dataclasses.is_dataclass(base) or base is cls for part in sentences(base)]
    about = [part for part in said if f"`{name}`" in part]
    about.sort(key=lambda part: not part.startswith(f"`{name}`"))
    if not about:
        return ""
    return re.sub(rf"^`{name}`(?: is|:) ", "", about[0]).replace("`", "")


def first_sentence(cls: type) -> str:
    text = paragraphs(cls).partition("\n\n")[0]
    return re.split(r"(?<=\.)\s", " ".join(text.split()))[0].replace("`", "").rstrip(".:")


def sentences(cls: type) -> list[str]:
    """The sentences of a class' docstring, and their parts between semicolons."""
    text = " ".join(paragraphs(cls).split())
    return [part.rstrip(".;") for part in re.split(r"(?<=[.;])\s+(?=[`A-Za-z])", text) if part]


def paragraphs(cls: type) -> str:
    """A docstring without its examples; a dataclass that has none gets one from Python, which says nothing."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    return "" if text.startswith(f"{cls.__name__}(") else re.split(r"\n>>> |\n\w+:\n", text)[0]
