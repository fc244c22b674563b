"""A WFDB recording played again: at its own speed, faster, or as fast as it can be read.

At any speed chunks carry the recording's own time, so that gaps, drift and segments come out as they would have then.
A stretch in which no lead has a value is lost samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from edge.live.setting import Kind, Opener, Options, Surroundings
from edge.live.source import Chunk, EndOfSignal, Lead, LiveSource, Signal, SourceLost
from edge.plain_files import plain
from edge.record.wfdb_header import characters, check_rate
from schemas.errors import DataError

_AHEAD_S: Final = 60.0  # of the recording, read at once
_CHUNK_S: Final = 0.25  # of real time between two chunks
_MOST_S: Final = 1.0  # of the recording in a chunk
_MV: Final = {"mV": 1.0, "uV": 1e-3, "V": 1e3}
_FORM: Final = "replay:PATH?speed=1&leads=MLII,V5 (speed=max: as fast as possible)"


class Replay:
    """One record, from its beginning."""

    def __init__(self, record: Path, wanted: tuple[str, ...], speed: float, surroundings: Surroundings) -> None:
        """``speed`` is times its own; infinite: no waiting. Raises ``SourceLost`` where it can't be read."""
        import wfdb  # noqa: PLC0415 - half a second of imports, for who replays

        self._wfdb: Any = wfdb
        self._record = record
        header = self._parsed(wfdb.rdheader)
        _check_plain(record.with_name(name) for name in header.file_name or ())
        _check_rate(record, header.fs)
        names = list(header.sig_name or ())
        missing = [name for name in wanted if name not in names]
        if missing or not names:
            raise SourceLost(f"{record} has no lead {', '.join(missing) or 'at all'}; it has: {', '.join(names)}")
        self._channels = [names.index(name) for name in wanted] or _in_volts(header.units)
        if not self._channels or not set(self._channels) <= set(_in_volts(header.units)):
            raise SourceLost(f"{record} has no lead in volts, or one of those named is in something else")
        self._mv = [_MV[header.units[i]] for i in self._channels]
        leads = tuple(
            Lead(names[i], float(header.adc_gain[i]) / unit, int(header.baseline[i]))
            for i, unit in zip(self._channels, self._mv, strict=True)
        )
        self.signal = Signal(leads, float(header.fs))
        self._speed = speed
        self._clock = surroundings.clock
        self._began = self._clock()
        self._length = int(header.sig_len or 0)
        self._next = 0  # sample of the record
        self._block: list[list[float]] = []
        self._block_at = 0
        self._lost = 0
        self._most = max(1, round(self.signal.rate * min(_MOST_S, _CHUNK_S * speed)))

    def read(self, wait_s: float) -> Chunk | None:
        """The next moment of the recording, when its time has come."""
        if self._next >= self._length:
            raise EndOfSignal
        stop = min(self._next + self._most, self._length)
        if self._speed < math.inf:
            due = self._began + stop / self.signal.rate / self._speed
            pause = due - self._clock()
            if pause > 0:
                time.sleep(min(pause, wait_s))
                if pause > wait_s:
                    return None
        return self._cut(stop)

    def close(self) -> None:
        """Let go of it."""
        self._block = []

    def _cut(self, stop: int) -> Chunk | None:
        if self._next >= self._block_at + (len(self._block[0]) if self._block else 0):
            self._load()
        start = self._next - self._block_at
        rows = [lead[start : start + stop - self._next] for lead in self._block]
        length = _run(rows, missing=False)
        if not length:
            absent = _run(rows, missing=True)
            self._next += absent
            self._lost += absent
            return None
        self._next += length
        lost, self._lost = self._lost, 0
        at = self._began + (self._next - 1) / self.signal.rate
        return Chunk(at, tuple(row[:length] for row in rows), lost)

    def _load(self) -> None:
        stop = min(self._length, self._next + max(self._most, round(self.signal.rate * _AHEAD_S)))
        read = self._parsed(self._wfdb.rdrecord, sampfrom=self._next, sampto=stop, channels=self._channels)
        columns = zip(read.p_signal.T, self._mv, strict=True)
        self._block, self._block_at = [(column * unit).tolist() for column, unit in columns], self._next

    def _parsed(self, parse: Any, **options: object) -> Any:
        try:
            return parse(str(self._record), **options)
        except PermissionError as error:
            raise SourceLost(f"can't read {error.filename}: {error.strerror}; see to its owner") from None
        except Exception as error:
            raise SourceLost(
                f"{self._record} can't be read as WFDB ({type(error).__name__}: {error}): copy it again"
            ) from error


def _check_plain(files: Iterable[Path]) -> None:
    try:
        for file in files:
            plain(file)
    except (OSError, DataError) as error:
        raise SourceLost(str(error)) from None


def _check_rate(record: Path, taken: float) -> None:
    try:
        check_rate(characters(record.with_name(f"{record.name}.hea").read_bytes()), taken)
    except (OSError, DataError) as error:
        raise SourceLost(f"{record} {error}") from None


def _in_volts(units: list[str]) -> list[int]:
    return [number for number, unit in enumerate(units) if unit in _MV]


def _run(rows: list[list[float]], *, missing: bool) -> int:
    """How many frames at the beginning have no value at all, or have one."""
    gone = [all(map(math.isnan, frame)) for frame in zip(*rows, strict=True)]
    return next((number for number, each in enumerate(gone) if each != missing), len(gone))


def _read(options: Options, surroundings: Surroundings) -> Opener:
    speed = options.text("speed", "1")
    times = math.inf if speed == "max" else options.number("speed", 1.0, least=0.01, most=10_000)
    wanted = tuple(name for name in options.text("leads").split(",") if name)
    options.done()
    return partial(_open, Path(options.place), wanted, times, surroundings)


def _open(record: Path, wanted: tuple[str, ...], times: float, surroundings: Surroundings) -> LiveSource:
    record = record.with_suffix("") if record.suffix == ".hea" else record
    if not record.name or not record.with_name(f"{record.name}.hea").is_file():
        raise SourceLost(f"there is no WFDB recording at {record}: give a record's name without its ending")
    return Replay(record, wanted, times, surroundings)


KIND = Kind(_FORM, "a WFDB recording, again", "replay:recordings/100?speed=max", _read)
