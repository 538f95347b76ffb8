"""The console program `ofa-latency`."""

from __future__ import annotations

import csv
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ofa.conf.program.timing import Question, answer, fitted
from ofa.search.latency import DeviceFile, Latency, Measurement, TorchCpu

QUICK = ("device=torch_cpu", "device.seconds=0.05", "size=32", "classes=10")


def told(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ofa.conf.program.timing", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def rows_of(file: Path) -> int:
    with sqlite3.connect(file) as database:
        return int(database.execute("select count(*) from measurement").fetchone()[0])


def test_networks_of_several_families_are_measured_and_kept(tmp_path: Path) -> None:
    file, table = tmp_path / "cpu.sqlite", tmp_path / "cpu.csv"
    done = told("net=lcnet_050,torchvision/squeezenet1_1", *QUICK, f"file={file}", f"csv={table}")
    assert done.returncode == 0, done.stderr
    assert "lcnet_050" in done.stdout and "torchvision/squeezenet1_1" in done.stdout and "predicted" not in done.stdout
    with table.open() as rows:
        found = {row["name"]: row for row in csv.DictReader(rows)}
    assert set(found) == {"lcnet_050", "torchvision/squeezenet1_1"}
    assert float(found["lcnet_050"]["macs_depthwise"]) > 0 and all(float(row["ms"]) > 0 for row in found.values())
    for words, more in (((), 0), (("afresh=true",), 1)):
        before = rows_of(file)
        answer(Question.parse(["net=lcnet_050", *QUICK, f"file={file}", *words]))
        assert rows_of(file) == before + more, "what is known is not measured again"


def test_networks_measured_before_predict_others(tmp_path: Path) -> None:
    words = [*QUICK, f"file={tmp_path / 'cpu.sqlite'}"]
    answer(Question.parse([f"net={','.join(f'lcnet_{w}' for w in ('035', '050', '075', '100'))}", *words]))
    answer(Question.parse(["net=torchvision/squeezenet1_1,mobilenetv3_small_050", *words]))
    table = answer(Question.parse(["net=mobilenetv3_small_075", *words]))
    assert [str(column.header) for column in table.columns][-2:] == ["predicted", "band"]
    with DeviceFile(tmp_path / "cpu.sqlite", TorchCpu()) as file:
        assert len(file.measurements) == 7
    assert "held-out error on 6 networks" in str(table.title)


def test_five_networks_predict_nothing() -> None:
    known = [Measurement(str(i), "n", Latency(1.0 + i, 0, 1, 1, 9), {"macs": 1e6 * i}) for i in range(6)]
    assert fitted(known[:5]) is None and fitted(known) is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("size=32", "net=… names the networks, with commas between"),
        ("net=resnet18 sise=32", "sise=32: settings are given as name=value; did you mean size?"),
        ("net=resnet18 32", "32: settings are given as name=value"),
        ("net=resnet18 size=big", "size is a whole number, got 'big'"),
        ("net=resnet18 device=torch", "device=torch: there is no device 'torch'; did you mean torch_"),
        ("net=resnet18 device.thread=2", "device.thread is no setting of OnnxRuntime; did you mean threads"),
        ("net=resnet18 device.threads=0", "device: at least 1 thread, got 0"),
        ("net=resnet18 device=remote", "device.command must be given"),
        ("net=resnet18 device=remote device.command=bench", "latency.copy before it, takes the file as {onnx}"),
        ("net=resnet1888 size=32", "unknown backbone"),
        ("net=vit_tiny_patch16_224 size=32", "vit_tiny_patch16_224: the model does not run on the example inputs"),
        ("net=lcnet_035 size=32 classes=9 file=/proc/x.sqlite", "cannot write the device file /proc/x.sqlite"),
    ],
)
def test_a_mistake_is_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError) as raised:
        answer(Question.parse(words.split()))
    assert message in str(raised.value) and len(str(raised.value).splitlines()) == 1


def test_help_says_what_may_be_asked() -> None:
    done = told("--help")
    assert done.returncode == 0 and all(name in done.stdout for name in Question.__dataclass_fields__)
    done = told("net=resnet18", "device=abacus")
    assert done.returncode == 2 and "there is no device 'abacus'" in done.stderr and "Traceback" not in done.stderr
