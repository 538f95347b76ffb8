import numpy as np
import pytest

from ofa.search import Constraint, Objective
from ofa.search.objectives import Accuracy, Loss, Macs, PeakBytes, objective_of
from ofa.search.picture import axis


def test_directions() -> None:
    assert [o.maximise for o in Objective.parse(["accuracy", "macs", "params", "latency_ms", "loss"])] == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert Accuracy().gain(2.0) == 2.0
    assert Macs().gain(2.0) == -2.0


def test_unknown_objective_names_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"no objective 'flops'; the objectives are accuracy, balanced_accuracy, loss, macs"
    ):
        Objective.parse(["accuracy", "flops"])


@pytest.mark.parametrize("names", [[], ["macs", "macs"]])
def test_objectives_are_distinct_and_some(names: list[str]) -> None:
    with pytest.raises(ValueError, match="one or more distinct objectives"):
        Objective.parse(names)


def test_missing_metric() -> None:
    with pytest.raises(ValueError, match=r"'loss' is not among the metrics \['accuracy'\]"):
        Loss().value({"accuracy": 1.0})


def test_figures_are_written_with_units() -> None:
    assert objective_of("accuracy").written(97.314) == "97.31 %"
    assert objective_of("macs").written(12_345_678) == "12.35 M"
    assert objective_of("params").written(12) == "12"
    assert objective_of("latency_ms").written(0.41234) == "0.412 ms"
    assert objective_of("loss").written(None) == "-"
    assert axis("macs", [], 3e6) == ("MACs (M)", 1e6)
    assert PeakBytes().written(2_500_000) == "2.500 MB" and PeakBytes().axis(2.5e6) == ("Peak of activations (MB)", 1e6)
    assert axis("validation_accuracy", [], 99.0) == ("validation_accuracy", 1.0)
    assert axis("accuracy", [], 99.0) == ("Accuracy (%)", 1.0)


def test_budgets_parse() -> None:
    both = Constraint.parse({"macs": 0.5, "params": [1000, 2000], "latency_ms": None})
    assert both == (Constraint("macs", upper=0.5), Constraint("params", upper=2000, lower=1000))


def test_fractions_are_of_the_largest_and_resolved_once() -> None:
    half = Constraint("macs", upper=0.5, lower=0.25).resolved(1000.0)
    assert half.range == (250.0, 500.0)
    assert half.resolved(7.0) == half
    assert Constraint("latency_ms", upper=0.5, absolute=True).resolved(8.0).range == (0.0, 0.5)
    assert half.violation(np.array([125.0, 250.0, 500.0, 1000.0])).tolist() == [0.5, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"flops": 0.5}, "a budget limits macs, params, weight_bytes, peak_bytes, latency_ms, got 'flops'"),
        ({"accuracy": 0.5}, "a budget limits macs.*, got 'accuracy'"),
        ({"macs": -1}, "a positive number or a fraction, got -1"),
        ({"macs": "half"}, "a positive number or a fraction, got 'half'"),
        ({"macs": True}, "a positive number or a fraction, got True"),
        ({"macs": float("nan")}, "a positive number or a fraction, got nan"),
        ({"macs": [1, 2, 3]}, r"an upper limit or a \[lower, upper\] pair"),
        ({"macs": [None, None]}, "a positive number or a fraction, got None"),
        ({"macs": [0.5, 0.25]}, "lower limit 0.5 above the upper 0.25"),
    ],
)
def test_bad_budgets(budget: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Constraint.parse(budget)
