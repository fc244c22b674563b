from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.live.lines import LONGEST, Lines, lines_of
from edge.live.setting import Options, Scale
from edge.live.source import Chunk, Lead, Signal
from schemas.errors import SettingsError

RATE = 100.0


def reader(columns: tuple[int, ...] = (0,), *, from_middle: bool = False) -> Lines:
    leads = tuple(Lead(f"lead{number}") for number in columns)
    return Lines(Signal(leads, RATE), columns, Scale(0.0, 1.0), from_middle=from_middle)


def taken(lines: Lines) -> list[Chunk]:
    return list(iter(lines.take, None))


@settings(deadline=None)
@given(st.lists(st.integers(-(2**15), 2**15), min_size=1, max_size=50), st.data())
def test_however_the_bytes_are_cut_the_samples_are_the_same(values: list[int], data: st.DataObject) -> None:
    raw = "".join(f"{value}\r\n" for value in values).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    lines = reader()
    for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        lines.feed(raw[start:stop], 0.0)
    chunks = taken(lines)
    assert [value for chunk in chunks for value in chunk.samples[0]] == values
    assert not any(chunk.lost for chunk in chunks)


def test_columns_become_leads_in_mv_whatever_parts_them() -> None:
    lines = Lines(Signal((Lead("a"), Lead("b")), RATE), (2, 0), Scale(512.0, 0.01), from_middle=False)
    lines.feed(b"612, 7;412\n512 7\t512\n", 1.0)
    (chunk,) = taken(lines)
    assert [list(lead) for lead in chunk.samples] == [pytest.approx([-1.0, 0.0]), pytest.approx([1.0, 0.0])]


def test_a_line_that_is_no_number_is_a_sample_that_is_missing() -> None:
    lines = reader()
    lines.feed(b"1\n2\n!\n!\n3\n4\nnan\n", 10.0)
    lines.feed(b"5\n", 10.5)
    first, second, third = taken(lines)
    assert [list(chunk.samples[0]) for chunk in (first, second, third)] == [[1, 2], [3, 4], [5]]
    assert [chunk.lost for chunk in (first, second, third)] == [0, 2, 1]
    assert [chunk.at for chunk in (first, second, third)] == pytest.approx([10.0 - 5 / RATE, 10.0 - 1 / RATE, 10.5])


def test_a_mark_of_an_electrode_that_is_off_is_told_from_other_noise() -> None:
    """Seen to fail where both are samples that are missing, and no more."""
    lines = reader()
    told = []
    for raw in (b"1\n!\n", b"!\r\n!\n", b"2\n3\nnoise\n", b"4\n"):
        lines.feed(raw, 10.0)
        told.append(lines.off)
    assert told == [True, True, False, False]
    assert [(chunk.lost, chunk.marked) for chunk in taken(lines)] == [(0, False), (3, True), (1, False)]


def test_the_rest_of_a_line_at_the_beginning_is_thrown_away_where_it_may_be_one() -> None:
    lines = reader(from_middle=True)
    lines.feed(b"23\n124\n", 0.0)
    assert taken(lines)[0].samples == ([124.0],)


@settings(deadline=None)
@given(st.binary(max_size=3 * LONGEST))
def test_noise_gives_finite_samples_or_none_and_takes_no_memory(noise: bytes) -> None:
    lines = reader()
    for start in range(0, len(noise), 100):
        lines.feed(noise[start : start + 100], 0.0)
        assert len(lines._rest) <= LONGEST
    assert all(math.isfinite(value) for chunk in taken(lines) for value in chunk.samples[0])


def test_options_say_what_a_line_holds() -> None:
    lines = lines_of(Options("tcp:h:1?rate=250&columns=1,3&leads=MLII,V5&scale=0.5&zero=2", "the form"))
    assert lines.signal == Signal((Lead("MLII"), Lead("V5")), 250.0)
    lines.feed(b"0,4,0,6\n", 0.0)
    assert taken(lines)[0].samples == ([1.0], [2.0])


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "add rate="),
        ("rate=0", "rate=0 isn't between 1 and 10000"),
        ("rate=nan", "rate=nan isn't between"),
        ("rate=250&columns=a", "columns=a is to name columns"),
        ("rate=250&columns=0,1&leads=a", "name 2 leads"),
        ("rate=250&leads=a,a", "each by a name of its own"),
        ("rate", "is no option: write name=value"),
    ],
)
def test_options_that_make_no_sense_are_told_with_how_to_write_them(query: str, words: str) -> None:
    with pytest.raises(SettingsError) as error:
        lines_of(Options(f"tcp:h:1?{query}", "tcp:HOST:PORT?rate=250"))
    assert words in str(error.value)
    assert "It is written tcp:HOST:PORT?rate=250" in str(error.value)
