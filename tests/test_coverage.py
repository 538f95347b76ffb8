"""Every family of timm and torchvision converts, or freezes parts with a reason; none crashes. Half an hour."""

from __future__ import annotations

import csv

import pytest

from experiments.coverage.families import families
from experiments.coverage.run import RESULTS, in_process_of_its_own


@pytest.mark.slow
@pytest.mark.parametrize(("family", "model"), families())
def test_a_family_converts_and_is_proved(family: str, model: str) -> None:
    row = in_process_of_its_own(family, model, limit=600)
    assert row["status"] in ("converted", "partly"), row["reasons"]
    assert row["largest_is_original"] and row["extracted_is_active"]
    assert row["error"] < 1e-4
    assert row["status"] == "converted" or row["reasons"]


def test_the_published_table_says_what_it_claims() -> None:
    rows = list(csv.DictReader(RESULTS.read_text().splitlines()))
    half = [row for row in rows if row["status"] == "converted"]
    assert all(float(row["params_elastic"]) >= 0.5 and float(row["error"]) < 1e-4 for row in half)
    assert all(row["largest_is_original"] == row["extracted_is_active"] == "True" for row in half)
