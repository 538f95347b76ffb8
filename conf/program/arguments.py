"""The command line of the console programs, read before torch is imported: a mistake in it becomes one line."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ofa.conf.program.building import hint
from ofa.conf.program.sweep import folders

CONFIG = Path(__file__).parents[1] / "config.yaml"
COMMANDS = ("doctor", "init")
SYNTAX = ",'\"[]{}$\\"
"""Signs of a value that Hydra reads, so that a value with them is not put in quotes for it."""
QUOTES = "; quotes in quotes let a text pass: \"name='text'\""


def stand() -> None:
    """Let modules be found in the folder that one stands in, behind all others: a file of theirs hides none of ours."""
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        sys.path.append(here)


def words_or_usage(usage: str) -> list[str]:
    """What was typed; without a word, or for help, the program says how it is used and ends."""
    stand()
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(usage)
        raise SystemExit(0)
    return words


def prepare(program: str, config: str, arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra takes them, after everything that they name was found.

    Raises:
        SystemExit: a mistake; one line says which, and what is close.
    """
    given = get_args_parser().parse_args([*arguments])
    try:
        overrides = overrides_of(config, arguments)
        ready = [word for a in arguments for word in (for_hydra(a) if a in given.overrides else [a])]
        if not (given.config_path or given.config_name or given.hydra_help or given.shell_completion):
            for combination in combinations(overrides) if given.multirun else [overrides]:
                composed(config, combination)
        if given.multirun:
            places = folders(parsed(overrides), groups())
            named = any(place.startswith("run=") for place in places)
            ready = [*(a for a in ready if not (named and a.startswith("run="))), *places]
        else:
            check_folder(overrides)
    except ValueError as error:
        refused(program, error)
    return ready


def refused(program: str, error: Exception) -> NoReturn:
    """Leave with one line."""
    print(f"{program}: {error}", file=sys.stderr)
    raise SystemExit(2) from None


def overrides_of(config: str, arguments: Sequence[str]) -> list[str]:
    """The settings among the arguments, checked, and relaxed; `--config-dir` is one of them.

    Raises:
        ValueError: one is no setting; close names are said.
    """
    given = get_args_parser().parse_args([*arguments])
    for override in given.overrides:
        check(override, config)
    return [*(word for override in given.overrides for word in for_hydra(override)), *search_path(given.config_dir)]


def composed(config: str, overrides: Sequence[str]) -> DictConfig:
    """A configuration by its name, as Hydra's own entry point composes it.

    Raises:
        ValueError: an option that there is not, an override that cannot be read; one line.
    """
    with said_in_one_line(overrides), initialize_config_module("ofa.conf", version_base="1.3"):
        whole = compose(config, overrides=[*overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(whole)
        OmegaConf.set_struct(whole, False)
        whole.pop("hydra")
        unknown = [name for name in map(str, whole) if name not in settings(config)]
        if unknown:
            raise ValueError(unknown_setting(unknown[0], settings(config)))
        return whole


@contextmanager
def said_in_one_line(overrides: Sequence[str]) -> Iterator[None]:
    """What Hydra says on a dozen lines."""
    try:
        yield
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file or "").rpartition("/")
        if error.options is None or not group:
            raise ValueError(joined(str(error).splitlines()[:1])) from None
        raise ValueError(f"{group}={name}: there is no {group} {name!r}; {hint(name, sorted(error.options))}") from None
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line for line in str(error).splitlines() if line and not line.startswith("See https://hydra.cc")]
        wrong = unreadable(overrides)
        named = " ".join(override.removeprefix("++") for override in wrong or overrides)
        raise ValueError(f"{joined(lines)} (in {named}){QUOTES if wrong else ''}") from None


def unreadable(overrides: Iterable[str]) -> list[str]:
    """Those that Hydra's grammar does not know."""
    wrong = []
    for override in overrides:
        try:
            parsed([override])
        except HydraException:
            wrong.append(override)
    return wrong


def joined(lines: Iterable[str]) -> str:
    return "; ".join(line.strip().rstrip(".") for line in lines)


