"""What is recorded as what: chunks from a source become segments without a gap, each with a note of how it went. Pure.

All rules of recording are here: ``step(state, event) -> (state, effects)``. Times are monotonic seconds; what the date
is nobody asks. A segment ends at its length, where samples are missing, where the source falls silent or is lost, and
where the disk takes no more; the next one's notes say which, and how long nothing was recorded. A few missing samples
are bridged by a straight line and counted, so that a late poll doesn't cut a recording in two.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from edge.live.source import Chunk, Lead, Signal
from edge.record.quality import LEAST, MISSING, MOST, Tally
from edge.record.timeline import Timeline

PENDING_S: Final = 120.0  # of samples that wait for the disk at most; only a replay is as fast as that
BRIDGED_S: Final = 0.02  # a quarter of a QRS complex; below that a straight line does no harm
GAP_S: Final = 2.0  # by which a chunk comes later than it should where samples are missing, not merely late
SCRAP_S: Final = 1.0  # what is shorter, between two gaps, is not worth two files
LOOK_S: Final = 0.25  # between two events at most: where nothing comes, ``Passed`` does
SEE_TO: Final = "see to the electrodes, the cable, and what sends"  # where nothing comes
OFF: Final = "lead off"  # why a segment ended, where the source marks that
SILENT_S: Final = 10.0  # after which a segment is finished although nothing has come that could end it


@dataclass(frozen=True, slots=True)
class Rules:
    """What an owner may choose."""

    segment_s: float = 1800.0  # length of a segment
    sync_s: float = 1.0  # what a power cut costs at most


@dataclass(frozen=True, slots=True)
class Opened:
    """A source is open, and gives this."""

    signal: Signal


@dataclass(frozen=True, slots=True)
class Heard:
    """A chunk came, at ``now``."""

    chunk: Chunk
    now: float


@dataclass(frozen=True, slots=True)
class Passed:
    """It is ``now``, and nothing came; ``off`` where the source says that its electrode is off."""

    now: float
    off: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """There will be no more of this source, for the reason given."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The disk took neither the newest ``Write`` nor the ``Begin`` before it, for the reason given."""

    why: str


