"""The round's state machine: all its rules, and the only place where one is decided. Pure.

    selecting --enough devices--> collecting --goal, all answered, or deadline--> aggregating --> committed
        |                            |                                                              |
        +--none by the deadline------+--below quorum--> abandoned --after a pause--> selecting
                                                                                    (evaluate, then the next round)

* A round has a ``train`` task, which makes the next model version, then an ``evaluate`` task of that version where the
  run wants it and a device has held-out data. An evaluation that fails is not tried again; training goes on. One that
  a crash kept from being opened is selected for, ``RECALL_S`` at most or until a quorum for training is there alone.
* Selecting ends once the quorum is there, and the goal too or nobody new for ``SETTLE_S`` (``PATIENCE_S`` at most). It
  is given up at the deadline, but not within ``RECALL_S`` of a device's leaving before then: it may soon be back.
* ``goal`` x ``OVERSELECT`` devices are drawn, twice as many after each failed attempt; without a goal, and for
  ``evaluate``, all are, newcomers included.
* Collecting closes at the goal; once every selected or joined device has answered, declined or gone and the quorum is
  met; at the deadline with the quorum. It is abandoned at the deadline below the quorum, or at once where too many
  have declined for it ever to be met, or where no result can be made of what it accepted. So no device, dead, slow or
  lying, holds it up longer than the deadline, or the run up for good.
* An attempt has a nonce of its own, from the run's seed. After a restart the open attempt goes on under it, with all it
  had accepted and its own deadline, since how long it has been open is marked on disk. ``RETURN_S`` are always left,
  and pass from the first device that is back before the absence of others lets it close; until the deadline, those who
  were selected may come back. All it had accepted counts, whatever the goal is now.
* One update counts per (run, round, task, device); the first wins, and another one is noted as equivocation. What comes
  for anything but the open attempt is late where the coordinator ever asked for it, else rejected. All are answered,
  and change nothing.
* With ``max_staleness`` rounds overlap: everybody is drawn, an update may answer an earlier round (see ``admission``),
  and only the last version is evaluated, since an evaluation in between would wait for those who train.
* Whoever declines, isn't drawn or is rejected is told to come back when the attempt will be over, each at its own time
  within a tenth of the deadline after that. No training counts on one that was rejected before then: it is silent, or
  lies again at once, and all attempts would be used up before others are there.
* ``ATTEMPTS`` failed attempts in a row, or more until as many deadlines have passed, end the run with an error that
  names what the devices said: a decline, as of a disk that is full for a minute, is given as long to pass as silence,
  but ``PASSING_S`` at most.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from immutables import Map

from coordinator import answering
from coordinator import observers as seen
from coordinator.admission import belongs, remembering
from coordinator.events import (
    Abandon,
    Committed,
    Conclude,
    Effect,
    Event,
    Failed,
    Finish,
    FleetChanged,
    Header,
    JoinReceived,
    Mark,
    Measured,
    Open,
    Rejected,
    Reopened,
    StopRequested,
    Summarise,
    Tick,
    UpdateReceived,
    UpdateRestored,
    UpdateSeen,
    UpdateStalled,
    Version,
)
from coordinator.fleet import View
from coordinator.reports import (
    announce,
    failed_often,
    news_at,
    nobody_came,
    receipt,
    summarise,
    too_late,
    with_evaluation,
)
from coordinator.round_state import ATTEMPTS, Aggregating, Collecting, Over, Resting, Selecting, State, Step, roster
from schemas import cohort
from schemas.counted import counted
from schemas.messages import Metrics, Outcome, Phase

OVERSELECT: Final = 1.3
SETTLE_S: Final = 1.0
PATIENCE_S: Final = 10.0
RETURN_S: Final = 5.0
PAUSE_S: Final = 1.0  # after a first abandoned attempt, or this share of the deadline; twice that after the second, ...
PAUSE_SHARE: Final = 0.05
PASSING_S: Final = 300.0  # in which what is going to pass by itself has passed, such as a Pi's restart
MARK_S: Final = 1.0  # the time an attempt has been open is on disk at most so long after, or this share of the deadline
MARK_SHARE: Final = 0.02


def begin(state: State, reopened: Reopened | None = None) -> Step:
    """A run's first step, from where ``state`` (selecting) says that it stands, or within the attempt ``reopened``."""
    if reopened is not None:
        elapsed = max(0.0, min(reopened.elapsed_s, state.rules.deadline_s - RETURN_S))
        return _collect(state, reopened.cohort, frozenset(), reopened.asked, state.now - elapsed, math.inf)
    if state.round > state.rules.rounds:
        return replace(state, stage=Over()), (Finish(),)
    return _select(state)


