"""Errors by the Vitis AI Optimizer's names (`nndct_shared.pruning.errors`), for scripts that catch them.

All are ValueErrors. Not every one is raised: much of what stops that program does not stop this one.
"""

from __future__ import annotations


class OptimizerError(ValueError):
    """What the optimizer refuses."""

    @property
    def message(self) -> str:
        return str(self)


class OptimizerInvalidArgumentError(OptimizerError):
    """An argument that makes no sense."""


class OptimizerNoAnaResultsError(OptimizerError):
    """Pruning before the analysis, or before the search, that it needs."""


class OptimizerInvalidAnaResultError(OptimizerError):
    """An analysis that cannot be pruned from."""


class OptimizerSubnetError(OptimizerError):
    """No candidate, or none that could be chosen."""


class OptimizerDataParallelNotAllowedError(OptimizerError):
    """Not raised: wrapped networks are unwrapped."""


class OptimizerTorchModuleError(OptimizerError):
    """Not raised: layers that are not understood stay as they are, with a reason."""


class OptimizerNotExcludeNodeError(OptimizerError):
    """Not raised, for the same reason."""


class OptimizerUnSupportedOpError(OptimizerError):
    """Not raised, for the same reason."""


class OptimizerNodeError(OptimizerError):
    """Not raised: there are no nodes here."""


class OptimizerInvalidNodeNameError(OptimizerError):
    """Not raised, for the same reason."""


class OptimizerDataFormatError(OptimizerError):
    """Not raised: weights have one layout."""