Event = Opened | Heard | Passed | Closed | Refused


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin a segment."""

    signal: Signal
    notes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Write:
    """Put frames behind those of the segment: 16 bits each, least significant byte first, lead by lead."""

    frames: bytes
    sync: bool  # wait until the disk has them


@dataclass(frozen=True, slots=True)
class Finish:
    """The segment is whole."""

    notes: Mapping[str, str]


Effect = Begin | Write | Finish


@dataclass(frozen=True, slots=True)
class State:
    """Between two events. ``pending`` are steps by lead that no ``Write`` has taken yet."""

    rules: Rules
    signal: Signal | None = None
    pending: tuple[array[int], ...] = ()
    since: float | None = None  # when the oldest sample was taken that the disk may not have
    heard_at: float = -math.inf  # when the newest chunk came
    pace_s: float = LOOK_S  # from the chunk before it, and so to the next one
    taken_at: float | None = None  # when the newest sample was taken
    last: tuple[float, ...] = ()  # that sample, in mV
    written_at: float | None = None  # when the last sample of the newest ``Write`` was taken
    safe_at: float | None = None  # and of the one before it
    open: bool = False  # a segment has begun
    count: int = 0  # its samples of each lead, the pending ones included
    bridged: int = 0  # of them
    timeline: Timeline | None = None  # of the samples since the newest gap
    tallies: tuple[Tally, ...] = ()
    notes: Mapping[str, str] = field(default_factory=lambda: {"after": "start"})  # of the next segment


Step = tuple[State, tuple[Effect, ...]]


def step(state: State, event: Event) -> Step:
    """What follows from ``event``."""
    match event:
        case Opened(signal):
            state, effects = _finish(state, "lost")
            return replace(state, signal=signal, last=()), effects
        case Heard(chunk, now):
            return _hear(state, chunk, now)
        case Passed(now, off):
            if state.count and now - state.heard_at >= SILENT_S:
                return _finish(state, OFF if off else "silence")
            return _flush(state, now, LOOK_S)
        case Closed(why):
            return _finish(state, why)
        case Refused(why):
            return replace(_fresh(state, why), written_at=state.safe_at), ()


def _hear(state: State, chunk: Chunk, now: float) -> Step:
    signal = state.signal
    assert signal is not None, "no source is open"
    state, effects = _mind_gap(state, signal, chunk)
    samples = chunk.samples
    if chunk.lost and state.count:
        samples = _bridge(state.last, samples, chunk.lost)
        state = replace(state, bridged=state.bridged + chunk.lost)
    steps = tuple(stored(lead, values) for lead, values in zip(signal.leads, samples, strict=True))
    oldest = max(now - len(samples[0]) / signal.rate, state.heard_at)  # a replay takes less time than its samples
    pace_s = min(LOOK_S, now - state.heard_at)
    state = replace(state, heard_at=now, pace_s=pace_s, last=tuple(lead[-1] for lead in samples))
    added, most = len(steps[0]), max(1, round(state.rules.segment_s * signal.rate))
    start = 0
    while start < added:
        if not state.count:
            state = _note_gap(state, chunk.at - (added - start) / signal.rate)
        stop = min(added, start + most - state.count)
        state = _take(state, tuple(lead[start:stop] for lead in steps), chunk.at - (added - stop) / signal.rate, oldest)
        start = stop
        if state.count == most:
            state, ended = _finish(state, "length", keeps_time=True)
            effects = (*effects, *ended)
    timeline = (state.timeline or Timeline(signal.rate)).heard(chunk.at, added)
    state = replace(state, timeline=timeline)
    if timeline.slipped_s:
        state, ended = _finish(state, f"about {timeline.slipped_s:.1f} s lost unreported")
    else:
        state, ended = _flush(state, now, state.pace_s)
    return state, (*effects, *ended)


def _take(state: State, pieces: tuple[array[int], ...], taken_at: float, oldest: float) -> State:
    """Let samples wait for the disk. ``oldest`` is when the first of them was taken, by our clock."""
    return replace(
        state,
        pending=tuple(map(_joined, state.pending, pieces)) if state.pending else pieces,
        count=state.count + len(pieces[0]),
        since=oldest if state.since is None else state.since,
        taken_at=taken_at,
    )


def _mind_gap(state: State, signal: Signal, chunk: Chunk) -> Step:
    """End the segment where samples are missing before ``chunk`` and are too many to be bridged."""
    if state.taken_at is None:
        return state, ()
    if chunk.lost > BRIDGED_S * signal.rate:
        return _finish(state, OFF if chunk.marked else "samples lost")
    late_s = chunk.at - (len(chunk.samples[0]) + chunk.lost) / signal.rate - state.taken_at
    return _finish(state, "silence") if late_s > GAP_S else (state, ())


def _note_gap(state: State, begins_after: float) -> State:
    """Note how long nothing was recorded before the segment that begins now."""
    if state.written_at is None:
        return state
    gap_s = 0.0 if state.notes["after"] == "length" else max(0.0, begins_after - state.written_at)
    return replace(state, notes={**state.notes, "gap_s": f"{gap_s:.3f}"})


def _flush(state: State, now: float, next_s: float) -> Step:
    """Write what has waited long enough, would have by the next look in ``next_s`` or so, or is too much."""
    signal = state.signal
    if signal is None or state.since is None:
        return state, ()
    due = now + next_s - state.since >= state.rules.sync_s
    if not due and (not state.pending or len(state.pending[0]) < PENDING_S * signal.rate):
        return state, ()
    state, effects = _write(state, sync=due)
    return replace(state, since=None if due else state.since), effects


def _write(state: State, *, sync: bool) -> Step:
    signal = state.signal
    assert signal is not None
    effects: list[Effect] = [] if state.open else [Begin(signal, state.notes)]
    tallies = state.tallies or tuple(Tally(max(1, round(signal.rate)), lead.gain) for lead in signal.leads)
    if state.pending:
        tallies = tuple(tally.add(lead) for tally, lead in zip(tallies, state.pending, strict=True))
    effects.append(Write(frames(state.pending), sync))
    written = replace(
        state, pending=(), open=True, tallies=tallies, safe_at=state.written_at, written_at=state.taken_at
    )
    return written, tuple(effects)


def _finish(state: State, why: str, *, keeps_time: bool = False) -> Step:
    """End the segment, if there is one. ``keeps_time``: the next sample follows without a gap."""
    signal = state.signal
    if signal is None or not state.count:
        return replace(state, timeline=None), ()
    if not state.open and state.count < SCRAP_S * signal.rate and not keeps_time:
        return _fresh(state, why), ()
    state, effects = _write(state, sync=False)  # finishing waits for the disk anyway
    notes = {"ended": why, **summary(state.tallies), "bridged": str(state.bridged)}
    measured = state.timeline.measured_rate if state.timeline else None
    if measured is not None:
        notes["measured_hz"] = f"{measured:.6g}"
    fresh = _fresh(state, why)
    return (replace(fresh, timeline=state.timeline) if keeps_time else fresh), (*effects, Finish(notes))


def _fresh(state: State, why: str) -> State:
    """Without a segment; the next one comes after ``why``."""
    return State(
        state.rules,
        state.signal,
        heard_at=state.heard_at,
        pace_s=state.pace_s,
        taken_at=state.taken_at,
        written_at=state.written_at,
        safe_at=state.safe_at,
        last=state.last,
        notes={"after": why},
    )


def flat(state: State) -> tuple[str, ...] | None:
    """The leads whose electrode is off now, by their samples; None where it can't be told of all yet, and none is."""
    if state.signal is None or not state.tallies:
        return None
    off = {lead.name: tally.off for lead, tally in zip(state.signal.leads, state.tallies, strict=True)}
    names = tuple(name for name, is_off in off.items() if is_off)
    return None if not names and None in off.values() else names


