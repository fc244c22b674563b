"""The shell of recording: a source is read, ``segments`` decides, ``recordings`` writes. One loop does it.

The source has a thread of its own, so that nothing is lost while the loop waits for the disk.

It goes on for as long as it isn't stopped: a source that is lost is opened again, ever less often; a disk that takes no
more costs what can't be written, and is tried again each second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from edge.live import description
from edge.live.ahead import Ahead
from edge.live.source import EndOfSignal, LiveSource, SourceLost
from edge.record.quality import OFF_S
from edge.record.recordings import FULL, Recordings
from edge.record.segment_files import Segment
from edge.record.segments import (
    LOOK_S,
    SEE_TO,
    SILENT_S,
    Begin,
    Closed,
    Effect,
    Event,
    Finish,
    Heard,
    Opened,
    Passed,
    Refused,
    Rules,
    State,
    Write,
    flat,
    step,
)
from edge.record.timeline import rate_told, wrong_rate
from schemas.errors import DiskFull, FedbeatError, SettingsError

_AGAIN_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)  # waits before a lost source is opened again


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept."""

    most: int | None = None  # bytes
    age_s: float | None = None  # of running


@dataclass(frozen=True, slots=True)
class Told:
    """Something an owner may want to know."""

    event: str  # source, silent, off, flat, heard, rate, lost, segment, recovered, removed, full, room, trouble, end
    text: str
    segment: Segment | None = None

    def as_json(self) -> str:
        """One line for programs."""
        about: dict[str, object] = {"event": self.event, "text": self.text}
        if self.segment is not None:
            glance = self.segment.glance
            about |= {"name": glance.name, "seconds": round(glance.length_s, 3), "bytes": self.segment.size}
            about |= {"notes": dict(glance.notes)}
        return json.dumps(about)


