"""One way to name modules: a glob on the dotted name, the module itself, its type, or a predicate."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable

from torch import nn

Selector = str | nn.Module | type[nn.Module] | Callable[[str, nn.Module], bool]


def select(model: nn.Module, selectors: Iterable[Selector]) -> dict[str, str]:
    """The dotted names of all modules that a selector matches, and of those inside them, each with the reason.

    Raises:
        ValueError: a selector matches nothing; close names are shown for a glob.
        TypeError: a selector is of another kind.
    """
    chosen: dict[str, str] = {}
    modules = dict(model.named_modules())
    for selector in selectors:
        found = [name for name, module in modules.items() if matches(selector, name, module)]
        if not found:
            raise ValueError(nothing(selector, list(modules)))
        for name in found:
            for inner in modules:
                if inner == name or inner.startswith(f"{name}." if name else ""):
                    chosen.setdefault(inner, f"excluded by {described(selector)}")
    return chosen


def matches(selector: Selector, name: str, module: nn.Module) -> bool:
    if isinstance(selector, str):
        return fnmatch.fnmatchcase(name, selector)
    if isinstance(selector, nn.Module):
        return module is selector
    if isinstance(selector, type):
        return isinstance(module, selector)
    if callable(selector):
        return bool(selector(name, module))
    raise TypeError(f"an exclude is a glob, a module, a module type or a predicate, got {selector!r}")


def described(selector: Selector) -> str:
    if isinstance(selector, str):
        return repr(selector)
    return selector.__name__ if isinstance(selector, type) else type(selector).__name__


def nothing(selector: Selector, names: list[str]) -> str:
    message = f"exclude {described(selector)} matches no module"
    close = difflib.get_close_matches(selector, names, n=5, cutoff=0.5) if isinstance(selector, str) else []
    return f"{message}; close names: {', '.join(close)}" if close else f"{message} of the model"
