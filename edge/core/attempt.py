"""The part of ``participation`` that sees to the attempt in hand: from the join to the update on disk. Pure.

It trains once for a ticket (run, round, task, nonce). Another nonce, another phase, the deadline, or a final receipt
ends the attempt and cancels its job; but where rounds overlap (``max_staleness``), a training goes on past its round
for as long as what it makes still counts, and answers a later attempt at it too. The seed is the round's and the
device's, so training replays; after a crash it goes on from its newest checkpoint, to the same bits. How long it took
is remembered, and so is how long uploads took (``thrift``): a deadline that leaves less is declined, never on first
acquaintance.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from typing import Final, Literal

from edge.core import delivery, pace, thrift
from edge.core import effects as fx
from edge.core import events as ev
from edge.core.effects import Effect
from edge.core.events import Parcel, Ticket
from edge.core.jobs import Evaluated, Failure, Trained
from edge.core.pace import Pace
from edge.core.participation_state import Announced, Describing, Kept, State, Step, Stock, Trouble, Unusable, Work
from edge.core.presence import MAX_TEXT, trouble
from schemas.counted import counted
from schemas.messages import TAG, CoordinatorState, Phase, RoundAnnouncement, RunSettings, Update

RETRY_S: Final = 20.0  # after trouble that somebody must see to, such as a full disk
CRASHES: Final = 3  # of a trainer over one ticket, or files that it can't begin with

_WORKING: Final = frozenset({"waiting", "running", "storing"})


def seed(run: RunSettings, number: int, device: str, purpose: str = "train") -> int:
    """What a device draws its training of round ``number`` from, below 2^53; the same in every run of this seed."""
    digest = hashlib.sha256(f"{purpose}/{run.seed}/{number}/{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11


def answer(state: State, announced: Announced) -> Step:
    """Accept or decline what is asked of us, once we know what we have."""
    message = announced.message
    stage, reason = _attitude(state, message)
    if stage is None:
        return state, ()
    effects, passing = tuple[Effect, ...](), bool(reason) and reason == trouble(state)
    if stage == "waiting":
        why, learned = _too_slow(state, announced)
        stage, reason = ("declined", why) if why else (stage, reason)
        state, effects = _learned(state, learned) if learned != state.pace else (state, ())
    about = Ticket.of(message), message.model_version, message.model_digest
    work = Work(*about, stage, reason, since=state.now, passing=passing)
    return replace(state, work=work), (*effects, *join(state, work))


def decline(state: State, work: Work, reason: str) -> Step:
    """Take back that we take part."""
    declined = replace(work, stage="declined", reason=reason)
    return replace(state, work=declined), join(state, declined)


def join(state: State, work: Work) -> tuple[Effect, ...]:
    """Tell how we stand to the attempt."""
    if work.stage == "silent" or not state.connected:
        return ()
    stock = state.data if isinstance(state.data, Stock) else Stock("", 0, 0)
    examples = stock.examples if work.ticket.task == "train" else stock.held_out
    return (fx.SendJoin(work.ticket, work.stage in _WORKING, work.reason[:MAX_TEXT], examples),)


def done(state: State, result: Trained | Evaluated) -> Step:
    """The trainer has the attempt's result."""
    work, run = state.work, state.run
    if work is None or run is None or work.stage != "running" or result.key != state.key(work.ticket):
        return state, ()
    ticket, tag = work.ticket, work.model_digest[:TAG]
    about = {"device": state.identity.device, "model_version": work.model_version, "model_tag": tag}
    about |= {"round": ticket.round, "task": ticket.task, "nonce": ticket.nonce}
    told = fx.TellWork(f"round {ticket.round} ({ticket.task}): {_work_done(result)}", result.peak_mb)
    if isinstance(result, Trained):
        about |= {"examples": result.examples, "payload": result.payload, "train_loss": result.train_loss}
    else:
        about |= {"examples": result.counts.examples, "counts": result.counts}
    residual = result.residual if isinstance(result, Trained) else b""
    store = fx.StoreUpdate(ticket, Update.model_validate(about), run.part_size, run.plan.blob.digest, residual)
    return replace(state, work=replace(work, stage="storing")), (told, store)


def progressed(state: State, news: ev.JobProgressed) -> Step:
    """The trainer is so far."""
    work, plan = state.work, state.plan
    if work is None or plan is None or work.stage != "running" or news.key != state.key(work.ticket):
        return state, ()
    effects: tuple[Effect, ...] = ()
    if not work.heard and news.fraction > 0:
        effects = (fx.Say(f"round {work.ticket.round} (train) goes on from {news.fraction:.1%} of its training"),)
    began = news.fraction if work.began is None else work.began
    state = replace(state, work=replace(work, heard=True, began=began, done=news.fraction, done_at=state.now))
    if news.checkpoint:
        keep = fx.KeepCheckpoint(news.key, plan.digest, work.model_digest, news.fraction, news.checkpoint)
        return replace(state, kept=Kept(news.key, news.fraction)), (*effects, keep)
    return state, effects