class Recorder:
    """Records one source into one directory. ``stop`` may be called from any thread, or a signal handler."""

    def __init__(
        self,
        source: str,
        opened: Callable[[], LiveSource],
        store: Recordings,
        rules: Rules,
        retention: Retention,
        clock: Callable[[], float],
        tell: Callable[[Told], None],
    ) -> None:
        """``opened`` opens ``source``, again and again if need be; ``clock`` is monotonic."""
        self._source = description(source)
        self._open = opened
        self._store = store
        self._retention = retention
        self._clock = clock
        self._tell = tell
        self._began = clock()
        self._state = State(rules)
        self._stopping = False  # no Event: a signal handler that sets one while it is waited for would hang
        self._full = False
        self._failures = 0
        self._rate_told = False  # of the segment in hand
        self._amiss = ""  # the newest that was told of what comes, silent, off or flat; empty where all is well

    def stop(self) -> None:
        """Have ``run`` return soon."""
        self._stopping = True

    def run(self, *, patient: bool = False) -> None:
        """Record until stopped, or until the source ends.

        Raises ``SourceLost`` where it can't be opened the first time, unless ``patient``, and ``SettingsError`` where
        it can't be what was set. One that comes back as something else, such as a converter at its driver's own rate,
        is tried again, since somebody may set that right.
        """
        was_there = False
        for segment in self._store.recover():
            self._tell(Told("recovered", f"finished after a crash: {line(segment)}", segment))
        self._prune()
        try:
            while not self._stopping:
                try:
                    source = self._open()
                except (SourceLost, SettingsError) as error:
                    if not was_there and not (patient and isinstance(error, SourceLost)):
                        raise
                    self._wait(error)
                    continue
                was_there = True
                with closing(Ahead(source, self._clock)) as ahead:
                    if self._read(ahead):
                        return
        finally:
            self._step(Closed("stopped"))

    def _read(self, source: Ahead) -> bool:
        """Record until stopped, or until the source is lost or ends; whether it has ended."""
        self._tell(Told("source", f"recording {self._source}: {_form(source)}"))
        self._step(Opened(source.signal))
        heard_at, self._amiss = self._clock(), ""
        try:
            while not self._stopping:
                came = source.take(LOOK_S)
                if came is None:
                    self._step(Passed(self._clock(), source.off))
                    self._mind_silence(self._clock() - heard_at, off=source.off)
                else:
                    self._failures, heard_at = 0, self._clock()
                    self._step(Heard(*came))
                    self._mind_electrodes()
                    self._mind_rate(source.signal.rate)
            for rest in source.stop():
                self._step(Heard(*rest))
        except EndOfSignal:
            self._step(Closed("end"))
            self._tell(Told("end", "the source has ended"))
            return True
        except SourceLost as error:
            self._step(Closed("source lost"))
            self._wait(error)
        return False

    def _mind_silence(self, seconds: float, *, off: bool) -> None:
        """Say so once where nothing has come for so long."""
        if off and seconds >= OFF_S and self._amiss != "off":
            self._amiss = "off"
            self._tell(Told("off", f"the source says that an electrode is off: {SEE_TO}"))
        elif not off and seconds >= SILENT_S and self._amiss != "silent":
            self._amiss = "silent"
            self._tell(Told("silent", f"nothing has come for {SILENT_S:.0f} s: {SEE_TO}"))

    def _mind_electrodes(self) -> None:
        """Say so once where samples come of which a lead is flat, and where it is well again."""
        off = flat(self._state)
        if self._amiss in {"silent", "off"}:
            self._amiss = ""
            self._tell(Told("heard", "samples come again: recording goes on"))
        elif off and self._amiss != "flat":
            self._amiss = "flat"
            self._tell(Told("flat", f"{', '.join(off)} has been flat for {OFF_S} s: {SEE_TO}; it is recorded as it is"))
        elif off == () and self._amiss == "flat":
            self._amiss = ""
            self._tell(Told("heard", "no lead is flat any more"))

    def _mind_rate(self, claimed: float) -> None:
        """Say so in each segment where the source's rate is another than it claims: nothing else would show it."""
        timeline = self._state.timeline
        measured = timeline.measured_rate if timeline else None
        if self._rate_told or measured is None or not wrong_rate(claimed, measured):
            return
        self._rate_told = True
        self._tell(Told("rate", rate_told(claimed, measured)))

    def _wait(self, error: FedbeatError) -> None:
        pause = _AGAIN_S[min(self._failures, len(_AGAIN_S) - 1)]
        self._failures += 1
        self._tell(Told("lost", f"{error}; trying again in {pause:.0f} s"))
        until = self._clock() + pause
        while not self._stopping and self._clock() < until:
            time.sleep(LOOK_S)

    def _step(self, event: Event) -> None:
        self._state, effects = step(self._state, event)
        try:
            for effect in effects:
                self._carry_out(effect)
        except DiskFull as error:
            self._state, _ = step(self._state, Refused(FULL))
            if not self._full:
                self._tell(Told("full", str(error)))
            self._full = True

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Begin(signal, notes):
                about = {"source": self._source, "running_s": f"{self._running_s:.1f}", **notes}
                self._store.begin(signal, about)
            case Write(frames, sync):
                self._store.append(frames, sync=sync)
                if self._full:
                    self._full = False
                    self._tell(Told("room", "there is room again: recording goes on"))
                    self._recover()
            case Finish(notes):
                self._rate_told = False
                segment = self._store.finish({**notes, "ended_s": f"{self._running_s:.1f}"})
                if segment is not None:
                    self._tell(Told("segment", line(segment), segment))
                    self._recover()
                self._prune()

    def _recover(self) -> None:
        """Finish what there was no room to finish."""
        if not self._store.unfinished:
            return
        for segment in self._store.recover():
            self._tell(Told("segment", line(segment), segment))

    @property
    def _running_s(self) -> float:
        return self._store.ran_s + self._clock() - self._began

    def _prune(self) -> None:
        for segment in self._store.prune(self._retention.most, self._retention.age_s, self._running_s):
            self._tell(Told("removed", f"removed {segment.glance.name}", segment))


def _form(source: Ahead) -> str:
    signal = source.signal
    return f"{', '.join(lead.name for lead in signal.leads)} at {signal.rate:g} Hz"


def line(segment: Segment) -> str:
    """A segment as a person reads it."""
    glance, notes = segment.glance, segment.glance.notes
    parts = [
        f"{glance.name}  {glance.length_s:.1f} s  {segment.size / 1000:.0f} kB  quality {notes.get('quality', '?')}"
    ]
    if notes.get("after", "") not in {"", "start", "length"}:
        parts.append(f"after {notes['after']}, {notes.get('gap_s', '?')} s")
    return "  ".join(parts)
