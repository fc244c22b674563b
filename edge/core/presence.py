"""What a device says of itself, as far as its state tells. Pure."""

from __future__ import annotations

from typing import Final

from edge.core import delivery, hearing, thrift
from edge.core.participation_state import Describing, State, Stock, Unusable
from schemas.messages import DeviceState, DeviceStatus, Task

MAX_TEXT: Final = 500  # characters, as messages.Text allows

STATUS_S: Final = 1.0  # within which nobody needs to hear again what was just said
ACTIVITY_S: Final = 3.0  # between two statuses that say something new for people: a thousand devices say it too
PROGRESS_S: Final = 10.0  # where that is progress alone

_WAITS: Final = ("the next round waits: ", "its update waits: ")  # what a remark begins with that the budget is behind

_BUSY: Final = frozenset(
    {DeviceState.IDLE, DeviceState.FETCHING, DeviceState.TRAINING, DeviceState.EVALUATING, DeviceState.SENDING}
)


def status(state: State) -> DeviceStatus:
    """What the device tells everybody about itself."""
    shown, detail = _condition(state)
    stock = state.data if isinstance(state.data, Stock) else None
    return DeviceStatus(
        device=state.identity.device,
        session=state.identity.session,
        state=shown,
        examples=stock.examples if stock else 0,
        held_out=stock.held_out if stock else 0,
        synthetic=state.identity.synthetic or None,
        model_version=state.model.version if state.model else None,
        last_round=state.last_round,
        software=state.identity.software,
        heartbeat_s=state.heartbeat_s,
        progress=_progress(state),
        codec=state.chosen,
        budget_left=thrift.share_left(state),
        detail=detail[:MAX_TEXT],
    )


def last_will(state: State) -> DeviceStatus:
    """What the broker tells of the device once it is gone: nothing that will have changed since its start, as now."""
    passing = {"detail": "", "model_version": None, "last_round": None, "budget_left": None}
    return status(state).model_copy(update={"state": DeviceState.OFFLINE, **passing})


def _condition(state: State) -> tuple[DeviceState, str]:
    if state.stopped:
        return DeviceState.STOPPED, ""
    if state.paused is not None:
        return DeviceState.PAUSED, state.paused
    if why := trouble(state):
        return DeviceState.TROUBLE, why
    if state.run is None:
        return DeviceState.IDLE, "no run yet"
    if not isinstance(state.data, Stock):
        return DeviceState.STARTING, "looking at the data"
    activity = _activity(state)
    return activity, _remark(state, activity)


def _remark(state: State, activity: DeviceState) -> str:
    if state.silent:
        return f"the coordinator has been silent for {state.patience_s:.0f} s"
    next_round, update = _WAITS
    task: Task = "train" if isinstance(state.data, Stock) and state.data.examples else "evaluate"
    if activity is DeviceState.IDLE and (why := thrift.why_not(state, task)):
        return next_round + why
    if activity is DeviceState.SENDING and (why := delivery.why_it_waits(state)):
        return update + why
    if state.rest is not None and activity is DeviceState.IDLE:
        return f"resting until the next round, about {state.rest.seconds:.0f} s"
    return ""


def _progress(state: State) -> float | None:
    work = state.work
    if state.stopped or work is None or work.ticket.task != "train" or work.stage not in {"running", "storing"}:
        return None
    return round(work.done, 2)


def _activity(state: State) -> DeviceState:
    if state.work is not None and state.work.stage in {"running", "storing"}:
        return DeviceState.TRAINING if state.work.ticket.task == "train" else DeviceState.EVALUATING
    if any(state.is_current(pending.parcel.ticket) for pending in state.outbox):
        return DeviceState.SENDING
    fetching = state.fetching_plan is not None or state.fetching_model is not None
    return DeviceState.FETCHING if fetching else DeviceState.IDLE


def trouble(state: State) -> str:
    """Why the device can't take part at all; empty where it can."""
    if not state.listening:
        return hearing.why_not(state)
    if state.trouble is not None:
        return state.trouble.reason
    match state.data:
        case Unusable(reason=reason) | Describing(trouble=reason) if reason:
            return reason
    if state.unfit is not None and state.run is not None and state.unfit[0] == state.run.plan.blob.digest:
        return state.unfit[1]
    return ""


def interval(now: DeviceStatus, shown: DeviceStatus) -> float:
    """Seconds after which ``now`` is to be told where ``shown`` was told last.

    At once where a coordinator decides by what has changed; what we are busy with, and how far, is only for people.
    What is left of the budget comes with the next heartbeat: it would else be spent on telling it, a remark that names
    it included. So does it that there will be fewer of them, which then comes from each device at its own time.
    """
    if _decisive(now) != _decisive(shown):
        return 0.0
    heartbeat_s = min(now.heartbeat_s, shown.heartbeat_s)
    still_waits = any(now.detail.startswith(waits) and shown.detail.startswith(waits) for waits in _WAITS)
    detail = shown.detail if still_waits else now.detail
    now = now.model_copy(update={"budget_left": shown.budget_left, "heartbeat_s": heartbeat_s, "detail": detail})
    if now == shown:
        return heartbeat_s
    progress_alone = now.model_copy(update={"progress": shown.progress}) == shown
    return min(heartbeat_s, PROGRESS_S if progress_alone else ACTIVITY_S)


def _decisive(status: DeviceStatus) -> tuple[int, int, bool, str]:
    able = status.state in _BUSY
    return status.examples, status.held_out, able, "" if able else status.detail
