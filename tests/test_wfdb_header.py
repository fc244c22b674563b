from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.live.source import Lead, Signal
from edge.record.wfdb_header import Header, checksum, glimpse, parse, text
from schemas.errors import DataError
from tests.running_commands import MITDB

DAY = datetime.fromisoformat("2026-01-02T03:04:05")
names = st.text("abcdefgXYZ 019", min_size=1, max_size=12).map(lambda words: " ".join(words.split())).filter(bool)
leads = st.builds(
    Lead,
    st.text("abcXYZ019-_", min_size=1, max_size=12),
    st.floats(0.5, 1e5).map(lambda gain: float(f"{gain:.12g}")),
    st.integers(-(2**15), 2**15),
)
headers = st.builds(
    Header,
    st.just("ecg_000007_20260102T030405"),
    st.builds(
        Signal, st.lists(leads, min_size=1, max_size=4).map(tuple), st.floats(1, 1e4).map(lambda r: float(f"{r:.12g}"))
    ),
    st.integers(-(10**9), 10**9).map(lambda seconds: DAY + timedelta(seconds=seconds)),
    st.one_of(st.none(), st.integers(1, 10**9)),
    notes=st.dictionaries(st.text("abc_", min_size=1, max_size=9), names, max_size=4),
)


@settings(deadline=None)
@given(headers, st.data())
def test_what_is_written_is_read(header: Header, data: st.DataObject) -> None:
    of_each = st.tuples(*[st.integers(-(2**15), 2**15 - 1) for _ in header.signal.leads])
    header = Header(
        header.name,
        header.signal,
        header.started,
        header.samples,
        data.draw(of_each),
        data.draw(of_each),
        header.notes,
    )
    assert parse(text(header)) == header


def test_wfdb_reads_it_as_it_was_meant(tmp_path: Path) -> None:
    signal = Signal((Lead("MLII", 200.0, 1024), Lead("V 5", 1000.0)), 360.5)
    header = Header("seg", signal, DAY, 10, (7, -8), (-9, 10), {"after": "a gap"})
    (tmp_path / "seg.hea").write_text(text(header))
    read = wfdb.rdheader(str(tmp_path / "seg"))
    assert (read.sig_name, read.units, read.fmt) == (["MLII", "V 5"], ["mV", "mV"], ["16", "16"])
    assert (read.fs, read.sig_len, read.base_datetime) == (360.5, 10, DAY)
    assert (read.adc_gain, read.baseline) == ([200.0, 1000.0], [1024, 0])
    assert (read.init_value, read.checksum, read.comments) == ([7, -8], [-9, 10], ["after: a gap"])


def test_others_headers_are_glimpsed_too() -> None:
    glance = glimpse((MITDB / "100.hea").read_text())
    assert (glance.name, glance.leads, glance.rate, glance.samples) == ("100", 2, 360.0, 650_000)
    assert glance.length_s == pytest.approx(1805.6, abs=0.1)
    with pytest.raises(DataError):
        parse((MITDB / "100.hea").read_text())


@settings(deadline=None)
@given(st.text(max_size=200))
def test_what_is_no_header_is_told_and_nothing_else_happens(content: str) -> None:
    for read in (glimpse, parse):
        try:
            read(content)
        except DataError:
            continue


@settings(deadline=None)
@given(st.integers(-(2**40), 2**40))
def test_a_checksum_is_sixteen_bits_with_a_sign(total: int) -> None:
    found = checksum(total)
    assert -(2**15) <= found < 2**15
    assert (found - total) % 2**16 == 0
