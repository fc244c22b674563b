"""The word for synthetic people."""

from __future__ import annotations

import pytest

from edge.data_show import describe
from edge.dataspec import DataSpec
from edge.sources import open_source, prepare
from schemas.errors import DataError


def test_any_number_of_people_have_labelled_beats_and_are_said_to_be_synthetic() -> None:
    report = describe("synthetic-ecg:6", "ecg-beats")
    assert len(report.owners) == 6
    assert {name for name, count in report.classes.items() if count} == {"N", "S", "V"}
    assert "synthetic" in report.kind
    assert any("says nothing about patients" in note for note in report.notes)
    assert len(open_source("synthetic-ecg:10000", "ecg-beats").owners) == 10_000


@pytest.mark.parametrize("path", ["synthetic-ecg:", "synthetic-ecg:0", "synthetic-ecg:10001", "synthetic-ecg:x"])
def test_a_number_that_is_none_is_told(path: str) -> None:
    with pytest.raises(DataError, match=r"synthetic-ecg:N for N of them"):
        open_source(path, "ecg-beats")


def test_a_device_makes_only_its_own_people() -> None:
    prepared = prepare(DataSpec(path="synthetic-ecg:10", devices=4, index=2), "ecg-beats")
    assert len(prepared.train.owner_counts()) == 2
    assert any("synthetic" in note for note in prepared.notes)