def step(state: State, event: Event) -> Step:  # noqa: C901, PLR0911, PLR0912  - the machine's table, a case an event
    """What ``event`` changes, and what is to be done about it, in this order."""
    if isinstance(state.stage, Over):
        return state, ()
    match event:
        case Tick(now):
            return _advance(replace(state, now=max(now, state.now)))
        case FleetChanged(view):
            return _fleet_changed(state, view)
        case JoinReceived(join):
            return answering.join(state, join)
        case UpdateReceived(header):
            return _update(state, header)
        case UpdateRestored(header):
            return answering.accept(state, header, ()) if belongs(state, header) else (state, ())
        case UpdateSeen(header):
            return state, (receipt(header, Outcome.DUPLICATE),)
        case UpdateStalled():
            return state, answering.missing(state, event)
        case Rejected():
            return answering.rejected(state, event)
        case Committed(version):
            return _committed(state, version)
        case Measured(metrics):
            return _measured(state, metrics)
        case Failed(reason):
            return _abandon(state, reason) if isinstance(state.stage, Collecting | Aggregating) else (state, ())
        case StopRequested():
            return replace(state, stage=Over()), (Finish(stopped=True),)


def wake_at(state: State) -> float | None:
    """When the next ``Tick`` matters, if nothing else happens; None where none does."""
    match state.stage:
        case Selecting(since):
            if len(state.eligible) < state.quorum and not _is_useless(state):
                return min([state.gives_up_at(since), *state.still_resting.values()])
            return min(since + PATIENCE_S, state.newcomer_at + SETTLE_S)
        case Collecting() as stage:
            times = [stage.opened_at + state.rules.deadline_s]
            times += [news_at(stage)] if stage.news != stage.told else []
            times += [stage.marked_at + _mark_every(state)]
            times += [stage.gathers_until] if state.now < stage.gathers_until else []
            return min(times)
        case Resting(until):
            return until
        case _:
            return None


def is_idle(state: State) -> bool:
    """Whether nothing is at stake: no attempt is open, and none can be before a device comes or a pause is over."""
    match state.stage:
        case Selecting():
            return len(state.eligible) < state.quorum and not _is_useless(state)
        case Collecting() | Aggregating():
            return False
        case _:
            return True


# -- selecting ---------------------------------------------------------------------------------------------------------


def _advance(state: State) -> Step:
    """What time alone brings."""
    match state.stage:
        case Selecting() as stage:
            return _try_open(state, stage)
        case Collecting() as stage:
            return _try_close(state, stage)
        case Resting(until) if state.now >= until:
            return _select(replace(state, stage=Selecting(state.now)))
        case _:
            return state, ()


def _fleet_changed(state: State, view: View) -> Step:
    newcomers = (view.trainers | view.evaluators) - state.view.trainers - state.view.evaluators
    newcomer_at = state.now if newcomers else state.newcomer_at
    gone = state.view.trainers.difference(view.ready, view.complaints)  # who is there says why it takes no part
    left_at = state.now if gone else state.left_at
    met_anyone = state.met_anyone or bool(view.ready)
    state = replace(state, view=view, newcomer_at=newcomer_at, left_at=left_at, met_anyone=met_anyone)
    stage = state.stage
    if isinstance(stage, Collecting) and state.now < stage.gathers_until:
        if view.ready:  # the broker is there again, and with it who had not left
            stage = replace(stage, gathers_until=min(stage.gathers_until, state.now + RETURN_S))
        back = _drawn(state, stage.ticket.nonce, stage.cohort) - stage.selected
        awaited = stage.awaited.update(roster(back.difference(stage.received, stage.declined)))
        selected = stage.selected | back
        known = sum(device in stage.joined for device in back)
        stage = replace(stage, selected=selected, newcomers=stage.newcomers - known, awaited=awaited)
        state = replace(state, stage=replace(stage, asked=stage.involved))
    return _advance(state)


