"""Measuring: devices, turns with an anchor, the file of a device, and what can go wrong."""

from __future__ import annotations

import csv
import itertools
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ofa.search.latency import (
    Artefact,
    Bench,
    DeviceFile,
    Latency,
    LatencyDevice,
    Meter,
    OnnxRuntime,
    OpenVino,
    Reading,
    Remote,
    Stopwatch,
    TorchCpu,
    TorchCuda,
    stopwatch,
)


def network(channels: int, layers: int = 1) -> nn.Module:
    return nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers)), nn.Dropout())


def artefact(channels: int, layers: int = 1, size: int = 16) -> Artefact:
    return Artefact(network(channels, layers), torch.ones(1, channels, size, size))


@dataclass(frozen=True)
class Played(LatencyDevice):
    """A device whose times are played: parameters / 1000 ms, on a machine that is `slow` for a while."""

    slow: Sequence[float] = (1.0,)
    loads: list[str] = field(default_factory=list)  # type: ignore[misc]

    def load(self, artefact: Artefact) -> Stopwatch:
        self.loads.append(artefact.digest)
        weights, slow = sum(p.numel() for p in artefact.network.parameters()), itertools.cycle(self.slow)
        return lambda runs: [1e-3 * weights * next(slow) for _ in range(runs)]


# ---------------------------------------------------------------- devices


DEVICES = [OnnxRuntime(), OnnxRuntime(threads=2, clock="wall"), TorchCpu()]


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: f"{type(d).__name__}-{d.threads}")
def test_every_device_runs_a_network_and_leaves_it_alone(device: LatencyDevice) -> None:
    small, large = network(8).train(), network(64, 4).eval()
    before, threads = {n: t.clone() for n, t in small.state_dict().items()}, torch.get_num_threads()
    quick = device.load(Artefact(small, torch.ones(1, 8, 16, 16)))(9)
    slow = device.load(Artefact(large, torch.ones(1, 64, 16, 16)))(9)
    assert len(quick) == 9 and 0 <= min(quick) < min(slow) < 1000
    assert small.training and all(torch.equal(tensor, before[n]) for n, tensor in small.state_dict().items())
    assert torch.get_num_threads() == threads


def test_one_thread_is_timed_by_its_own_work_and_not_by_the_wall() -> None:
    import time

    asleep = lambda: time.sleep(0.02)  # noqa: E731
    assert max(stopwatch(asleep, "auto", 1)(3)) < 10 < min(stopwatch(asleep, "wall", 1)(3))
    assert min(stopwatch(asleep, "auto", 2)(3)) > 10


def test_devices_refuse_what_cannot_be() -> None:
    for message, make in {
        "at least 6 samples fit a model, got 5": lambda: TorchCpu(samples=5),
        "at least 1 thread, got 0": lambda: OnnxRuntime(threads=0),
        "clock=cpu is the time of one thread, got threads=2": lambda: OnnxRuntime(threads=2, clock="cpu"),
        "clock is auto, cpu or wall, got 'sun'": lambda: TorchCpu(clock="sun"),  # type: ignore[arg-type]
        "precision and seconds are above 0, got 0 and": lambda: OnnxRuntime(precision=0),
        "device cuda:99 cannot be used here": lambda: TorchCuda(99).load(artefact(2)),
        "not TensorrtExecutionProvider; those of GPUs come with pip install onnxruntime-gpu": lambda: OnnxRuntime(
            provider="TensorrtExecutionProvider"
        ).load(artefact(2)),
    }.items():
        with pytest.raises(ValueError, match=message):
            make()


def test_a_missing_runtime_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"pip install 'ofa-lab\[openvino\]'"):
        OpenVino().load(artefact(2))


def test_openvino_runs_where_it_is_installed() -> None:
    pytest.importorskip("openvino")
    assert min(OpenVino().load(artefact(8))(3)) > 0


class Unexportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x.T @ x).real


def test_a_network_that_cannot_be_written_or_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no ONNX file of this Unexportable can be written"):
        OnnxRuntime().load(Artefact(Unexportable(), torch.ones(1, 3)))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"onnxruntime cannot load .*broken\.onnx"):
        OnnxRuntime().session(broken)


def test_an_operator_that_the_runtime_refuses_is_named() -> None:
    import onnx
    from onnx import TensorProto, helper

    def foreign(net: nn.Module, example: Any, path: Path) -> None:
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Frobnicate", ["x"], ["y"], domain="far.away")], "g", [x], [y])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("far.away", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)

    with pytest.raises(ValueError, match=r"onnxruntime cannot load .*Frobnicate"):
        OnnxRuntime().load(Artefact(nn.Identity(), torch.ones(1, 3), foreign))


