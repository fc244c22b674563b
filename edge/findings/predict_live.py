"""``edge predict --live``: a signal's beats classified as they come, a line for each window and each alert. A shell."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge.findings.alerts import Limits, alerts, words
from edge.findings.beat_windows import Window
from edge.findings.classifier import BeatClassifier, Runtime
from edge.findings.live_findings import LiveFindings
from edge.live import description, open_source
from edge.live.ahead import Ahead
from edge.live.setting import Surroundings
from edge.live.source import Chunk, EndOfSignal, Signal, SourceLost
from edge.record.segments import BRIDGED_S, GAP_S, SEE_TO, SILENT_S
from edge.record.timeline import Timeline, rate_told, wrong_rate
from edge.sources.ecg_beats import CLASSES
from edge.sources.wfdb_records import LEAD
from schemas.counted import counted
from schemas.errors import SettingsError

_LOOK_S: Final = 0.25
_AGAIN_S: Final = 5.0  # before a lost source is opened again


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is watched, and with which model."""

    source: str
    plan: str
    model: Path | None
    state: Path | None
    runtime: Runtime
    window_s: float
    limits: Limits


class Watch:
    """Watches one source. ``stop`` may be called from a signal handler."""

    def __init__(self, chosen: Chosen, tell: Callable[[dict[str, Any]], None]) -> None:
        """``tell`` is given an event at a time. Raises any ``FedbeatError``."""
        self._chosen = chosen
        self._tell = tell
        self._live = LiveFindings(
            BeatClassifier.of(chosen.plan, chosen.model, chosen.runtime, chosen.state), chosen.window_s
        )
        self._totals: Counter[str] = Counter()
        self._alerts: Counter[str] = Counter()
        self._seconds = 0.0
        self._began: float | None = None
        self._taken_at: float | None = None
        self._ended = 0.0  # the newest chunk, by the signal's clock
        self._heard_at = 0.0  # when it came, or the source was opened
        self._silent = False  # and that nothing has come since was told
        self._timeline: Timeline | None = None  # of the samples since the newest gap
        self._rate_told = False  # of this source
        self._stopping = False  # no Event: a signal handler that sets one while it is waited for would hang

    def stop(self) -> None:
        """Have ``run`` return soon."""
        self._stopping = True

    def run(self) -> None:
        """Watch until stopped, or until the source ends; a summary comes last, where there was anything to watch.

        Raises ``SourceLost`` where it can't be opened the first time.
        """
        first, said = self._opened(), ""
        try:
            with closing(first) as source:
                over = self._read(source)
            while not (over or self._stopping):
                try:
                    with closing(self._opened()) as source:
                        over = self._read(source)
                except SettingsError as error:  # it came back as something else, which somebody may set right
                    if str(error) != said:
                        said = str(error)
                        self._tell({"event": "lost", "text": f"{said}; trying again"})
                    self._pause()
                except SourceLost:
                    self._pause()
        finally:
            self._told(self._live.finish())
            beats = {name: self._totals[name] for name in CLASSES}
            about = {"signal_s": round(self._seconds, 1), "beats": beats, "alerts": dict(self._alerts)}
            self._tell({"event": "summary", **about})

    def _opened(self) -> Ahead:
        source = Ahead(open_source(self._chosen.source, Surroundings(time.monotonic)), time.monotonic)
        self._tell({"event": "source", "source": description(self._chosen.source), "rate": source.signal.rate})
        self._heard_at, self._silent, self._timeline, self._rate_told = time.monotonic(), False, None, False
        return source

    def _read(self, source: Ahead) -> bool:
        """Take what comes until stopped, lost or ended; whether it has ended."""
        try:
            while not self._stopping:
                came = source.take(_LOOK_S)
                if came is None:
                    self._mind_silence()
                    if not self._silent and time.monotonic() - self._heard_at >= SILENT_S:
                        self._silent = True
                        self._tell({"event": "silent", "text": f"nothing has come for {SILENT_S:.0f} s: {SEE_TO}"})
                else:
                    self._take(source.signal, came[0])
        except EndOfSignal:
            return True
        except SourceLost as error:
            self._tell({"event": "lost", "text": f"{error}; trying again"})
            self._live.part()
            self._taken_at = None
            self._pause()
        return False

    def _pause(self) -> None:
        until = time.monotonic() + _AGAIN_S
        while not self._stopping and time.monotonic() < until:
            time.sleep(_LOOK_S)
            self._mind_silence()

    def _mind_silence(self) -> None:
        """Tell what is open, where nothing has come for long: nobody knows whether anything will."""
        self._told(self._live.lapsed(self._ended + time.monotonic() - self._heard_at))

    def _take(self, signal: Signal, chunk: Chunk) -> None:
        names = [lead.name for lead in signal.leads]
        samples = np.asarray(chunk.samples[names.index(LEAD) if LEAD in names else 0], np.float64)
        late_s = 0.0
        if self._taken_at is not None:
            late_s = chunk.at - (len(samples) + chunk.lost) / signal.rate - self._taken_at
        if self._began is None:
            self._began = chunk.at - len(samples) / signal.rate
        if chunk.lost > BRIDGED_S * signal.rate or late_s > GAP_S:
            self._live.part()
            self._timeline = None
        elif chunk.lost:
            samples = np.concatenate([np.full(chunk.lost, samples[0]), samples])
        self._taken_at = self._ended = chunk.at
        self._heard_at = time.monotonic()
        if self._silent:
            self._silent = False
            self._tell({"event": "heard", "text": "samples come again"})
        self._mind_rate(signal.rate, chunk.at, len(samples))
        self._told(self._live.feed(samples, signal.rate, chunk.at))

    def _mind_rate(self, claimed: float, at: float, count: int) -> None:
        """Say so once where the source's rate is another than it claims: every heart rate here is wrong then."""
        line = (self._timeline or Timeline(claimed)).heard(at, count)
        self._timeline = None if line.slipped_s else line  # what was lost, unreported, is no other rate
        measured = line.measured_rate
        if line.slipped_s or measured is None:
            return
        if not self._rate_told and wrong_rate(claimed, measured):
            self._rate_told = True
            self._tell({"event": "rate", "measured_hz": round(measured, 1), "text": rate_told(claimed, measured)})

    def _told(self, windows: Sequence[Window]) -> None:
        for window in windows:
            self._totals.update(window.beats)
            self._seconds += window.signal_s
            began = self._began or 0.0
            about = asdict(window) | {"began_s": window.began_s - began, "ended_s": window.ended_s - began}
            self._tell({"event": "window", **about})
            for alert in alerts(window, self._chosen.limits):
                self._alerts[alert.rule] += 1
                self._tell(
                    {"event": "alert", "ended_s": window.ended_s - began, **alert.model_dump(), "text": words(alert)}
                )


def in_words(told: dict[str, Any]) -> Iterator[str]:
    """An event for people."""
    match told["event"]:
        case "source":
            yield f"watching {told['source']} at {told['rate']:g} Hz"
        case "lost" | "silent" | "heard" | "rate":
            yield str(told["text"])
        case "window":
            rate = "  -" if told["rate"] is None else f"{told['rate']:3}"
            counts = "  ".join(f"{name} {told['beats'].get(name, 0)}" for name in CLASSES)
            yield f"{_clock(told['ended_s'])}  {rate} bpm  quality {told['quality']:.2f}  {counts}"
        case "alert":
            yield f"{_clock(told['ended_s'])}  ALERT {told['text']}"
        case "summary":
            counts = "  ".join(f"{name} {count}" for name, count in told["beats"].items())
            beats = counted(sum(told["beats"].values()), "beat")
            yield f"{told['signal_s'] / 60:.1f} minutes of signal, {beats}: {counts}"
            if told["alerts"]:
                yield "windows with alerts: " + ", ".join(f"{count} {rule}" for rule, count in told["alerts"].items())
            yield "a model's opinion, and no diagnosis"


def in_json(told: dict[str, Any]) -> Iterator[str]:
    """An event for machines."""
    yield json.dumps(told)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
