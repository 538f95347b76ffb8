"""Latency: networks timed on a device, in turns with an anchor, and kept in a file.

In: a network and an example input as an `Artefact`, a `LatencyDevice`. Out: a `Reading`, a `Latency` in milliseconds.
Uses what is below `ofa.search`. A new device is one class.
"""

from ofa.search.latency.artefact import Artefact
from ofa.search.latency.bench import Bench, Reading
from ofa.search.latency.device import PROTOCOL, Latency, LatencyDevice, Stopwatch, stopwatch, version_of
from ofa.search.latency.device_file import DeviceFile, Measurement
from ofa.search.latency.meter import NOISY_PERCENT, Meter
from ofa.search.latency.onnx_runtime import OnnxRuntime
from ofa.search.latency.openvino import OpenVino
from ofa.search.latency.remote import Remote
from ofa.search.latency.torch_eager import TorchCpu, TorchCuda

__all__ = [
    "NOISY_PERCENT",
    "PROTOCOL",
    "Artefact",
    "Bench",
    "DeviceFile",
    "Latency",
    "LatencyDevice",
    "Measurement",
    "Meter",
    "OnnxRuntime",
    "OpenVino",
    "Reading",
    "Remote",
    "Stopwatch",
    "TorchCpu",
    "TorchCuda",
    "stopwatch",
    "version_of",
]
