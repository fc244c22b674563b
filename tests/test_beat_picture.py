"""A beat drawn in characters."""

from __future__ import annotations

import numpy as np
import pytest

from edge.beats.beat_features import BEFORE
from edge.label.beat_picture import BESIDE, HIGHEST, Picture

WAVE = np.maximum(0, 1 - np.abs(np.arange(128) - BEFORE) / 8).astype(np.float32)
PICTURE = Picture(WAVE, -WAVE, 0.5, 1.2, 1.0)


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 60), (BESIDE, 10), (40, 12)])
def test_it_fits_its_terminal_and_its_peak_is_above_its_mark(columns: int, rows: int) -> None:
    """Seen to fail with the picture turned upside down."""
    *field, foot = PICTURE.lines(columns, rows)
    assert max(map(len, [*field, foot])) <= columns
    assert len(field) + 1 <= min(rows, HIGHEST + 1)
    assert abs(foot.index("^") - field[0].index("*")) <= 1
    assert all("*" in row for row in field[: len(field) // 2 - 1])


def test_the_usual_beat_is_drawn_where_there_is_room() -> None:
    assert any("." in row for row in list(PICTURE.lines(80, 24))[:-1])
    assert not any("." in row for row in list(PICTURE.lines(BESIDE - 1, 24))[:-1])


def test_a_flat_beat_and_the_last_one_are_drawn_too() -> None:
    flat = Picture(np.zeros(128, np.float32), np.zeros(128, np.float32), 0.5, None, 1.0)
    assert sum(row.count("*") for row in flat.lines(40, 12)) > 20
    assert flat.intervals() == "before 0.50 s (50% of usual)"
    assert PICTURE.intervals() == "before 0.50 s (50% of usual), after 1.20 s (120%)"
