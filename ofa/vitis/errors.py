"""The optimizer's errors by their names there: `from ofa.vitis import errors`."""

from ofa.search.vitis.errors import (
    OptimizerDataFormatError,
    OptimizerDataParallelNotAllowedError,
    OptimizerError,
    OptimizerInvalidAnaResultError,
    OptimizerInvalidArgumentError,
    OptimizerInvalidNodeNameError,
    OptimizerNoAnaResultsError,
    OptimizerNodeError,
    OptimizerNotExcludeNodeError,
    OptimizerSubnetError,
    OptimizerTorchModuleError,
    OptimizerUnSupportedOpError,
)

__all__ = [
    "OptimizerDataFormatError",
    "OptimizerDataParallelNotAllowedError",
    "OptimizerError",
    "OptimizerInvalidAnaResultError",
    "OptimizerInvalidArgumentError",
    "OptimizerInvalidNodeNameError",
    "OptimizerNoAnaResultsError",
    "OptimizerNodeError",
    "OptimizerNotExcludeNodeError",
    "OptimizerSubnetError",
    "OptimizerTorchModuleError",
    "OptimizerUnSupportedOpError",
]
