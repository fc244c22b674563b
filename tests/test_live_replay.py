from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import wfdb

from edge.live import open_source
from edge.live.setting import Surroundings
from edge.live.source import Chunk, EndOfSignal, LiveSource, SourceLost
from schemas.errors import SettingsError
from tests.live_reading import opened, values
from tests.running_commands import MITDB


def played(source: LiveSource) -> list[Chunk]:
    chunks: list[Chunk] = []
    while True:
        try:
            chunk = source.read(1.0)
        except EndOfSignal:
            return chunks
        if chunk is not None:
            chunks.append(chunk)


@pytest.fixture
def record(tmp_path: Path) -> str:
    """Two leads at 100 Hz for 100 s, one in uV; from 2 to 3 s both are missing, from 5 to 6 s one is."""
    signal = np.stack([np.arange(10_000) % 200 / 100.0, np.arange(10_000) % 50 * 1.0], axis=1)
    signal[200:300] = np.nan
    signal[500:600, 1] = np.nan
    names = {"units": ["mV", "uV"], "sig_name": ["I", "II"], "fmt": ["16", "16"]}
    gains = {"adc_gain": [100.0, 1.0], "baseline": [5, 7]}
    wfdb.wrsamp("rec", fs=100, p_signal=signal, write_dir=str(tmp_path), **names, **gains)
    return str(tmp_path / "rec")


def test_as_fast_as_possible_it_is_the_recording_in_its_own_time(record: str) -> None:
    with opened(f"replay:{record}?speed=max") as source:
        assert [(lead.name, lead.gain, lead.baseline) for lead in source.signal.leads] == [
            ("I", 100.0, 5),
            ("II", 1000.0, 7),
        ]
        chunks = played(source)
    assert sum(len(chunk.samples[0]) for chunk in chunks) == 9_900
    assert [chunk.lost for chunk in chunks if chunk.lost] == [100]
    second = np.array(values(chunks, 1))
    assert np.isnan(second).sum() == 100
    assert second[:3] == pytest.approx([0.0, 0.001, 0.002])
    began = chunks[0].at - (len(chunks[0].samples[0]) - 1) / 100
    assert chunks[-1].at - began == pytest.approx(99.99)
    for before, after in pairwise(chunks):
        assert after.at - before.at == pytest.approx((len(after.samples[0]) + after.lost) / 100)


def test_at_a_speed_it_waits_for_its_time(record: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    source = open_source(f"replay:{record}?speed=4&leads=II", Surroundings(lambda: now[0]))
    chunks = played(source)
    assert now[0] == pytest.approx(1000.0 + 100 / 4)
    assert [lead.name for lead in source.signal.leads] == ["II"]
    assert max(len(chunk.samples[0]) for chunk in chunks) == 100


def test_it_does_not_keep_its_reader_longer_than_it_may() -> None:
    with opened(f"replay:{MITDB / '100'}?speed=0.01") as source:
        began = time.monotonic()
        assert source.read(0.05) is None
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        ("replay:{}/nothing", SourceLost, "there is no WFDB recording at .*nothing: give a record's name"),
        ("replay:.", SourceLost, r"there is no WFDB recording at \.: give a record's name"),
        ("replay:{}/rec?leads=V9", SourceLost, "has no lead V9; it has: I, II"),
        ("replay:{}/rec?speed=0", SettingsError, "speed=0 isn't between 0.01 and 10000"),
        ("replay:{}/broken", SourceLost, r"can't be read as WFDB \(.*\): copy it again"),
        ("replay:{}/blood", SourceLost, "has no lead in volts"),
        ("replay:{}/backward", SourceLost, "backward has a header with -360 for a sampling rate"),
        ("replay:", SettingsError, "it doesn't say where"),
        ("replay:{}/rec?rate=250", SettingsError, "'rate' is no option of it; these are: speed, leads"),
    ],
)
def test_what_can_not_be_played_is_told(
    record: str, tmp_path: Path, setting: str, error: type[Exception], words: str
) -> None:
    assert record
    (tmp_path / "broken.hea").write_text("\0\1\2")
    (tmp_path / "blood.hea").write_text("blood 1 100 10\nblood.dat 16 1/mmHg 16 0 0 0 0 ABP\n")
    (tmp_path / "backward.hea").write_text("backward 1 -360 10\nrec.dat 16 200/mV 16 0 0 0 0 I\n")
    with pytest.raises(error, match=words):
        open_source(setting.format(tmp_path), Surroundings(time.monotonic))