def is_ours(state: State, key: str) -> bool:
    """Whether it is the job of the attempt in hand that has this key."""
    return state.work is not None and state.work.stage == "running" and key == state.key(state.work.ticket)


def failed(state: State, failure: Failure) -> Step:
    """The trainer has no result."""
    data, work, run = state.data, state.work, state.run
    if work is None or run is None or not is_ours(state, failure.key):
        return state, ()
    say = fx.Say(f"round {work.ticket.round} ({work.ticket.task}) failed: {failure.message}", logging.WARNING)
    if failure.kind in {"crash", "model"} and work.crashes + 1 < CRASHES:
        again = replace(work, stage="waiting", crashes=work.crashes + 1, heard=False)
        return replace(state, work=again), (say,)
    if failure.kind == "plan":
        state = replace(state, unfit=(run.plan.blob.digest, failure.message))
    if failure.kind == "data" and isinstance(data, Stock):
        state = replace(state, data=Unusable(data.recipe, failure.message, state.now + RETRY_S))
    state, effects = decline(state, work, failure.message)
    return state, (say, *effects)


def holding_lost(state: State, lost: ev.HoldingLost) -> Step:
    """What was on disk is fetched again, a model by ``versions``, and then the trainer begins; not for ever."""
    work = state.work
    state = replace(state, plan=None) if lost.plan else state
    if work is None or work.stage != "running" or lost.key != state.key(work.ticket):
        return state, ()
    if work.crashes + 1 < CRASHES:
        return replace(state, work=replace(work, stage="waiting", crashes=work.crashes + 1)), ()
    return decline(state, work, "the plan or the model on disk is damaged again and again: see to the disk")


def stored(state: State, parcel: Parcel) -> Step:
    """The update is on disk; nothing needs to go on from the attempt's checkpoint."""
    work, effects = state.work, tuple[Effect, ...]()
    if work is not None and work.ticket == parcel.ticket:
        if parcel.ticket.task == "train":
            state = thrift.weighed(state, parcel.ref.size)
            state, effects = _took(state, work, state.now - work.since, 1.0)
        state = replace(state, work=None)
    state = replace(state, trouble=None)
    if state.kept is not None and state.kept.key == state.key(parcel.ticket):
        state, effects = replace(state, kept=None), (*effects, fx.DropCheckpoint())
    state, more = delivery.stored(state, parcel)
    return state, (*effects, *more)


def store_failed(state: State, ticket: Ticket, reason: str) -> Step:
    """The disk did not take the update."""
    state = replace(state, trouble=Trouble(reason, state.now + RETRY_S))
    say = fx.Say(f"round {ticket.round} ({ticket.task}) is lost: {reason}", logging.ERROR)
    if state.work is None or state.work.ticket != ticket:
        return state, (say,)
    state, effects = decline(state, state.work, reason)
    return state, (say, *effects)


def stop(state: State) -> Step:
    """The device stops; a training is kept where it is."""
    work, effects = state.work, tuple[Effect, ...]()
    if work is not None and work.stage == "running":
        key = state.key(work.ticket)
        if work.ticket.task == "train" and state.plan is not None:
            effects = (fx.SuspendJob(key, state.plan.digest, work.model_digest),)
        else:
            effects = (fx.CancelJob(key),)
    return replace(state, work=None), effects


# -- rules -------------------------------------------------------------------------------------------------------------


def drop(state: State) -> Step:
    """An attempt that is over is not worked on. What was done of it by then tells how long all of it takes."""
    work, announced = state.work, state.announced
    if work is None or announced is None:
        return state, ()
    open_still = announced.message.phase is Phase.COLLECTING and Ticket.of(announced.message) == work.ticket
    wanted = (open_still and state.now < announced.until) or outlasts(state, work)
    if wanted and work.ticket not in state.settled and state.paused is None and state.is_current(work.ticket):
        return state, ()
    state, effects = replace(state, work=None), tuple[Effect, ...]()
    if work.stage != "running":
        return state, ()
    if work.ticket.task == "train" and work.began is not None and work.done > work.began:
        state, effects = _took(state, work, work.done_at - work.since, work.done)
    text = f"round {work.ticket.round} ({work.ticket.task}) goes on without us: it is over, or we are paused"
    return state, (*effects, fx.CancelJob(state.key(work.ticket)), fx.Say(text))