def _select(state: State) -> Step:
    """Enter selecting; it is announced only if it lasts."""
    after, effects = _advance(state)
    if not isinstance(after.stage, Selecting):
        return after, effects
    waiting = seen.Selecting(state.round, state.attempt, state.quorum, state.selecting_s)
    return after, (announce(state, Phase.SELECTING), waiting, *effects)


def _try_open(state: State, stage: Selecting) -> Step:
    ready, quorum = len(state.eligible), state.quorum
    settled = state.now >= min(state.newcomer_at + SETTLE_S, stage.since + PATIENCE_S)
    if ready >= quorum:
        if settled or (state.goal is not None and ready >= state.goal):
            return _open(state)
    elif settled and _is_useless(state):
        return _next_round(state)
    elif state.now >= state.gives_up_at(stage.since):
        if state.task == "evaluate":
            return _abandon(state, f"nobody who can evaluate came within {state.selecting_s:g} s")
        if not state.met_anyone:
            return replace(state, stage=Over()), (Finish(error=nobody_came(state)),)
        return _abandon(state, f"{ready} of at least {counted(quorum, 'device')} were there by the deadline")
    return state, ()


def _open(state: State) -> Step:
    nonce, goal = state.ticket.nonce, state.goal
    everybody = goal is None or state.rules.max_staleness is not None
    wanted = 0 if goal is None else math.ceil(goal * OVERSELECT * 2**state.failures)
    bound = 1.0 if everybody else cohort.bound(nonce, state.eligible, wanted)
    drawn = _drawn(state, nonce, bound)
    return _collect(state, bound, drawn, len(drawn), state.now, state.now)


def _collect(
    state: State, bound: float, selected: frozenset[str], asked: int, opened_at: float, gathers_until: float
) -> Step:
    ticket, rules = state.ticket, state.rules
    stage = Collecting(
        ticket=ticket,
        opened_at=opened_at,
        cohort=bound,
        goal=state.goal,
        quorum=state.quorum,
        selected=selected,
        asked=asked,
        awaited=roster(selected),
        gathers_until=gathers_until,
        told_at=state.now,
        marked_at=state.now,
        marked=asked,
    )
    opened = seen.RoundOpened(
        state.round, state.task, state.attempt, stage.asked, stage.goal, stage.quorum, rules.deadline_s
    )
    state = replace(state, stage=stage, resting=Map(state.still_resting))
    announcement = announce(state, Phase.COLLECTING)
    return state, (Open(announcement), announcement, opened)


# -- collecting --------------------------------------------------------------------------------------------------------


def _try_close(state: State, stage: Collecting) -> Step:
    received, expired = len(stage.received), state.now >= stage.opened_at + state.rules.deadline_s
    gathering = state.now < stage.gathers_until and not stage.answered_by_all
    if stage.full or (received >= stage.quorum and (expired or not (gathering or _is_awaited(state, stage)))):
        return _conclude(state, stage)
    if expired:
        return _abandon(state, too_late(stage))
    if not gathering and _too_few(state, stage):
        return _abandon(state, f"so many devices declined or had updates rejected that {stage.quorum} can't come")
    effects: tuple[Effect, ...] = ()
    if state.now >= stage.marked_at + _mark_every(state) or stage.asked > stage.marked:
        stage = replace(stage, marked_at=state.now, marked=stage.asked)
        effects = (Mark(stage.ticket, state.now - stage.opened_at, stage.asked),)
    if stage.news != stage.told and state.now >= news_at(stage):
        stage = replace(stage, told=stage.news, told_at=state.now)
        effects = (*effects, announce(replace(state, stage=stage), Phase.COLLECTING))
    return replace(state, stage=stage), effects


def _update(state: State, header: Header) -> Step:
    state, effects = answering.update(state, header)
    if not isinstance(state.stage, Collecting) or not state.stage.full:
        return state, effects
    state, closing = _conclude(state, state.stage)
    return state, (*effects, *closing)


# -- closing -----------------------------------------------------------------------------------------------------------


def _conclude(state: State, stage: Collecting) -> Step:
    conclude = Conclude(stage.ticket, summarise(state, stage))
    return replace(state, stage=Aggregating(stage)), (announce(state, Phase.AGGREGATING), conclude)


