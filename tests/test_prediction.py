"""Predicting: predictors, the model that chooses among them, its band, which networks to measure, a second device."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from networks import build

import ofa
from ofa.search import LatencyModel
from ofa.search.prediction import (
    Boosted,
    Gaussian,
    HeldOut,
    MacsLine,
    Physical,
    Table,
    Transferred,
    d_optimal,
    draw_errors,
    draw_predictions,
    maximin,
)
from ofa.search.prediction.model import conformal
from ofa.search.prediction.predictors import left_out
from ofa.search.sampling import skewed

Features = dict[str, np.ndarray]


def networks(number: int = 24, noise: float = 0.0, seed: int = 1) -> tuple[Features, np.ndarray]:
    """Depthwise MACs cost four times as much as the others, every kernel a constant, weights beyond 1 MiB more."""
    rng = np.random.default_rng(seed)
    table = {
        "macs_conv": rng.uniform(1e6, 5e7, number),
        "macs_depthwise": rng.uniform(1e5, 2e7, number),
        "kernels": rng.integers(10, 60, number).astype(float),
        "weight_bytes": rng.uniform(1e5, 4e6, number),
    }
    latency = 0.1 + 1e-8 * table["macs_conv"] + 4e-8 * table["macs_depthwise"] + 0.005 * table["kernels"]
    latency += 2e-7 * np.maximum(table["weight_bytes"] - 2**20, 0)
    table["macs"] = table["macs_conv"] + table["macs_depthwise"]
    return table, latency * np.exp(noise * rng.normal(size=number))


def error(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(100 * np.abs(predicted / true - 1).mean())


def test_known_prices_are_found_and_reach_beyond_what_was_measured() -> None:
    features, latency = networks()
    fitted = Physical(ridge=1e-9).fit(Table.of(features), latency)
    np.testing.assert_allclose(fitted(Table.of(features)), latency, rtol=1e-3)
    larger = {name: 3 * values for name, values in features.items()}
    true = 0.1 + 1e-8 * larger["macs_conv"] + 4e-8 * larger["macs_depthwise"] + 0.005 * larger["kernels"]
    true += 2e-7 * np.maximum(larger["weight_bytes"] - 2**20, 0)
    assert error(fitted(Table.of(larger)), true) < 2


def test_the_caches_are_worth_their_prices() -> None:
    """Without the prices of weights beyond a cache the error is several times as large."""
    (features, latency), (others, true) = networks(20), networks(200, seed=2)
    blind = [{name: v for name, v in f.items() if name != "weight_bytes"} for f in (features, others)]
    with_them = Physical().fit(Table.of(features), latency)(Table.of(others))
    without = Physical().fit(Table.of(blind[0]), latency)(Table.of(blind[1]))
    assert 3 * error(with_them, true) < error(without, true)


@pytest.mark.parametrize("predictor", [MacsLine(), Physical(), Gaussian(), Boosted()], ids=lambda p: p.name)
def test_every_predictor_is_positive_and_the_same_twice(predictor: Physical) -> None:
    rng = np.random.default_rng(2)
    table = Table.of({"macs": rng.random(20), "kernels": rng.random(20), "weight_bytes": 1e6 * rng.random(20)})
    latency = rng.random(20) + 0.1
    first, second = (predictor.fit(table, latency)(table) for _ in range(2))
    assert (first > 0).all() and (first == second).all()
    assert left_out(predictor, table, latency).shape == (20,)


def test_the_process_and_the_trees_learn_what_no_sum_of_parts_is() -> None:
    (features, latency), (others, true) = networks(60), networks(200, seed=2)
    bent = [t * np.where(f["kernels"] > 35, 1.5, 1.0) for f, t in ((features, latency), (others, true))]
    found = {
        p.name: error(p.fit(Table.of(features), bent[0])(Table.of(others)), bent[1])
        for p in (Physical(), Gaussian(), Boosted())
    }
    assert found["gaussian"] < 0.75 * found["physical"] and found["boosted"] < 0.75 * found["physical"]
    assert LatencyModel.fit(features, bent[0]).predictor != "physical"


def test_the_held_out_error_is_honest_and_stands_beside_the_macs_line_and_the_noise() -> None:
    (features, latency), (others, true) = networks(20, noise=0.02), networks(300, noise=0.02, seed=2)
    model = LatencyModel.fit(features, latency, noise_percent=2.5)
    assert model.held_out is not None and model.held_out.percent < model.held_out.macs_only_percent / 2
    assert model.held_out.percent == pytest.approx(error(model.predict(others), true), rel=0.7)
    assert str(HeldOut(3.21, 14.0, 2.5, 24)) == (
        "held-out error on 24 networks: 3.2 % (MACs alone: 14.0 %, measured again: 2.5 %)"
    )
    assert str(HeldOut(3.21, 14.0, math.nan, 24)) == "held-out error on 24 networks: 3.2 % (MACs alone: 14.0 %)"


def test_never_worse_than_macs_alone() -> None:
    rng = np.random.default_rng(3)
    macs = rng.uniform(1e6, 1e8, 12)
    features = {"macs": macs, **{f"noise_{i}": rng.uniform(0, 1e8, 12) for i in range(9)}}
    model = LatencyModel.fit(features, 0.1 + 1e-7 * macs)
    assert model.predictor == "macs" and model.held_out is not None and model.held_out.percent < 0.1
    for seed in range(5):
        features, latency = networks(12, noise=0.3, seed=seed)
        held_out = LatencyModel.fit(features, latency).held_out
        assert held_out is not None and held_out.percent <= held_out.macs_only_percent


@pytest.mark.parametrize("number", [10, 20, 50])
def test_bands_hold_what_they_say(number: int) -> None:
    inside = []
    for seed in range(6):
        (features, latency), (others, true) = networks(number, 0.04, seed), networks(200, 0.04, 100 + seed)
        low, high = LatencyModel.fit(features, latency).interval(others)
        inside.append(((low <= true) & (true <= high)).mean())
    assert np.mean(inside) >= 0.94


def test_the_band_is_the_rank_that_conformal_prediction_says() -> None:
    residuals = np.linspace(0.01, 0.4, 40)
    assert conformal(residuals) > math.exp(residuals[38])  # Student's band is the wider one
    assert conformal(np.append(np.zeros(38), [0.5, 0.5])) == pytest.approx(math.exp(0.5))  # rank 39 of 40


def test_ten_thousand_predictions_take_a_fifth_of_a_second() -> None:
    supernet = ofa.Supernet(*build("mobilenetv3"), ofa.SpaceConfig(proof="off"))
    pool = skewed(supernet.space, np.random.default_rng(0), 10_000)
    features = supernet.features(pool[:40])
    model = LatencyModel.fit(features, 1.0 + 1e-6 * features["macs"])
    seconds = []
    for _ in range(3):
        started = time.thread_time()
        assert model.predict(supernet.features(pool)).shape == (10_000,)
        seconds.append(time.thread_time() - started)
    assert min(seconds) < 0.2


def test_attached_costs_have_a_latency() -> None:
    features, _ = networks()
    model = LatencyModel.fit({"macs": features["macs"]}, 0.5 + 2e-6 * features["macs"])
    costs = model.attach(lambda g: {"params": g.sum(axis=1) * 1.0}, lambda g: {"macs": 1e6 * g.sum(axis=1)})
    found = costs(np.array([[1, 2], [3, 0]]))
    assert list(found) == ["params", "latency_ms"] and found["latency_ms"] == pytest.approx([6.5, 6.5], rel=1e-2)


@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_json_round_trip(noise: float) -> None:
    features, latency = networks(noise=noise)
    model = LatencyModel.fit(features, latency)
    again = LatencyModel.from_json(model.to_json())
    np.testing.assert_allclose(again.predict(features), model.predict(features))
    assert (again.predictor, again.band, again.errors) == (model.predictor, model.band, model.errors)
    assert again.held_out is not None and again.held_out.networks == 24 and math.isnan(again.held_out.noise_percent)
    written = json.loads(model.to_json())
    assert set(written["held_out"]) == {"percent", "macs_only_percent", "noise_percent", "networks"}
    for text in ("{", "[]", '{"held_out": null}', json.dumps({**written, "predictor": "crystal ball"})):
        with pytest.raises(ValueError, match="not a latency model"):
            LatencyModel.from_json(text)
    with pytest.raises(ValueError, match="fitted to features of another version"):
        LatencyModel.from_json(json.dumps({**written, "version": 1}))


def test_two_networks_make_a_line_and_no_statement() -> None:
    model = LatencyModel.fit({"macs": [1e6, 2e6]}, [1.0, 2.0])
    assert model.held_out is None and model.predict({"macs": [4e6]}) == pytest.approx([4.0])


@pytest.mark.parametrize(
    ("table", "latency", "message"),
    [
        ({}, [1.0], "features are arrays of one length, got none"),
        ({"macs": [1.0]}, [1.0, 2.0], "every feature needs one value, 0 or more, for each of 2 latencies"),
        ({"macs": [1.0], "bytes": [1.0, 2.0]}, [1.0], r"of one length, got \{'macs': \[1\], 'bytes': \[2\]\}"),
        ({"macs": [1.0]}, [0.0], "positive milliseconds"),
        ({"macs": [1.0]}, [float("nan")], "positive milliseconds"),
        ({"macs": [-1.0]}, [1.0], "0 or more"),
    ],
)
def test_bad_measurements(table: dict[str, list[float]], latency: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatencyModel.fit(table, latency)


def test_chosen_networks_tell_more_than_drawn_ones() -> None:
    pool, true = networks(400)
    noisy, table = true * np.exp(0.03 * np.random.default_rng(0).normal(size=400)), Table.of(pool)

    def off(taken: list[int]) -> float:
        return error(Physical().fit(table.rows(taken), noisy[taken])(table), true)

    first = maximin(table, 6)
    assert {int(table.macs.argmin()), int(table.macs.argmax())} <= set(first)
    more = d_optimal(table, true, first, 6)
    assert len({*first, *more}) == 12
    drawn = [off(np.random.default_rng(seed).permutation(400)[:12].tolist()) for seed in range(9)]
    assert off([*first, *more]) < float(np.median(drawn))


def test_no_more_networks_are_chosen_than_there_are() -> None:
    table = Table.of({"macs": [1.0, 2.0, 3.0], "kernels": [1.0, 1.0, 1.0]})
    assert sorted(maximin(table, 9)) == [0, 1, 2]
    assert d_optimal(table, np.ones(3), [0, 1, 2], 4) == []


def test_five_networks_are_enough_with_an_old_device() -> None:
    """On the new one contractions are twice and calls five times as slow."""
    features, there = networks(40, noise=0.02)
    prices = {"macs_conv": 2e-8, "macs_depthwise": 8e-8, "kernels": 0.025}
    (others, _), (few, _) = networks(300, seed=5), networks(5, seed=6)

    def here(f: Features) -> np.ndarray:
        return 0.2 + sum(price * f[name] for name, price in prices.items())

    transferred = LatencyModel.fit(few, here(few), predictors=[Transferred(Table.of(features), there)])
    alone = LatencyModel.fit(few, here(few))
    assert transferred.predictor == "transferred"
    assert error(transferred.predict(others), here(others)) < 0.7 * error(alone.predict(others), here(others))


def test_pictures_are_drawn(tmp_path: Path) -> None:
    features, latency = networks()
    model = LatencyModel.fit(features, latency)
    names = [f"n{i}" for i in range(24)]
    one = draw_predictions(tmp_path / "fit.png", latency, model.predict(features), model.band, names, "a device")
    two = draw_errors(tmp_path / "errors.svg", {"macs": {10: 9.0, 20: 8.0}}, math.nan)
    assert one.stat().st_size > 10_000 and two.stat().st_size > 5_000
