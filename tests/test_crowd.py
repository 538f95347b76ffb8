"""A thousand simulated workers on the table of experiments/search: who is idle, and what the front is worth."""

from __future__ import annotations

import pytest

from experiments.search.crowd import FOLDER, Tabulated, searched
from experiments.search.spaces import read
from ofa.search import Evolution


def test_a_thousand_workers_are_busy_and_find_what_one_finds() -> None:
    tabulated = Tabulated(read(FOLDER / "table.csv.gz"))
    serial = searched(tabulated, Evolution(population=50, evaluations=3000), workers=1, seed=0)
    crowd = searched(tabulated, Evolution(population=50, evaluations=3000), workers=1000, seed=0)
    batches = searched(tabulated, Evolution(population=1000, evaluations=3000), workers=1000, seed=0, freely=False)
    for found in (serial, crowd, batches):
        assert len(set(found.subnets)) == len(found.subnets) == found.crowd.begun == 3000, "one was lost, or made twice"
        assert found.crowd.deaths > 50
    assert crowd.crowd.idle < 10, "restarts alone take some four per cent"
    assert batches.crowd.idle > 80, "the stragglers of a batch let all others wait"
    assert serial.share > 95 and crowd.share == pytest.approx(serial.share, abs=1.5)