# ---------------------------------------------------------------- remote


PLAYER = "import sys, os; assert os.path.getsize(sys.argv[1]) > 100; {}"


def remote(script: str, **more: Any) -> Remote:
    words = f"{sys.executable} -c '{PLAYER.format(script)}' {{onnx}} {{runs}}"
    return Remote(command=words, **more)


def test_a_remote_device_is_a_command_that_prints_milliseconds(tmp_path: Path) -> None:
    times = remote('print("".join(f"run: 1.{i} ms, " for i in range(int(sys.argv[2]))))').load(artefact(4))(3)
    assert times == [1.0, 1.1, 1.2]
    mean = remote('print("average 2500 us")', pattern=r"average (\d+) us", unit_ms=1e-3)
    [reading] = Bench(mean, artefact(4)).read([artefact(4)])
    assert reading.ratio == 1.0
    copied = tmp_path / "model.onnx"
    copy = f"{sys.executable} -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' {{onnx}} {copied}"
    there = Remote(copy=copy, command=f"{sys.executable} -c 'print(\"3 ms\")' {copied}").load(artefact(4))
    assert there(1) == [3.0] and copied.exists()


@pytest.mark.parametrize(
    ("script", "more", "message"),
    [
        ("import time; time.sleep(9)", {"timeout_s": 0.5}, "took more than latency.timeout_s=0.5"),
        ('sys.exit("no such board")', {}, "failed with status 1: no such board"),
        ('print("quite fast")', {}, "printed no positive milliseconds .*: 'quite fast"),
        ('print("-3 ms")', {}, "printed no positive milliseconds"),
        ('print("nan ms")', {"pattern": r"(\w+) ms"}, "printed no positive milliseconds"),
        ('print("soon ms")', {"pattern": r"(\w+) ms"}, "printed no positive milliseconds"),
    ],
)
def test_a_remote_device_that_fails_says_how(script: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        remote(script, name="board", **more).load(artefact(4))(5)


def test_a_remote_command_is_checked_at_once() -> None:
    for settings, message in (
        ({"command": "run it"}, r"takes the file as \{onnx\}, got 'run it'"),
        ({"command": "run {onnx}", "pattern": "("}, r"latency.pattern='\(' is no pattern"),
        ({"command": "run {onnx}", "pattern": "ms"}, "has one group, the milliseconds; 'ms' has 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Remote(**settings)
    with pytest.raises(ValueError, match="no-such-program-here cannot be run: No such file"):
        Remote(command="no-such-program-here {onnx}").load(artefact(4))(1)


# ---------------------------------------------------------------- turns with an anchor


def test_what_slows_the_machine_slows_the_anchor_too() -> None:
    device, small, large = Played(slow=[1.0] * 9 + [3.0] * 31, seconds=0.2), artefact(4), artefact(8)
    bench = Bench(device, large)
    share = 148 / 584  # parameters
    [reading] = bench.read([small])
    assert reading.ratio == pytest.approx(share, rel=0.25)
    assert Bench(Played(), large).read([small])[0].ratio == pytest.approx(share)
    assert bench.anchor_ms == pytest.approx(0.584, rel=0.01)  # at its quietest


def test_networks_take_turns_and_each_turn_loads_anew() -> None:
    device, nets = Played(precision=1e-9, seconds=1e-9), [artefact(2), artefact(4)]
    Bench(device, artefact(8)).read(nets)
    own = [one for one in device.loads if one in {net.digest for net in nets}]
    assert own == [net.digest for net in nets] * 4


def test_sampling_ends_when_the_interval_is_narrow_or_time_is_up() -> None:
    steady, restless = Played(), Played(slow=list(np.random.default_rng(0).uniform(1, 3, 997)), seconds=0.3)
    [quick], [long] = (Bench(device, artefact(8)).read([artefact(4)]) for device in (steady, restless))
    assert quick.low == quick.ratio == quick.high
    assert long.low < long.ratio < long.high and long.runs > 2 * quick.runs


@pytest.mark.parametrize("times", [[0.0], [-1.0, 2.0, -3.0], [float("nan")], [float("inf")]])
def test_a_clock_that_jumps_is_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="the clock of the device jumps"):
        Bench(Played(slow=times), artefact(8)).read([artefact(4)])


def test_a_few_impossible_times_are_left_out() -> None:
    [reading] = Bench(Played(slow=[1.0, 1.0, 1.0, -5.0]), artefact(8)).read([artefact(4)])
    assert reading.ratio == pytest.approx(148 / 584)


def test_real_networks_are_in_order() -> None:
    nets = [artefact(8), artefact(32, 2), artefact(64, 4)]
    readings = Bench(OnnxRuntime(seconds=0.3), nets[2]).read(nets)
    assert readings[0].ratio < readings[1].ratio < readings[2].ratio and 0.5 < readings[2].ratio < 2
    assert str(readings[0].times(3.0)).startswith(f"{3 * readings[0].ratio:.4g} ms ±")


# ---------------------------------------------------------------- the device's file


def test_a_graph_is_measured_once_and_its_weights_do_not_matter(tmp_path: Path) -> None:
    device = Played()
    with DeviceFile(tmp_path / "d.sqlite", device) as file:
        [first] = Meter(device, file, artefact(8)).measure([artefact(4)], ["small"])
    assert artefact(4).digest == artefact(4).digest != artefact(4, size=8).digest
    device.loads.clear()
    with DeviceFile(tmp_path / "d.sqlite", device) as file:
        meter = Meter(device, file, artefact(8))
        [again] = meter.measure([artefact(4)], ["small"])
        assert again == first and not device.loads
        meter.measure([artefact(4)], ["small"], afresh=True)
        assert device.loads and meter.noise_percent([artefact(4), artefact(8)]) == pytest.approx(0)
    assert first.latency.median_ms == pytest.approx(0.148) and first.features["macs_conv"] == 16 * 16 * 9 * 16


def test_devices_in_one_file_are_never_mixed(tmp_path: Path) -> None:
    reading = Reading(0.5, 0.0, 0.5, 0.5, 9)
    one, two = (DeviceFile(tmp_path / "d.sqlite", OnnxRuntime(threads=n)) for n in (1, 2))
    with one, two:
        one.add("graph", "small", reading, {"macs": 1.0}, "anchor", 2.0)
        two.add("graph", "small", reading, {"macs": 1.0}, "anchor", 8.0)
        assert one["graph"].latency.median_ms == 1.0 and two["graph"].latency.median_ms == 4.0
        one.add("graph", "small", reading, {"macs": 1.0}, "anchor", 3.0)  # not as quiet as before
        assert one["graph"].latency.median_ms == 1.0
        one.to_csv(tmp_path / "d.csv")
    with (tmp_path / "d.csv").open() as file:
        [row] = csv.DictReader(file)
    assert row["name"] == "small" and float(row["ms"]) == 1.0 and float(row["macs"]) == 1.0
    assert {"precision", "seconds", "samples"}.isdisjoint(OnnxRuntime().fingerprint)
    assert OnnxRuntime(seconds=9).fingerprint == OnnxRuntime().fingerprint != TorchCpu().fingerprint


def write_many(path: Path, first: int) -> None:
    with DeviceFile(path, OnnxRuntime()) as file:
        for i in range(first, first + 50):
            file.add(f"g{i}", "one", Reading(0.5, 0.0, 0.5, 0.5, 9), {}, "anchor", 2.0 + i)


def test_two_runs_write_one_file(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=write_many, args=(tmp_path / "d.sqlite", first)) for first in (0, 50)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    with DeviceFile(tmp_path / "d.sqlite", OnnxRuntime()) as file:
        assert len(file.measurements) == 100
        assert {m.latency.median_ms for m in file.measurements.values()} == {1.0}


def test_files_that_are_none_of_ours_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing of the kind\n" * 100)
    for path, message in ((tmp_path / "notes.txt", "cannot be used: file is not a database"), (tmp_path, "cannot")):
        with pytest.raises(ValueError, match=message):
            DeviceFile(path, OnnxRuntime())


def test_where_a_device_is_kept_is_the_users_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for file, path in (
        (None, tmp_path / "run/latency.sqlite"),
        (str(tmp_path / "mine.sqlite"), tmp_path / "mine.sqlite"),
        ("cache", tmp_path / "home/.cache/ofa-lab/devices"),
    ):
        with DeviceFile.of(OnnxRuntime(file=file), tmp_path / "run") as opened:
            assert opened.path == path or opened.path.parent == path


def test_a_latency_says_how_sure_it_is() -> None:
    assert str(Latency(1.5, 0.02, 1.45, 1.55, 200)) == "1.5 ms ± 3.3 %"


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [True, False])
def test_a_gpu_is_waited_for(graph: bool) -> None:
    net, example = nn.Sequential(*(nn.Conv2d(256, 256, 3, padding=1) for _ in range(8))), torch.ones(1, 256, 64, 64)
    device = TorchCuda(graph=graph)
    alone, eight = (float(np.median(device.load(Artefact(part, example))(20))) for part in (net[:1], net))
    assert eight > 3 * alone