def _committed(state: State, version: Version) -> Step:
    stage = state.stage
    if not isinstance(stage, Aggregating):
        return state, ()
    summary = summarise(state, stage.collected)
    state = remembering(state, stage.collected)
    state = replace(state, model=version, attempt=0, failures=0, said={}, rejected={}, summary=summary)
    effects = (Summarise(summary), seen.RoundClosed(summary), announce(state, Phase.COMMITTED))
    evaluates, restarted = state.rules.evaluates(state.round), state.now < stage.collected.gathers_until
    if evaluates and state.view.evaluators:
        state, more = _open(replace(state, task="evaluate"))
    elif evaluates and restarted:  # and had all updates: who can evaluate has yet to be heard again
        state, more = _select(replace(state, task="evaluate", stage=Selecting(state.now)))
    else:
        state, more = _next_round(state)
    return state, (*effects, *more)


def _measured(state: State, metrics: Metrics) -> Step:
    stage = state.stage
    if not isinstance(stage, Aggregating) or state.summary is None:
        return state, ()
    evaluated = seen.ModelEvaluated(state.round, state.model.number, len(stage.collected.received), metrics)
    summary = with_evaluation(state.summary, summarise(state, stage.collected), metrics)
    ended = (Summarise(summary), evaluated, announce(state, Phase.COMMITTED))
    state, more = _next_round(state)
    return state, (*ended, *more)


def _next_round(state: State) -> Step:
    if state.round >= state.rules.rounds:
        return replace(state, stage=Over()), (Finish(),)
    state = replace(state, round=state.round + 1, task="train", attempt=0, rejected={}, summary=None)
    return _select(replace(state, stage=Selecting(state.now)))


def _abandon(state: State, reason: str) -> Step:
    stage = state.stage
    if isinstance(stage, Aggregating):
        stage = stage.collected
    collected = stage if isinstance(stage, Collecting) else None
    summary = summarise(state, collected, reason)
    forget: tuple[Effect, ...] = ()
    if collected is not None:
        updates = tuple(header.digest for header in collected.received.values())
        forget = (Abandon(collected.ticket, summary, updates),)
    if state.task == "evaluate":
        failed = (*forget, seen.EvaluationFailed(state.round, reason), announce(state, Phase.ABANDONED))
        state, more = _next_round(state)
        return state, (*failed, *more)
    ended = (*forget, Summarise(summary), seen.RoundClosed(summary), announce(state, Phase.ABANDONED))
    began = stage.since if isinstance(stage, Selecting) else state.now - summary.seconds
    since = state.failing_since if state.failures else began
    failures, deadline_s = state.failures + 1, state.rules.deadline_s
    attempt, said = state.attempt + (collected is not None), {**state.said, **summary.declined}
    state = replace(state, said=said, failures=failures, failing_since=since, attempt=attempt, rejected={})
    if failures >= ATTEMPTS and state.now >= since + min(ATTEMPTS * deadline_s, PASSING_S):
        return replace(state, stage=Over()), (*ended, Finish(error=failed_often(state, reason)))
    pause = max(PAUSE_S, PAUSE_SHARE * deadline_s) * 2 ** (failures - 1)
    return replace(state, stage=Resting(state.now + min(pause, max(PAUSE_S, deadline_s)))), ended


# -- questions --------------------------------------------------------------------------------------------------------


def _is_useless(state: State) -> bool:
    """Whether those who are there could train the next round, and can't do the evaluation that is selected for."""
    return state.task == "evaluate" and not state.eligible and len(state.trainers) >= state.rules.quorum


def _is_awaited(state: State, stage: Collecting) -> bool:
    """Whether somebody who was asked is there and has not answered; found at the first such device."""
    return any(device in state.view.ready for device in stage.awaited)


def _too_few(state: State, stage: Collecting) -> bool:
    """Whether the quorum can't be met any more, newcomers included where they are let in.

    Who was selected before a restart and has not been heard of since may be at work, and come back before the deadline.
    """
    known = (stage.awaited, stage.received, stage.declined)
    left = stage.quorum - len(stage.received) - len(stage.awaited) - max(0, stage.asked - sum(map(len, known)))
    if left <= 0 or stage.cohort < 1:
        return left > 0
    return sum(not any(device in each for each in known) for device in state.eligible) < left


def _mark_every(state: State) -> float:
    return max(MARK_S, MARK_SHARE * state.rules.deadline_s)


def _drawn(state: State, nonce: str, bound: float) -> frozenset[str]:
    return frozenset(device for device in state.eligible if cohort.has(nonce, device, bound))
