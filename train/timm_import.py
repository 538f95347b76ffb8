"""timm, for modules that import it when they need it, and without the tracker that it would import along."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(name: str) -> Iterator[None]:
    """Inside, importing the module `name` fails as if it were not installed, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


with absent("wandb"):  # half a second, for a function that is not used here
    import timm
    import timm.data
    import timm.models
    import timm.optim
    import timm.scheduler
    import timm.utils

__all__ = ["timm"]