def combinations(overrides: Sequence[str]) -> Iterator[list[str]]:
    """A few of a sweep's jobs, in which each value of each setting is at least once."""
    with said_in_one_line(overrides):
        lists = [
            [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
            if o.is_sweep_override() and not o.is_hydra_override()
            else [str(o.input_line)]
            for o in parsed(overrides)
        ]
    for number in range(max(map(len, lists), default=1)):
        yield [values[number % len(values)] for values in lists]


def parsed(overrides: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides([*overrides])


def search_path(folder: str | None) -> list[str]:
    """Hydra's `--config-dir` as an override."""
    return [] if folder is None else [f"hydra.searchpath=[{Path(folder).resolve().as_uri()}]"]


def for_hydra(argument: str) -> list[str]:
    """A setting as Hydra takes it; a backbone that is told all it needs takes the place of another.

    >>> for_hydra("data.size=48"), for_hydra("backbone={_target_:net.make,width:8}")
    (['++data.size=48'], ['~backbone', '+backbone={_target_:net.make,width:8}'])
    """
    return ["~backbone", f"+{argument}"] if argument.startswith("backbone={") else [relaxed(argument)]


def relaxed(argument: str) -> str:
    """`data.size=48` as `++data.size=48`: a YAML names only what differs from a class's defaults.

    What stands behind an @ would be a package to Hydra, unless it is a key of a dictionary.

    >>> relaxed("budget.latency_ms@torch_cpu=2.5")
    '++budget={latency_ms@torch_cpu: 2.5}'
    """
    key, equals, value = argument.partition("=")
    nested = equals and "." in key and key.partition(".")[0] in nodes() and key[0] not in "+~-"
    if nested and "@" in key:
        node, _, name = key.partition(".")
        return f"++{node}={{{name}: {value}}}"
    return f"++{quoted(argument)}" if nested else quoted(argument)


def quoted(argument: str) -> str:
    """A setting as people type it as one that Hydra reads: with the home folder for `~`, and a plain text in quotes.

    >>> quoted("data.folder=/pictures"), quoted("data.folder=/Zürich (2)"), quoted("data.size=[6,")
    ('data.folder=/pictures', "data.folder='/Zürich (2)'", 'data.size=[6,')
    """
    key, equals, value = argument.partition("=")
    value = re.sub(r"(?<![^,])~(?=/|$)", str(Path.home()), value)
    plain = f"{key}{equals}{value}"
    return f"{key}='{value}'" if not set(SYNTAX) & set(value) and unreadable([plain]) else plain


def check(override: str, config: str) -> None:
    """Raise a ValueError if an argument is no setting; close names are said."""
    key, equals, _ = override.partition("=")
    first = re.split(r"[./@]", key.lstrip("~+"))[0]
    if not equals and not key.startswith("~"):
        close = difflib.get_close_matches(override, (*COMMANDS, *settings(config)), n=1)
        way = f"did you mean {close[0]}{'' if close[0] in COMMANDS else '=…'}?" if close else "--help shows them"
        raise ValueError(f"{override}: settings are given as name=value; {way}")
    if first not in (*settings(config), "hydra"):
        raise ValueError(f"{override}: {unknown_setting(first, settings(config))}")


def unknown_setting(name: str, known: Iterable[str]) -> str:
    return f"there is no setting {name!r}; {hint(name, sorted(known))}"


def settings(config: str) -> list[str]:
    """What stands at the top of a configuration: groups, and settings of their own."""
    names = [name for name in map(str, OmegaConf.load(CONFIG)) if name not in ("defaults", "hydra")]
    return [*names, *groups(), *(["tuning"] if config == "tune" else [])]


def groups() -> list[str]:
    """The groups of which one option is chosen, in the order of the configuration."""
    return [*defaults()]


def defaults() -> dict[str, str | None]:
    """The option of each group that is taken where none is given."""
    content: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    return {name: option for entry in content["defaults"] if entry != "_self_" for name, option in entry.items()}


def nodes() -> list[str]:
    """What has settings of its own below it."""
    return [*groups(), "backbone", "budget", "tuning"]


def check_folder(overrides: Sequence[str]) -> None:
    """Raise a ValueError if the run folder cannot be written, before Hydra tries to."""
    given = [override for override in parsed(overrides) if override.key_or_group == "run"]
    run = str(given[-1].value()) if given else "$"
    if "$" in run:
        return
    try:
        Path(run).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"run folder {run} cannot be written: {error.strerror}; choose another run=…") from None