def begin(state: State) -> Step:
    """Hand the attempt to the trainer as soon as plan and model are here; a model that has to wait comes too late."""
    work, run, plan, model = state.work, state.run, state.plan, state.model
    if work is None or work.stage != "waiting" or run is None or plan is None or not state.holds_plan:
        return state, ()
    if model is None or model.run != work.ticket.run or model.version < work.model_version:
        return decline(state, work, why) if (why := thrift.why_no_model(state)) else (state, ())
    if (model.version, model.digest) != (work.model_version, work.model_digest):
        return decline(state, work, f"it holds model {model.version} {model.digest[:8]}, not the one to start from")
    key = state.key(work.ticket)
    state = replace(state, work=replace(work, stage="running"))
    if work.ticket.task == "evaluate":
        return state, (fx.StartEvaluation(key, plan.digest, work.model_digest),)
    drawn = seed(run, work.ticket.round, state.identity.device)
    overlap, announced = run.max_staleness is not None, state.announced
    time_s = run.deadline_s if overlap or announced is None else announced.until - state.now
    state, codec, effects = thrift.choose(state, model.blob.size, time_s)
    start = fx.StartTraining(key, plan.digest, work.model_digest, run.train, codec, drawn, work.ticket)
    if state.kept is None or state.kept.key == key:
        return state, (*effects, start)
    return replace(state, kept=None), (*effects, fx.DropCheckpoint(), start)


def outlasts(state: State, work: Work) -> bool:
    """Whether a training goes on past its round, since its update still counts in a later one."""
    limit, announced = None if state.run is None else state.run.max_staleness, state.announced
    if limit is None or announced is None or work.ticket.task != "train" or work.stage not in {"running", "storing"}:
        return False
    over = state.coordinator is not None and state.coordinator.state is CoordinatorState.FINISHED
    return not over and announced.message.model_version - work.model_version <= limit


def is_reconsidered(state: State) -> bool:
    """Whether what was declined for trouble may be answered anew, as that has passed: the coordinator may need us.

    Not before it has heard of the decline, or its word on that would come in between.
    """
    work = state.work
    return work is not None and work.passing and (work.noted or work.stage == "silent") and not trouble(state)


# -- what several of them need -----------------------------------------------------------------------------------------


def _attitude(state: State, message: RoundAnnouncement) -> tuple[Literal["waiting", "declined", "silent"] | None, str]:
    """How we stand to a task, and why; None until we know."""
    train, data = message.task == "train", state.data
    # Where the trainer died over the recordings, they are counted again in a moment.
    again = state.trouble is None and isinstance(data, Describing | Unusable) and 0 < data.crashes < CRASHES
    if not again and (why := trouble(state)):
        return ("declined" if train else "silent"), why
    trains = train and not (isinstance(data, Stock) and not data.examples)
    if trains and (why := thrift.why_not(state)):
        return "declined", why
    if not state.holds_plan or not isinstance(data, Stock):
        return None, ""
    if data.examples if train else data.held_out:
        why = "" if train else thrift.why_not(state, "evaluate")
        return ("declined", why) if why else ("waiting", "")
    if data.held_out or not train:
        return "silent", ""
    return "declined", "it has no examples to train on: look at its recordings with `edge data show`"


def _too_slow(state: State, announced: Announced) -> tuple[str, Pace]:
    """Why we would not have done by the deadline, empty where we would or can't tell; and what is known from now on."""
    known, run = state.pace, state.run
    if announced.message.task != "train" or run is None or run.max_staleness is not None:
        return "", known  # where rounds overlap, their deadlines are not a device's
    needed, left = known.expected(pace.subject(run)) or 0.0, announced.until - state.now
    if state.kept is not None and state.kept.key == state.key(Ticket.of(announced.message)):
        needed *= 1 - state.kept.fraction
    if needed > left:
        return pace.why_not(needed, left), known.decayed(pace.subject(run))
    busy_s = 0.0 if state.uploading_since is None else state.now - state.uploading_since
    if needed + busy_s > left:
        return pace.why_not_yet(busy_s, needed, left), known
    upload_s = known.upload_s(pace.upload_subject(run))
    if upload_s is None or needed + upload_s <= left:
        return "", known
    known, kept_out = known.kept_out(pace.upload_subject(run))
    return (pace.why_no_upload(upload_s, needed, left) if kept_out else ""), known


def _took(state: State, work: Work, seconds: float, fraction: float) -> Step:
    """An attempt has come as far as ``fraction`` in ``seconds``."""
    share = fraction - (work.began or 0.0)
    if state.run is None or share <= 0:
        return state, ()
    return _learned(state, state.pace.learn(pace.subject(state.run), seconds / share))


def _learned(state: State, learned: Pace) -> Step:
    return replace(state, pace=learned), (fx.KeepPace(learned),)


def _work_done(result: Trained | Evaluated) -> str:
    if isinstance(result, Trained):
        return (
            f"trained on {counted(result.examples, 'example')} in {result.seconds:.1f} s, loss {result.train_loss:.4g}"
        )
    return f"evaluated {counted(result.counts.examples, 'example')} in {result.seconds:.1f} s"
