"""What counts and what doesn't, and why: in every state there can be, asked directly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from immutables import Map

from coordinator import admission
from coordinator.admission import UNKNOWN, Refusal, belongs, hears, is_stranger, key, refusal, staleness, was_asked
from coordinator.events import Header, Ticket, Version
from coordinator.fleet import View
from coordinator.round_state import ATTEMPTS, Aggregating, Collecting, Over, Resting, Selecting, Stage, State, roster
from schemas import cohort
from schemas.errors import Reject
from schemas.messages import Outcome, Task
from tests.round_examples import join_to, names, rules, update_of

DEVICES = names(6)
STALE = 2  # versions an update may be behind where rounds overlap
LATE = (Outcome.LATE, None)
FOREIGN = (Outcome.REJECTED, Reject.WRONG_RUN)
OVERLAPPING = st.none() | st.integers(0, 3)


def version(number: int) -> Version:
    return Version(number, f"{number:064x}")


def at(number: int, *, attempt: int = 0, task: Task = "train", max_staleness: int | None = None) -> State:
    """An attempt at round ``number`` that is open to everybody, and has no answer so far."""
    terms = rules(rounds=9, max_staleness=max_staleness)
    stage = Collecting(terms.ticket(number, task, attempt), 0.0, 1.0, None, 1, frozenset(DEVICES), len(DEVICES))
    model = number if task == "evaluate" else number - 1
    back = range(model - 1, max(model - (max_staleness or 0), 0) - 1, -1)
    return State(
        terms, version(model), number, stage, 0.0, task, attempt, lineage=tuple(version(before) for before in back)
    )


def opened(state: State) -> Collecting:
    assert isinstance(state.stage, Collecting)
    return state.stage


def answer(state: State, device: str = "dev-0", /, **changes: object) -> Header:
    """What counts in ``state``, but for ``changes``."""
    return update_of(opened(state).ticket, device, state.model, **changes)


def of_round(state: State, number: int, device: str = "dev-0", **changes: object) -> Header:
    """The honest answer to the first attempt at round ``number``."""
    return update_of(state.rules.ticket(number, "train", 0), device, version(number - 1), **changes)


def why(refused: Refusal | None) -> tuple[Outcome, Reject | None] | None:
    return None if refused is None else refused[:2]


def taken(state: State, *headers: Header) -> State:
    """The state once these count."""
    stage = opened(state)
    received = stage.received.update({key(stage, header): header for header in headers})
    return replace(state, stage=replace(stage, received=received))


# -- what is asked for -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """One thing that is wrong with an answer, and what comes of it."""

    changes: dict[str, object]
    comes: tuple[Outcome, Reject | None]


WRONG = (
    Wrong({"nonce": "f" * 16}, FOREIGN),
    Wrong({"round": 8}, FOREIGN),
    Wrong({"task": "evaluate"}, FOREIGN),
    Wrong({"model": version(7)}, FOREIGN),
    Wrong({"model": Version(3, "f" * 64)}, FOREIGN),
)


@given(st.sampled_from(DEVICES), st.integers(0, 2), OVERLAPPING)
def test_the_answer_to_the_open_attempt_counts(device: str, attempt: int, max_staleness: int | None) -> None:
    state = at(4, attempt=attempt, max_staleness=max_staleness)
    assert refusal(state, answer(state, device)) is None


@given(st.lists(st.sampled_from(WRONG), min_size=1, unique_by=id), OVERLAPPING)
def test_whatever_is_wrong_with_an_answer_it_does_not_count(wrong: list[Wrong], max_staleness: int | None) -> None:
    """Seen to fail with ``header.model != state.model`` left out, and with a nonce that is not compared."""
    state = at(4, max_staleness=max_staleness)
    header = answer(state, **{name: value for one in wrong for name, value in one.changes.items()})
    assert why(refusal(state, header)) in {one.comes for one in wrong}


@given(st.integers(1, 6), st.integers(0, 4), st.sampled_from(["train", "evaluate"]))
def test_what_was_asked_once_is_late_and_all_else_is_of_another_run(number: int, attempt: int, task: Task) -> None:
    """Seen to fail with ``was_asked`` true of rounds to come."""
    state = at(4, attempt=1)
    ticket = state.rules.ticket(number, task, attempt)
    header = update_of(ticket, "dev-0", state.model)
    if ticket == opened(state).ticket:
        assert refusal(state, header) is None
    else:
        asked = number <= 4 and attempt < 1 + ATTEMPTS
        assert why(refusal(state, header)) == (LATE if asked else FOREIGN)
    assert was_asked(state, header) == was_asked(state, join_to(ticket, "dev-0"))


@pytest.mark.parametrize("changes", [{"run": "run-2"}, {"seed": 1}])
def test_another_run_s_questions_were_never_asked(changes: dict[str, object]) -> None:
    state = at(4)
    foreign = rules(**{"rounds": 9, **changes})
    for number in range(1, 5):
        assert not was_asked(state, update_of(foreign.ticket(number, "train", 0), "dev-0", state.model))


@pytest.mark.parametrize(
    "stage", [Selecting(0.0), Resting(1.0), Over(), Aggregating(opened(at(4)))], ids=lambda one: type(one).__name__
)
def test_while_no_attempt_is_open_nothing_counts_and_what_was_asked_is_late(stage: Stage) -> None:
    state = replace(at(4, max_staleness=STALE), stage=stage)
    assert why(refusal(state, of_round(state, 4))) == LATE
    assert why(refusal(state, of_round(state, 3))) == LATE
    assert why(refusal(state, of_round(state, 4, nonce="f" * 16))) == FOREIGN


# -- who is asked ------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.sampled_from(DEVICES))
def test_only_those_who_are_drawn_count(bound: float, device: str) -> None:
    """Seen to fail with ``>`` for ``>=``: a device on the bound is not drawn."""
    state = at(4)
    for limit in (bound, cohort.draw(opened(state).ticket.nonce, device)):
        bounded = replace(state, stage=replace(opened(state), cohort=limit))
        drawn = cohort.draw(opened(state).ticket.nonce, device) < limit
        expected = None if drawn else (Outcome.REJECTED, Reject.NOT_SELECTED)
        assert why(refusal(bounded, answer(state, device))) == expected


@given(st.frozensets(st.sampled_from(DEVICES)), st.sampled_from([*DEVICES, "newcomer"]))
def test_once_the_roll_is_full_only_those_on_it_count(roll: frozenset[str], device: str) -> None:
    state = replace(at(4), view=View(roll=roll))
    refused = refusal(state, answer(state, device))
    assert refused == (None if device in roll else (Outcome.REJECTED, Reject.UNKNOWN_DEVICE, UNKNOWN))


@given(
    joined=st.frozensets(st.sampled_from(names(20))),
    declined=st.frozensets(st.sampled_from(names(20))),
    limit=st.integers(1, 20),
)
def test_no_more_devices_than_the_limit_are_let_in_and_nobody_who_is_in_is_put_out(
    joined: frozenset[str], declined: frozenset[str], limit: int
) -> None:
    """Seen to fail with ``>`` for ``>=``, and without the devices that declined."""
    declined -= joined
    stage = replace(opened(at(4)), joined=roster(joined), declined=Map(dict.fromkeys(declined, "no")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "MAX_DEVICES", limit)
        strangers = {device for device in names(20) if is_stranger(replace(at(4), stage=stage), stage, device)}
    inside = stage.selected | joined | declined
    assert strangers == (set(names(20)) - inside if len(joined | declined) >= limit else set())


# -- once --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(DEVICES), min_size=1, unique=True), st.sampled_from(["", "another"]), OVERLAPPING)
def test_invariant_01_a_device_that_counts_does_not_count_again(
    counting: list[str],
    digest: str,
    max_staleness: int | None,
) -> None:
    """Also not with another update, which is told apart. Seen to fail without ``received`` in ``refusal``."""
    state = at(4, max_staleness=max_staleness)
    state = taken(state, *(answer(state, device) for device in counting))
    for device in DEVICES:
        header = answer(state, device)
        again = replace(header, digest=digest or header.digest)
        noted = Reject.EQUIVOCATION if digest else None
        assert why(refusal(state, again)) == ((Outcome.DUPLICATE, noted) if device in counting else None)


# -- rounds that overlap -----------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(1, 8), OVERLAPPING)
def test_must_17_an_answer_to_an_earlier_round_counts_as_long_as_it_is_not_too_far_behind(
    number: int, answered: int, max_staleness: int | None
) -> None:
    """Seen to fail with the staleness not bounded, and with rounds that overlap although nobody asked for it."""
    state = at(number, max_staleness=max_staleness)
    header = of_round(state, answered)
    behind = number - answered
    if behind < 0:
        assert why(refusal(state, header)) == FOREIGN
    elif behind <= (max_staleness or 0):
        assert refusal(state, header) is None
        assert staleness(state, header) == (None if max_staleness is None else behind)
    else:
        assert why(refusal(state, header)) == LATE
    assert belongs(state, header) == hears(state, answered) == (0 <= behind <= (max_staleness or 0))


@given(st.integers(1, 4), st.integers(1, 4))
def test_an_earlier_round_s_answer_starts_from_a_version_there_was(answered: int, model: int) -> None:
    """Neither from one that is too old, nor with a round that is by saying that it starts from a newer one.

    Seen to fail with any model that is not too old, without ``hears`` in ``_is_stale``, and without the models there.
    """
    state = at(4, max_staleness=STALE)
    header = of_round(state, answered, model=version(model - 1))
    lie = replace(header, model=Version(model - 1, "f" * 64))
    if answered < 4 - STALE or (answered < 4 and model < 4 - STALE):
        assert why(refusal(state, header)) == why(refusal(state, lie)) == LATE
    else:
        assert why(refusal(state, header)) == (None if model >= 4 - STALE else FOREIGN)
        assert why(refusal(state, lie)) == FOREIGN
    assert why(refusal(state, replace(header, model=version(4)))) == (LATE if answered < 4 - STALE else FOREIGN)


@pytest.mark.parametrize("max_staleness", [None, 0])
def test_where_rounds_do_not_overlap_no_earlier_version_will_do(max_staleness: int | None) -> None:
    """Seen to fail with ``lineage`` alone asked."""
    state = replace(at(4, max_staleness=max_staleness), lineage=(version(2),))
    assert why(refusal(state, answer(state, model=version(2)))) == FOREIGN


def test_each_round_a_device_answers_counts_once_under_a_name_of_its_own() -> None:
    """Seen to fail with the device alone as ``key``: the second one was a duplicate."""
    state = at(4, max_staleness=STALE)
    both = (of_round(state, 3), of_round(state, 4))
    assert [key(opened(state), header) for header in both] == ["dev-0@3", "dev-0"]
    for first, second in (both, both[::-1]):
        assert refusal(taken(state, first), second) is None
        assert why(refusal(taken(state, first, second), first)) == (Outcome.DUPLICATE, None)
        assert why(refusal(taken(state, first), replace(first, digest="x"))) == (
            Outcome.DUPLICATE,
            Reject.EQUIVOCATION,
        )


@given(st.sampled_from(DEVICES), st.integers(2, 4))
def test_invariant_01_what_is_in_an_earlier_version_does_not_count_again(device: str, answered: int) -> None:
    """Seen to fail without ``counted`` in ``refusal``."""
    state = replace(at(4, max_staleness=STALE), counted=frozenset({(device, answered)}))
    for number in (2, 3, 4):
        expected = (Outcome.DUPLICATE, None) if number == answered else None
        assert why(refusal(state, of_round(state, number, device))) == expected


def test_evaluations_never_overlap() -> None:
    """Seen to fail without the comparison of tasks in ``_is_stale``."""
    state = at(4, task="evaluate", max_staleness=STALE)
    assert refusal(state, answer(state)) is None
    assert staleness(state, answer(state)) is None
    assert why(refusal(state, of_round(state, 4))) == LATE
    earlier: Ticket = state.rules.ticket(3, "evaluate", 0)
    assert why(refusal(state, update_of(earlier, "dev-0", version(3)))) == LATE
