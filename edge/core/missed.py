"""What a device does about messages that a broker threw away, as it may when a queue is full. Pure.

Nothing says that one is missing: both ends were told that it was sent. But announcements name the model they start
from, and a coordinator's status the round and the model it is at, so that a device sees that it has missed the pointer
to that model, the run's settings, or an announcement. All are retained: whoever subscribes again hears them again.

Likewise a device that was told of a round or of a model beyond those that the coordinator goes on to speak of was told
by somebody else, or by a coordinator whose disk was set back since. It lets go of them then, of a model only where it
has not got it, and takes what it hears again: else one forged message would keep it out of the run for ever. So it does
with an announcement that is followed by one of an earlier attempt: what the broker retains is the newest of the two.

Of a plan, a model and a step the parts are asked for again that don't come, where nothing else of them does either: the
smaller all of it, the sooner, since a slow link has the less of it to bring, and to bring twice.

A device that hears of an open attempt takes no part where it has no status of a coordinator, or a farewell alone, and
says nothing again that may have been missed where it has had none since it is connected. So where none comes behind the
announcement it asks for that alone, which is small and tells whether more is missing. It does not where nothing is
open: nothing is at stake then, and the next attempt brings another. Nor where a coordinator fell silent: what is
retained is its last word, which would pass for a new one.

An announcement comes behind the run and the pointer that it needs. A status is not held up by what is being published,
which may be a large model on a slow link, so that what it alone tells of has longer to come.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edge.core import effects as fx
from edge.core.effects import Effect
from edge.core.events import BlobKind
from edge.core.participation_state import Announced, Behind, State, Step
from schemas.messages import BlobRef, CoordinatorStatus, ModelPointer, Phase, RoundAnnouncement, RunSettings
from schemas.topics import Kind

PATIENCE_S: Final = 5.0  # with what an announcement names: it was published before
LONGER_S: Final = 60.0  # with what a status tells of
PARTS_S: Final = 30.0  # with parts, since the last one came, at most
SMALL_S: Final = 5.0  # with those of what is small
SLOW: Final = 20_000.0  # bytes a second of a link that is waited for longer, where there are many
LONGEST_S: Final = 600.0  # between two times that it asks; each is twice as long as the one before

_STATUS: Final = "the coordinator's status"


def ask_again(state: State) -> Step:
    """Subscribe again where something is missing for too long."""
    missing = None
    if state.connected and state.listening:
        missing = (_missing(state) if state.served else None) or _unaccompanied(state)
    if missing is None:
        return (state if state.behind is None else replace(state, behind=None)), ()
    what, beyond, patience_s = missing
    behind = state.behind
    if behind is None or behind.what != beyond or patience_s < behind.first_s:
        return replace(state, behind=Behind(beyond, state.now, patience_s, patience_s)), ()
    if state.now < behind.ask_at:
        return state, ()
    if state.served and behind.patience_s >= LONGER_S and _ahead(state):
        state = _let_go(state)
    text = (
        f"{what} hasn't come in {behind.patience_s:g} s: subscribing again, in case the broker has lost it on the way"
    )
    listen = fx.Listen(True, (Kind.COORDINATOR,)) if beyond == _STATUS else fx.Listen(True)
    later = replace(behind, since=state.now, patience_s=min(2 * behind.patience_s, LONGEST_S))
    return replace(state, behind=later), (listen, fx.Say(text))


def announced(state: State, message: RoundAnnouncement, session: int | None) -> Announced:
    """An announcement as it is kept that has come under this session of the coordinator's.

    What the broker retains comes again now and then: the same one as before tells of no coordinator that is there.
    """
    known = state.announced
    again = known is not None and known.message == message and not known.alone
    return Announced(message, state.now + message.remaining_s, session, alone=not (again and state.heard))


def ask_for_parts(state: State) -> Step:
    """Subscribe again to the parts of what is fetched; a step that doesn't come then is given up (``versions``)."""
    fetched: tuple[tuple[BlobKind, str, BlobRef | None], ...] = (
        ("plan", "the plan", state.fetching_plan),
        _model_or_step(state),
    )
    found, effects = list[Behind | None](), tuple[Effect, ...]()
    for (kind, name, ref), known in zip(fetched, state.partless, strict=True):
        behind = _partless(state, ref, known)
        if behind is not None and state.connected and state.now >= behind.ask_at:
            text = f"nothing more of {name} has come in {behind.patience_s:g} s: asking again for the parts it lacks"
            effects = (*effects, fx.FetchAgain(kind), fx.Say(text))
            behind = Behind(behind.what, state.now, min(2 * behind.patience_s, LONGEST_S))
        found.append(behind)
    partless = found[0], found[1]
    return (state if partless == state.partless else replace(state, partless=partless)), effects