def summary(tallies: Sequence[Tally]) -> dict[str, str]:
    """What the quality of each lead comes to, as a segment's notes have it."""
    totals = [tally.total for tally in tallies]
    return {
        "quality": " ".join(f"{total.index:.3f}" for total in totals),
        "off_s": " ".join(str(total.off_s) for total in totals),
        "poor_s": " ".join(str(total.poor_s) for total in totals),
    }


def stored(lead: Lead, values: Sequence[float]) -> array[int]:
    """Values in mV as stored steps; what is beyond 16 bits is at their end, what is missing ``MISSING``."""
    gain, baseline = lead.gain, lead.baseline
    try:
        steps = array("h", [round(value * gain) + baseline for value in values])
        if MISSING not in steps:
            return steps
    except (OverflowError, ValueError):
        pass
    return array("h", map(_step, values, (gain,) * len(values), (baseline,) * len(values)))


def _step(value: float, gain: float, baseline: int) -> int:
    if math.isnan(value):
        return MISSING
    return round(min(float(MOST), max(float(LEAST), value * gain + baseline)))


def frames(leads: Sequence[array[int]]) -> bytes:
    """Leads of equal length, interleaved, as format 16 has them."""
    if not leads:
        return b""
    width, joined = len(leads), array("h", bytes(2 * len(leads) * len(leads[0])))
    for number, lead in enumerate(leads):
        joined[number::width] = lead
    if sys.byteorder == "big":
        joined.byteswap()
    return joined.tobytes()


def _joined(before: array[int], after: array[int]) -> array[int]:
    return before + after


def _bridge(last: Sequence[float], samples: Sequence[Sequence[float]], lost: int) -> tuple[list[float], ...]:
    """``samples`` by lead, behind ``lost`` values on a straight line from ``last``."""
    return tuple(
        [*_line(before, lead[0], lost), *lead] if len(lead) else [] for before, lead in zip(last, samples, strict=True)
    )


def _line(begin: float, end: float, between: int) -> Iterator[float]:
    return (begin + (end - begin) * number / (between + 1) for number in range(1, between + 1))
