"""Figures of beats against a plain count, and what chance leaves open."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.training import ec57

CLASSES = ("N", "S", "V", "F", "Q")
BEATS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=80)


def found(beats: list[tuple[int, int, int]]) -> ec57.Confusions:
    labels, predicted, owners = (np.array(column) for column in zip(*beats, strict=True))
    return ec57.confusions(labels, predicted, np.array([f"person-{owner}" for owner in owners]), CLASSES)


def share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def gross(one: ec57.Confusions) -> NDArray[np.float64]:
    return one.gross.astype(np.float64)


@settings(deadline=None)
@given(BEATS)
def test_figures_are_those_of_counting_beat_by_beat(beats: list[tuple[int, int, int]]) -> None:
    """Seen to fail with rows and columns exchanged, and with F and Q counted against VEB."""
    one = found(beats)
    assert one.counts.sum() == len(beats)
    assert float(ec57.accuracy(gross(one))) == pytest.approx(share(sum(t == p for t, p, _ in beats), len(beats)))
    scores = []
    for place in range(len(CLASSES)):
        there = [p for t, p, _ in beats if t == place]
        said = [t for t, p, _ in beats if p == place]
        se, ppv = share(there.count(place), len(there)), share(said.count(place), len(said))
        f1 = math.nan if not there else 2 * there.count(place) / (len(there) + len(said))
        for statistic, expected in ((ec57.sensitivity, se), (ec57.ppv, ppv), (ec57.f1, f1)):
            assert float(statistic(place)(gross(one))) == pytest.approx(expected, nan_ok=True)
        scores += [f1] if place < 3 and there else []
    macro = sum(scores) / len(scores) if scores else math.nan
    assert float(ec57.macro_f1((0, 1, 2))(gross(one))) == pytest.approx(macro, nan_ok=True)
    for name, positive, judged in (("VEB", 2, "NS"), ("SVEB", 1, "NVF")):
        statistics = ec57.detection(CLASSES, name)
        assert statistics is not None
        true = sum(t == p == positive for t, p, _ in beats)
        false = sum(p == positive and CLASSES[t] in judged for t, p, _ in beats)
        negatives = sum(CLASSES[t] in judged for t, _, _ in beats)
        assert float(statistics["PPV"](gross(one))) == pytest.approx(share(true, true + false), nan_ok=True)
        assert float(statistics["FPR"](gross(one))) == pytest.approx(share(false, negatives), nan_ok=True)


def test_a_published_confusion_gives_the_published_figures() -> None:
    """de Chazal et al. (2004), table of the 22 test records: VEB Se 77.7 and PPV 81.9, SVEB Se 75.9 and PPV 38.5."""
    rows = [
        [38444, 1904, 303, 3509, 98],
        [173, 1395, 252, 16, 1],
        [117, 321, 2504, 176, 102],
        [33, 1, 7, 347, 0],
        [1, 0, 4, 2, 0],
    ]
    counts = np.array(rows, np.float64)
    veb, sveb = ec57.detection(CLASSES, "VEB"), ec57.detection(CLASSES, "SVEB")
    assert veb is not None
    assert sveb is not None
    assert float(veb["Se"](counts)) == pytest.approx(0.777, abs=0.001)
    assert float(veb["PPV"](counts)) == pytest.approx(0.819, abs=0.001)
    assert float(sveb["Se"](counts)) == pytest.approx(0.759, abs=0.001)
    assert float(sveb["PPV"](counts)) == pytest.approx(0.385, abs=0.001)


def test_classes_of_another_task_have_no_ectopic_beats() -> None:
    assert ec57.detection(("calm", "brisk"), "VEB") is None


def test_two_classes_are_enough_where_they_are_those_of_a_detection() -> None:
    """Seen to fail where there had to be a third."""
    assert ec57.detection(("N", "S"), "VEB") is None
    veb = ec57.detection(("N", "V"), "VEB")
    assert veb is not None
    counts = np.array([[90, 10], [5, 15]], np.float64)
    assert {name: float(of(counts)) for name, of in veb.items()} == {"Se": 0.75, "PPV": 0.6, "FPR": 0.1}


@settings(deadline=None, max_examples=30)
@given(BEATS)
def test_an_interval_holds_shares_and_is_the_same_each_time(beats: list[tuple[int, int, int]]) -> None:
    one = found(beats)
    first = ec57.estimate(one, ec57.accuracy)
    assert first.value == pytest.approx(float(ec57.accuracy(gross(one))))
    again = ec57.estimate(one, ec57.accuracy)
    assert [again.low, again.high] == pytest.approx([first.low, first.high], nan_ok=True)
    assert math.isnan(first.low) or 0 <= first.low <= first.high <= 1
    assert math.isnan(first.low) == (len(one.people) == 1)


def test_an_interval_is_over_people_and_not_over_beats() -> None:
    """Two people, one all right and one all wrong: seen to fail where beats are drawn."""
    one = found([(0, 0, 0)] * 500 + [(0, 1, 1)] * 500)
    estimate = ec57.estimate(one, ec57.accuracy)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.0, 1.0)


def test_a_class_that_is_mostly_one_person_s_is_named() -> None:
    one = found([(1, 1, 0)] * 6 + [(1, 1, 1)] * 4 + [(0, 0, 0)] * 5 + [(0, 0, 1)] * 5)
    assert ec57.dominated(one) == {"S": ("person-0", 0.6)}
