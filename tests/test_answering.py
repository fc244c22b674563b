"""What one answer changes; the rules as a whole are in test_round, what counts in test_admission."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from hypothesis import given
from hypothesis import strategies as st
from immutables import Map

from coordinator import answering
from coordinator.events import Fold, Header, Keep, Rejected, Reply, UpdateStalled, Version
from coordinator.round_state import Aggregating, Collecting, Rules, State, roster
from schemas.errors import Reject
from schemas.messages import Join, Outcome

DEVICES = [f"dev-{number}" for number in range(6)]
RULES = Rules(run="run-one", rounds=3, deadline_s=600.0)
MODEL = Version(0, "0" * 64)
TICKET = RULES.ticket(1, "train", 0)


def opened() -> State:
    selected = frozenset(DEVICES[:4])
    return State(
        RULES, MODEL, 1, Collecting(TICKET, 0.0, 1.0, None, 1, selected, len(selected), awaited=roster(selected)), 0.0
    )


def stage_of(state: State) -> Collecting:
    assert isinstance(state.stage, Collecting)
    return state.stage


def join(device: str, *, accepts: bool = True) -> Join:
    about = {"run": RULES.run, "round": 1, "task": "train", "nonce": TICKET.nonce, "device": device}
    return Join.model_validate({**about, "accepts": accepts, "reason": "" if accepts else "busy"})


def header(device: str, digest: str = "a") -> Header:
    return Header(device, 1, "train", TICKET.nonce, MODEL, 10, 0.5, digest * 64, 100)


def outcomes(effects: tuple[object, ...]) -> list[Outcome]:
    return [effect.outcome for effect in effects if isinstance(effect, Reply)]


def test_an_update_that_counts_is_kept_folded_and_answered_in_this_order() -> None:
    state, effects = answering.update(opened(), header("dev-0"))
    assert [type(effect) for effect in effects[:3]] == [Keep, Fold, Reply]
    assert outcomes(effects) == [Outcome.ACCEPTED]
    assert dict(stage_of(state).received) == {"dev-0": header("dev-0")}
    assert "dev-0" not in stage_of(state).awaited


def test_another_update_of_a_device_changes_nothing_but_the_count_of_rejections() -> None:
    before, _ = answering.update(opened(), header("dev-0"))
    after, effects = answering.update(before, header("dev-0", "b"))
    assert outcomes(effects) == [Outcome.DUPLICATE]
    assert after == replace(before, rejected={Reject.EQUIVOCATION.value: 1})


def test_a_device_may_change_its_mind_until_it_has_answered() -> None:
    state, effects = answering.join(opened(), join("dev-1", accepts=False))
    assert outcomes(effects) == [Outcome.NOTED]
    assert dict(stage_of(state).declined) == {"dev-1": "busy"}
    assert "dev-1" not in stage_of(state).awaited
    state, _ = answering.join(state, join("dev-1"))
    assert not stage_of(state).declined
    assert {"dev-1"} == set(stage_of(state).joined) & set(stage_of(state).awaited)


def test_nothing_is_expected_of_a_device_whose_update_was_rejected() -> None:
    state, effects = answering.rejected(opened(), Rejected(Reject.NOT_FINITE, "NaN", "", "dev-2", 1))
    assert outcomes(effects) == [Outcome.REJECTED]
    assert "dev-2" not in stage_of(state).awaited
    assert "NaN" in stage_of(state).declined["dev-2"]


def test_parts_are_asked_for_as_long_as_they_may_count() -> None:
    """Of the attempt that they answer. Seen to fail with a device asked whose update counts, without the check of the
    stage (an ``AttributeError`` while a result was made), and with the open attempt's nonce for an earlier one's.
    """
    state = opened()
    [asked] = answering.missing(state, UpdateStalled("dev-0", (1, 2)))
    assert isinstance(asked, Reply)
    assert (asked.device, asked.nonce, asked.outcome, asked.missing) == (
        "dev-0",
        TICKET.nonce,
        Outcome.INCOMPLETE,
        (1, 2),
    )
    earlier = replace(header("dev-0"), nonce="e" * 16)
    [asked] = answering.missing(state, UpdateStalled("dev-0", (0,), earlier))
    assert isinstance(asked, Reply)
    assert asked.nonce == "e" * 16
    counting, _ = answering.update(state, header("dev-0"))
    assert answering.missing(counting, UpdateStalled("dev-0", (1,))) == ()
    assert answering.missing(counting, UpdateStalled("dev-1", (1,)))
    assert answering.missing(replace(state, stage=Aggregating(stage_of(state))), UpdateStalled("dev-0", (1,))) == ()


class Unwalked(frozenset[str]):
    """Can be asked for one, and not for all."""

    def _walk(self, *_: object) -> NoReturn:
        raise AssertionError("all were looked at for one")

    __iter__ = __and__ = __or__ = __sub__ = union = difference = intersection = _walk


def test_who_comes_to_an_open_round_costs_it_the_same_however_many_were_selected() -> None:
    """Seen to fail with the union of who was selected and who has joined: a ms of 10,000."""
    state = opened()
    state = replace(state, stage=replace(stage_of(state), selected=Unwalked(DEVICES[:1]), awaited=Map()))
    for device in (*DEVICES, *DEVICES):
        state, _ = answering.join(state, join(device))
    assert (stage_of(state).asked, stage_of(state).involved) == (len(DEVICES), len(DEVICES))


def test_a_newcomer_that_declines_after_all_is_no_longer_one_of_those_there_are_now() -> None:
    """How many an attempt had before stays, for what is announced. Seen to fail with each change of mind one more."""
    state = opened()
    state = replace(state, stage=replace(stage_of(state), selected=frozenset(), asked=0, awaited=Map()))
    for accepts in (True, False, True, False, True):
        state, _ = answering.join(state, join("dev-0", accepts=accepts))
    assert (stage_of(state).newcomers, stage_of(state).asked) == (1, 1)


ANSWERS = st.one_of(
    st.builds(join, st.sampled_from(DEVICES), accepts=st.booleans()),
    st.builds(header, st.sampled_from(DEVICES), st.sampled_from("ab")),
)


@given(st.lists(ANSWERS, max_size=20))
def test_a_state_stays_what_it_was_whatever_follows_from_it(answers: list[Join | Header]) -> None:
    """Rosters share their insides with those that follow. Seen to fail with dictionaries changed in place."""
    states, copies = [opened()], []
    for answer in answers:
        stage = stage_of(states[-1])
        copies.append((dict(stage.joined), dict(stage.declined), dict(stage.received), dict(stage.awaited)))
        after, _ = (
            answering.join(states[-1], answer) if isinstance(answer, Join) else answering.update(states[-1], answer)
        )
        states.append(after)
        stage = stage_of(states[-1])
        asked = stage.selected.union(stage.joined)
        assert set(stage.awaited) == asked.difference(stage.received, stage.declined)
        assert len(stage.selected) + stage.newcomers == len(asked)
    for state, copy in zip(states, copies, strict=False):
        stage = stage_of(state)
        assert (dict(stage.joined), dict(stage.declined), dict(stage.received), dict(stage.awaited)) == copy
