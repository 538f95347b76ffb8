from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ofa.search import LatencyPredictor
from ofa.search.latency import LatencyDevice, OnnxRuntime, TorchEager, measure_onnx
from ofa.search.latency.predictor import HeldOut


def convolution(path: Path, channels: int, layers: int = 1, size: int = 16) -> Path:
    """An ONNX file of equal 3x3 convolutions."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(channels, channels, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", [f"x{i}", "weights"], [f"x{i + 1}"], pads=[1, 1, 1, 1]) for i in range(layers)]
    shape = [1, channels, size, size]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "weights")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def image(channels: int, size: int = 16) -> np.ndarray:
    return np.ones((1, channels, size, size), dtype=np.float32)


def test_more_work_takes_longer(tmp_path: Path) -> None:
    quick = measure_onnx(convolution(tmp_path / "quick.onnx", 8), image(8), repeats=20, seconds=0.05)
    slow = measure_onnx(convolution(tmp_path / "slow.onnx", 64, layers=4), [image(64)], repeats=20, seconds=0.05)
    assert 0 < quick.median_ms < slow.median_ms
    assert quick.iqr_ms >= 0 and quick.runs >= 20 and quick.threads == 1


def test_bad_files_and_inputs_get_one_message(tmp_path: Path) -> None:
    path = convolution(tmp_path / "model.onnx", 8)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"cannot load .*missing\.onnx"):
        measure_onnx(tmp_path / "missing.onnx", image(8))
    with pytest.raises(ValueError, match=r"cannot load .*broken\.onnx"):
        measure_onnx(broken, image(8))
    with pytest.raises(ValueError, match=r"inputs are \['x0'\], got \['image'\]"):
        measure_onnx(path, {"image": image(8)})
    with pytest.raises(ValueError, match=r"inputs are \['x0'\], got 2 arrays"):
        measure_onnx(path, [image(8), image(8)])
    with pytest.raises(ValueError, match=r"does not run on x0 float32\[1, 9, 16, 16\]"):
        measure_onnx(path, {"x0": image(9)})
    with pytest.raises(ValueError, match="1 or more, got 0 and 50"):
        measure_onnx(path, image(8), threads=0)


def features(networks: int = 24, noise: float = 0.0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Depthwise MACs cost four times as much as the others, and every kernel a constant."""
    rng = np.random.default_rng(1)
    table = {
        "macs_conv": rng.uniform(1e6, 5e7, networks),
        "macs_depthwise": rng.uniform(1e5, 2e7, networks),
        "kernels": rng.integers(10, 60, networks).astype(float),
        "bytes": np.zeros(networks),
    }
    latency = 0.1 + 1e-8 * table["macs_conv"] + 4e-8 * table["macs_depthwise"] + 0.005 * table["kernels"]
    table["macs"] = table["macs_conv"] + table["macs_depthwise"]
    return table, latency * (1 + noise * rng.normal(size=networks))


def test_known_prices_are_found() -> None:
    table, latency = features()
    predictor = LatencyPredictor.fit(table, latency)
    assert list(predictor.coefficients) == ["macs_conv", "macs_depthwise", "kernels", "bytes"]
    assert predictor.coefficients["macs_depthwise"] == pytest.approx(4e-8)
    assert predictor.intercept_ms == pytest.approx(0.1)
    np.testing.assert_allclose(predictor.predict(table), latency, rtol=1e-9)


def test_held_out_error_stands_beside_the_macs_line() -> None:
    table, latency = features(noise=0.02)
    held_out = LatencyPredictor.fit(table, latency).held_out
    assert held_out is not None and held_out.percent < 4 < held_out.macs_only_percent
    del table["macs"]  # the line is then on the sum of the kinds
    assert LatencyPredictor.fit(table, latency).held_out == held_out
    assert str(HeldOut(3.21, 14.0, 24)) == "held-out error on 24 networks: 3.2 % (MACs alone: 14.0 %)"


def test_nothing_is_negative() -> None:
    rng = np.random.default_rng(2)
    predictor = LatencyPredictor.fit({"macs": rng.random(20), "bytes": rng.random(20)}, rng.random(20) + 0.1)
    assert predictor.intercept_ms >= 0 and min(predictor.coefficients.values()) >= 0