def wake_at(state: State) -> tuple[float, ...]:
    """When it is to ask, or to ask again."""
    parts = (behind for behind in state.partless if state.connected)
    return tuple(behind.ask_at for behind in (state.behind, *parts) if behind is not None)


def with_parts_s(ref: BlobRef) -> float:
    """How long to be patient with the parts of a blob that is fetched, since the last one came."""
    return min(SMALL_S + ref.size / SLOW, PARTS_S)


def _model_or_step(state: State) -> tuple[BlobKind, str, BlobRef | None]:
    """What of the newest model is on its way."""
    model = state.fetching_model
    if model is None:
        return "model", "", None
    if state.by_step:
        return "step", f"the step to model {model.version}", model.step
    return "model", f"model {model.version}", model.blob


def _partless(state: State, ref: BlobRef | None, known: Behind | None) -> Behind | None:
    """Since when nothing that was asked for of a blob has come. A link too slow for us is asked ever less often."""
    if ref is None:
        return None
    if known is None or known.what != ref.digest:
        return Behind(ref.digest, state.now, with_parts_s(ref))
    return replace(known, since=max(known.since, state.part_at))


def _unaccompanied(state: State) -> tuple[str, str, float] | None:
    """The same of the status of whoever opened an attempt, where we have none, or the last one of another time."""
    announced = state.announced
    if announced is None or not announced.alone or state.silent or (state.served and state.heard):
        return None
    if announced.message.phase is not Phase.COLLECTING or state.now >= announced.until:
        return None
    return _STATUS, _STATUS, PATIENCE_S


def _missing(state: State) -> tuple[str, str, float] | None:
    """What has been spoken of and is not here, and how long it has to come; None where nothing is known to be.

    Between the two, beyond what that is: the same for as long as nothing of its kind comes, whatever is spoken of next.
    """
    status, run = state.coordinator, state.run
    if status is not None and status.run is not None and (run is None or run.run != status.run):
        announced = state.announced is not None and state.announced.message.run == status.run
        return (what := f"the run {status.run}"), what, PATIENCE_S if announced else LONGER_S
    found = None if status is None or run is None else _missing_of(state, status, run)
    if found is None and (ahead := _ahead(state)):
        return f"the coordinator's word of {ahead}", ahead, LONGER_S
    return found


def _missing_of(state: State, status: CoordinatorStatus, run: RunSettings) -> tuple[str, str, float] | None:
    """The same of a run whose settings are here."""
    message = state.announced.message if state.announced is not None else None
    if message is not None and message.run != run.run:
        message = None
    here = state.pointer.version if state.pointer is not None and state.is_current(state.pointer) else -1
    if message is not None and here < message.model_version:
        return f"the pointer to model {message.model_version}", f"pointer {here}", PATIENCE_S
    if here < status.model_version:
        return f"the pointer to model {status.model_version}", f"pointer {here}", LONGER_S
    known = message.round if message is not None else -1
    if status.phase == Phase.COLLECTING and known < status.round:
        return f"the announcement of round {status.round}", f"announcement {known}", LONGER_S
    return None


def _ahead(state: State) -> str:
    """What we were told of that the coordinator's status does not reach; empty where there is nothing such."""
    announced, pointer, status = state.announced, state.pointer, state.coordinator
    if status is None or state.run is None or status.run != state.run.run:
        return _belied(state)
    if announced is not None and announced.message.run == status.run and announced.message.round > status.round:
        return f"round {announced.message.round}"
    if pointer is not None and _is_out_of_reach(state, pointer, status):
        return f"model {pointer.version}"
    return _belied(state)


def _belied(state: State) -> str:
    """The announcement that another one has come after which is before it; empty where there is nothing such."""
    announced = state.announced
    if announced is None or not announced.belied:
        return ""
    message = announced.message
    return f"attempt {message.attempt} at round {message.round} ({message.task})"


def _let_go(state: State) -> State:
    """Any announcement may follow the one there is, and any pointer one that is out of reach."""
    announced, pointer, status = state.announced, state.pointer, state.coordinator
    ahead = announced is not None and status is not None and announced.message.round > status.round
    if announced is not None and (ahead or announced.belied):
        announced = replace(announced, session=None, belied=False)
    if pointer is not None and status is not None and _is_out_of_reach(state, pointer, status):
        pointer = None
    return replace(state, announced=announced, pointer=pointer)


def _is_out_of_reach(state: State, pointer: ModelPointer, status: CoordinatorStatus) -> bool:
    """Whether a model is not here, and the coordinator does not speak of it."""
    held = state.model is not None and state.model.digest == pointer.digest
    return pointer.run == status.run and pointer.version > status.model_version and not held
