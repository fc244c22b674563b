"""The rule that labels beats, and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.beats.beat_features import LIMIT, RHYTHM, SHAPE
from edge.beats.weak_labels import CLASSES, SURE, Rule


def beats(strange: float = 0.0, interval: float = 1.0, change: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """One beat whose complex is so strange, after so much of a sinus interval, in so changing a rhythm."""
    rhythm, shape = np.zeros((1, len(RHYTHM)), np.float32), np.zeros((1, len(SHAPE)), np.float32)
    rhythm[0, list(RHYTHM).index("interval +0")] = np.log(interval) / np.log(1.25) / RHYTHM["interval +0"][1]
    rhythm[0, list(RHYTHM).index("change")] = (change - RHYTHM["change"][0]) / RHYTHM["change"][1]
    shape[0, list(SHAPE).index("qrs rel")] = strange / SHAPE["qrs rel"][1]
    return rhythm, shape


@pytest.mark.parametrize(
    ("beat", "label"),
    [
        ({}, "N"),
        ({"interval": 0.6}, "S"),
        ({"strange": 2.5, "interval": 0.6}, "V"),
        ({"strange": 2.5}, "V"),
        ({"interval": 0.6, "change": 1.2}, "N"),
    ],
)
def test_what_is_strange_is_v_and_what_is_early_in_a_steady_rhythm_is_s(beat: dict[str, float], label: str) -> None:
    labels, confidence = Rule().label(*beats(**beat))
    assert CLASSES[labels[0]] == label
    assert confidence[0] > SURE


@pytest.mark.parametrize(
    ("beat", "label"),
    [
        ({"strange": 1.05}, "V"),
        ({"strange": 0.95}, "N"),
        ({"strange": 0.85, "interval": 0.6}, "S"),
        ({"interval": 0.78}, "S"),
        ({"interval": 0.82}, "N"),
        ({"interval": 0.6, "change": 0.45}, "S"),
        ({"interval": 0.6, "change": 0.55}, "N"),
    ],
)
def test_beside_a_threshold_it_is_not_sure(beat: dict[str, float], label: str) -> None:
    """Whichever answer it owes the label to.

    Seen to fail with curves a tenth as wide, with strangeness making an S surer, and with ``change`` off its centre.
    """
    labels, confidence = Rule().label(*beats(**beat))
    assert CLASSES[labels[0]] == label
    assert confidence[0] < SURE


features = st.floats(-LIMIT, LIMIT, width=32)


@given(st.lists(features, min_size=31, max_size=31), st.floats(0, 3))
def test_confidence_is_a_share_and_a_stranger_beat_is_surer_a_v(values: list[float], more: float) -> None:
    rhythm, shape = np.array([values[:12]], np.float32), np.array([values[12:]], np.float32)
    labels, confidence = Rule().label(rhythm, shape)
    assert 0 <= confidence[0] <= 1
    if CLASSES[labels[0]] == "V":
        shape[0, list(SHAPE).index("qrs rel")] += np.float32(more)
        stranger, surer = Rule().label(rhythm, shape)
        assert (stranger[0], surer[0] >= confidence[0]) == (labels[0], True)
