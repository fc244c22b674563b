"""What is recorded as what. A little disk here obeys the effects, and refuses some."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.live.source import Chunk, Lead, Signal
from edge.record.quality import LEAST, MISSING, MOST
from edge.record.segments import (
    BRIDGED_S,
    GAP_S,
    LOOK_S,
    PENDING_S,
    SILENT_S,
    Begin,
    Closed,
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
    stored,
)

RATE = 100.0
ECG = Signal((Lead("ecg", 1.0),), RATE)
TWO = Signal((Lead("a", 1.0), Lead("b", 2.0, 10)), RATE)


@dataclass
class Disk:
    """Obeys effects. ``whole``: samples and notes of each finished segment; ``synced`` samples are safe."""

    whole: list[tuple[list[int], dict[str, str]]] = field(default_factory=list)
    open: list[int] | None = None
    notes: dict[str, str] = field(default_factory=dict)
    synced: int = 0  # of all that were written
    written: int = 0
    refuses: bool = False


def told(state: State, event: Event, disk: Disk) -> State:
    state, effects = step(state, event)
    for effect in effects:
        if disk.refuses and not isinstance(effect, Finish):
            disk.open = None
            return step(state, Refused("the disk was full"))[0]
        match effect:
            case Begin(notes=notes):
                assert disk.open is None
                disk.open, disk.notes = [], dict(notes)
            case Write(frames, sync):
                assert disk.open is not None
                disk.open += array("h", frames).tolist()
                disk.written += len(frames) // 2
                disk.synced = disk.written if sync else disk.synced
            case Finish(notes):
                assert disk.open is not None
                disk.whole.append((disk.open, {**disk.notes, **notes}))
                disk.open = None
    return state


def begun(signal: Signal = ECG, rules: Rules | None = None) -> tuple[State, Disk]:
    disk = Disk()
    return told(State(rules or Rules()), Opened(signal), disk), disk


def chunk(first: int, count: int, at: float, lost: int = 0) -> Chunk:
    return Chunk(at, (tuple(float(value % 1000) for value in range(first, first + count)),), lost)


sizes = st.lists(st.integers(1, 300), min_size=1, max_size=30)


@settings(deadline=None)
@given(sizes, st.floats(0.5, 20.0), st.floats(0.1, 5.0))
def test_without_a_gap_every_sample_is_there_in_order_however_chunks_are_cut(
    counts: list[int], segment_s: float, sync_s: float
) -> None:
    state, disk = begun(rules=Rules(segment_s, sync_s))
    done = 0
    for count in counts:
        done += count
        state = told(state, Heard(chunk(done - count, count, done / RATE), done / RATE), disk)
    told(state, Closed("stopped"), disk)
    got = [value for samples, _ in disk.whole for value in samples]
    assert got == [value % 1000 for value in range(len(got))]
    assert done - len(got) < RATE  # a scrap at the end
    most = max(1, round(segment_s * RATE))
    assert all(len(samples) == most and notes["ended"] == "length" for samples, notes in disk.whole[:-1])
    assert all(len(samples) <= most for samples, _ in disk.whole)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0.0, 0.9)), min_size=1, max_size=60), st.floats(0.1, 3.0))
def test_whenever_the_power_goes_what_is_lost_came_within_the_last_sync(
    steps: list[tuple[int, float]], sync_s: float
) -> None:
    state, disk = begun(rules=Rules(1800.0, sync_s))
    now, done, came = 0.0, 0, []
    for count, pause in steps:
        now += pause
        done += count
        came += [now] * count
        state = told(state, Heard(chunk(done - count, count, done / RATE), now), disk)
        assert all(now - at < sync_s for at in came[disk.synced :])
        state = told(state, Passed(now + pause / 2), disk)
        assert all(now + pause / 2 - at < sync_s for at in came[disk.synced :])


@settings(deadline=None)
@given(st.integers(1, 24), st.floats(0.1, 3.0), st.floats(0.0, 0.009), st.integers(2, 60))
def test_a_source_that_gives_many_samples_at_once_loses_no_more_than_sync_either(
    count: int, sync_s: float, late_s: float, chunks: int
) -> None:
    """Just before a chunk comes, its samples have been taken too. Seen to fail with ages from then on."""
    state, disk = begun(rules=Rules(1800.0, sync_s))
    for number in range(1, chunks):
        done = number * count
        now = done / RATE + late_s * (number % 2)
        state = told(state, Heard(chunk(done - count, count, done / RATE), now), disk)
        killed_at = (done + count) / RATE
        assert killed_at - disk.synced / RATE <= max(sync_s, count / RATE) + 2 * 0.009 + 1e-9


def test_a_card_is_waited_for_no_more_often_than_power_cuts_call_for() -> None:
    """Each time wears it. Seen to fail where the first sync left the next ones due at every chunk."""
    state, _ = begun(rules=Rules(1800.0, 5.0))
    syncs = 0
    for number in range(1, 401):
        state, effects = step(state, Heard(chunk(number * 25, 25, number / 4), number / 4))
        syncs += sum(isinstance(effect, Write) and effect.sync for effect in effects)
    assert 100 / 5.0 <= syncs <= 100 / (5.0 - 2 * LOOK_S) + 1


def test_what_a_replay_gives_too_fast_to_wait_is_still_safe_in_time() -> None:
    """Seen to fail where a write that waits for no disk was taken for one that does."""
    state, disk = begun(rules=Rules(1800.0, 1.0))
    state = told(state, Heard(chunk(0, 10, 0.1), 0.1), disk)
    many = round(PENDING_S * RATE)
    state = told(state, Heard(chunk(10, many, 0.2), 0.2), disk)
    assert (disk.written, disk.synced) == (10 + many, 0)
    told(state, Passed(1.0), disk)
    assert disk.synced == 10 + many


@settings(deadline=None)
@given(sizes, st.floats(-1e9, 1e9))
def test_it_is_all_the_same_at_any_hour_of_the_monotonic_clock(counts: list[int], hour: float) -> None:
    disks = []
    for began in (0.0, round(hour)):
        state, disk = begun()
        done = 0
        for count in counts:
            done += count
            at = began + done / RATE
            state = told(state, Heard(chunk(done - count, count, at), at), disk)
        told(state, Closed("stopped"), disk)
        disks.append([samples for samples, _ in disk.whole])
    assert disks[0] == disks[1]


def test_a_few_missing_samples_are_bridged_by_a_line_and_counted() -> None:
    state, disk = begun(TWO)
    ahead = tuple([0.0] * 149 + [10.0] for _ in TWO.leads)
    state = told(state, Heard(Chunk(1.5, ahead), 1.5), disk)
    assert round(BRIDGED_S * RATE) == 2
    behind = tuple([40.0] + [0.0] * 97 for _ in TWO.leads)
    state = told(state, Heard(Chunk(2.5, behind, 2), 2.5), disk)
    told(state, Closed("stopped"), disk)
    ((samples, notes),) = disk.whole
    assert samples[2 * 149 : 2 * 153] == [10, 30, 20, 50, 30, 70, 40, 90]
    assert len(samples) == 2 * (150 + 2 + 98)
    assert notes["bridged"] == "2"


@pytest.mark.parametrize(
    ("lost", "at", "why", "gap_s"),
    [(3, 4.03, "samples lost", 0.03), (0, 4.0 + GAP_S + 0.1, "silence", GAP_S + 0.1)],
)
def test_a_gap_ends_the_segment_and_the_next_one_says_why_and_how_long(
    lost: int, at: float, why: str, gap_s: float
) -> None:
    state, disk = begun()
    state = told(state, Heard(chunk(0, 200, 2.0), 2.0), disk)
    state = told(state, Heard(chunk(200, 200, at, lost), at), disk)
    told(state, Closed("stopped"), disk)
    (first, ended), (second, notes) = disk.whole
    assert (len(first), len(second)) == (200, 200)
    assert (ended["ended"], notes["after"]) == (why, why)
    assert float(notes["gap_s"]) == pytest.approx(gap_s, abs=0.002)
    assert (ended["after"], notes["ended"]) == ("start", "stopped")


def test_a_segment_that_ends_where_the_source_marks_an_electrode_as_off_says_so() -> None:
    """Seen to fail with ``silence`` after ten seconds of marks, and with ``samples lost`` after fewer."""
    state, disk = begun()
    state = told(state, Heard(chunk(0, 200, 2.0), 2.0), disk)
    state = told(state, Heard(replace(chunk(200, 200, 7.0, 300), marked=True), 7.0), disk)
    state = told(state, Passed(7.0 + SILENT_S, off=True), disk)
    state = told(state, Heard(replace(chunk(400, 200, 30.0, 2100), marked=True), 30.0), disk)
    told(state, Closed("stopped"), disk)
    assert [(notes["after"], notes["ended"]) for _, notes in disk.whole] == [
        ("start", "lead off"),
        ("lead off", "lead off"),
        ("lead off", "stopped"),
    ]


def test_a_lead_that_is_flat_is_known_while_the_segment_is_open() -> None:
    """Seen to fail where seconds are judged for the notes of a segment that is whole alone."""
    state, disk = begun(Signal((Lead("a"), Lead("b")), RATE))
    beat = [1.0 if number == 50 else 0.001 * (number % 7 + number % 50) for number in range(100)]
    seen = []
    for second in range(1, 15):
        off = second > 2 and second < 11
        state = told(state, Heard(Chunk(second, (beat, [0.5] * 100 if off else beat)), second), disk)
        seen.append(flat(state))
    assert disk.whole == []
    assert seen[:2] == [(), ()]
    assert seen[2:6] == [None] * 4
    assert seen[6:10] == [("b",)] * 4
    assert seen[10:] == [()] * 4


def test_what_comes_late_but_whole_is_no_gap() -> None:
    state, disk = begun()
    state = told(state, Heard(chunk(0, 200, 2.0), 2.0), disk)
    state = told(state, Passed(7.0), disk)
    state = told(state, Heard(chunk(200, 600, 8.0), 8.0), disk)
    told(state, Closed("stopped"), disk)
    assert [len(samples) for samples, _ in disk.whole] == [800]


def test_a_source_that_falls_silent_leaves_a_finished_segment() -> None:
    state, disk = begun()
    state = told(state, Heard(chunk(0, 200, 2.0), 2.0), disk)
    state = told(state, Passed(2.0 + SILENT_S), disk)
    assert disk.whole[0][1]["ended"] == "silence"
    state = told(state, Heard(chunk(200, 100, 60.0), 60.0), disk)
    told(state, Closed("stopped"), disk)
    assert float(disk.whole[1][1]["gap_s"]) == pytest.approx(57.0)


def test_scraps_between_gaps_make_no_files() -> None:
    state, disk = begun()
    done = 0
    for _ in range(100):
        done += 60
        state = told(state, Heard(chunk(0, 50, done / RATE, 10), done / RATE), disk)
    told(state, Closed("stopped"), disk)
    assert disk.whole == []


def test_samples_that_go_missing_unreported_end_the_segment_once_it_shows() -> None:
    state, disk = begun()
    now = 0.0
    for second in range(80):
        now += 1.0 + (0.8 if second == 35 else 0.0)
        state = told(state, Heard(chunk(0, 100, now), now), disk)
    told(state, Closed("stopped"), disk)
    (first, ended), (second_part, notes) = disk.whole
    assert 3600 <= len(first) <= 5000
    assert len(first) + len(second_part) == 8000
    assert ended["ended"] == notes["after"] == "about 0.8 s lost unreported"


@pytest.mark.parametrize("error", [-0.02, -0.0005, 0.0, 0.02])
def test_a_clock_that_drifts_is_measured_and_cuts_nothing(error: float) -> None:
    state, disk = begun()
    now = 0.0
    for _ in range(300):
        now += 1.0 + error
        state = told(state, Heard(chunk(0, 100, now), now), disk)
    told(state, Closed("stopped"), disk)
    ((samples, notes),) = disk.whole
    assert len(samples) == 30_000
    assert float(notes["measured_hz"]) == pytest.approx(RATE / (1 + error), rel=1e-4)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_disk_that_refuses_costs_what_it_refused_and_the_notes_say_how_long(refusals: list[bool]) -> None:
    state, disk = begun(rules=Rules(1800.0, 1.0))
    now = 0.0
    for refuses in [False, *refusals, False, False]:
        disk.refuses = refuses
        now += 1.0
        state = told(state, Heard(chunk(int(now * 100), 100, now), now), disk)
        state = told(state, Passed(now + 0.999), disk)
        state = told(state, Passed(now + 1.0), disk)
    told(state, Closed("stopped"), disk)
    recorded = disk.written
    gaps = [float(notes["gap_s"]) for _, notes in disk.whole if "gap_s" in notes]
    kept_s = recorded / RATE
    assert kept_s == pytest.approx(now - sum(refusals))
    if any(refusals):
        assert disk.whole[-1][1]["after"] == "the disk was full"
        assert gaps[-1] == pytest.approx(_last_run(refusals))


def _last_run(refusals: list[bool]) -> int:
    """How many refusals in a row came last."""
    rest = len(refusals) - 1 - refusals[::-1].index(True)
    run = 0
    while rest - run >= 0 and refusals[rest - run]:
        run += 1
    return run


@settings(deadline=None)
@given(st.lists(st.floats(-40.0, 40.0), min_size=1), st.floats(1.0, 2000.0), st.integers(-1000, 1000))
def test_a_value_is_stored_to_half_a_step_or_at_the_end_of_the_range(
    mv: list[float], gain: float, baseline: int
) -> None:
    for value, got in zip(mv, stored(Lead("x", gain, baseline), mv), strict=True):
        wanted = value * gain + baseline
        if LEAST <= wanted <= MOST:
            assert abs(got - wanted) <= 0.5 + 1e-6
        else:
            assert got == (LEAST if wanted < 0 else MOST)


def test_what_is_missing_or_infinite_is_told_apart() -> None:
    assert stored(Lead("x", 1.0), [math.nan, math.inf, -math.inf, -32768.0, 1e300]).tolist() == [
        MISSING,
        MOST,
        LEAST,
        LEAST,
        MOST,
    ]