def test_macs_alone_and_few_networks() -> None:
    predictor = LatencyPredictor.fit({"macs": [1e6, 2e6]}, [1.0, 2.0])
    assert predictor.held_out is None
    assert predictor.predict({"macs": np.array([4e6]), "params": np.array([1.0])}).tolist() == pytest.approx([4.0])


def test_attached_costs_have_a_latency() -> None:
    predictor = LatencyPredictor({"macs": 2e-6}, 0.5)
    costs = predictor.attach(lambda genomes: {"macs": 1e6 * genomes.sum(axis=1), "params": genomes.sum(axis=1) * 1.0})
    assert costs(np.array([[1, 2], [0, 0]]))["latency_ms"].tolist() == [6.5, 0.5]


def test_json_round_trip() -> None:
    predictor = LatencyPredictor.fit(*features(noise=0.01))
    assert LatencyPredictor.from_json(predictor.to_json()) == predictor
    for text in ("{", "[]", '{"held_out": null}'):
        with pytest.raises(ValueError, match="not a latency predictor"):
            LatencyPredictor.from_json(text)


@pytest.mark.parametrize(
    ("table", "latency", "message"),
    [
        ({}, [1.0], "every feature needs one value"),
        ({"macs": [1.0]}, [1.0, 2.0], r"each of the 2 latencies, got \['macs \[1\]'\]"),
        ({"macs": [1.0]}, [0.0], "positive milliseconds"),
        ({"macs": [1.0]}, [float("nan")], "positive milliseconds"),
    ],
)
def test_bad_measurements(table: dict[str, list[float]], latency: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatencyPredictor.fit(table, latency)


def test_missing_feature() -> None:
    with pytest.raises(ValueError, match=r"\['bytes'\] were fitted and are missing among \['macs'\]"):
        LatencyPredictor({"bytes": 1.0}, 0.0).predict({"macs": [1.0]})


def test_fitted_to_real_measurements(tmp_path: Path) -> None:
    """Smoke: measured nets of one kind give a line whose prediction has the right order of magnitude."""
    sizes = [(channels, layers) for channels in (8, 16, 32) for layers in (2, 6)]
    latency = [
        measure_onnx(convolution(tmp_path / f"{c}-{n}.onnx", c, n), image(c), repeats=10, seconds=0.03).median_ms
        for c, n in sizes
    ]
    table = {
        "macs_conv": [9.0 * 256 * c * c * n for c, n in sizes],
        "kernels": [float(n) for _, n in sizes],
    }
    predictor = LatencyPredictor.fit(table, latency)
    assert predictor.held_out is not None
    assert np.all(predictor.predict(table) < 10 * np.array(latency))


@pytest.mark.parametrize("device", [OnnxRuntime(threads=1), TorchEager(seconds=0.02)], ids=lambda d: type(d).__name__)
def test_every_device_times_a_network_and_leaves_it_alone(device: LatencyDevice) -> None:
    def network(channels: int, layers: int) -> nn.Module:
        return nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers)), nn.Dropout())

    small, large = network(8, 1).train(), network(64, 4).eval()
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    quick = device.measure(small, torch.ones(1, 8, 16, 16))
    slow = device.measure(large, torch.ones(1, 64, 16, 16))
    assert 0 < quick.median_ms < slow.median_ms < 1000 and quick.iqr_ms >= 0 and quick.runs > 1
    assert small.training and all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())


def test_devices_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="at least 6 samples fit a predictor, got 5"):
        TorchEager(samples=5)
    with pytest.raises(ValueError, match="at least 1 thread, got 0"):
        OnnxRuntime(threads=0)
    with pytest.raises(ValueError, match=r"latency\.device=cuda:99 cannot be used here"):
        TorchEager("cuda:99").measure(nn.Linear(2, 2), torch.ones(1, 2))


@pytest.mark.gpu
def test_a_gpu_is_waited_for() -> None:
    net, example = nn.Sequential(*(nn.Conv2d(256, 256, 3, padding=1) for _ in range(8))), torch.ones(1, 256, 64, 64)
    alone, eight = (TorchEager("cuda").measure(part, example).median_ms for part in (net[:1], net))
    assert eight > 3 * alone
