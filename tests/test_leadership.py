"""Who may write: the machine alone, with every way that two coordinators can meet."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import leadership as lead
from schemas.messages import CoordinatorState, CoordinatorStatus

OURS, THEIRS = "a" * 16, "b" * 16
SERVING = sorted(lead.SERVING)
ENDED = [CoordinatorState.FINISHED, CoordinatorState.STOPPED]


def status(
    state: CoordinatorState = CoordinatorState.RUNNING,
    session: int = 7,
    instance: str = THEIRS,
    heartbeat_s: float = 30.0,
) -> CoordinatorStatus:
    return CoordinatorStatus(
        state=state, session=session, instance=instance, run="run-other", heartbeat_s=heartbeat_s, since="noon"
    )


def kept(one: CoordinatorStatus | None) -> lead.Seen:
    return lead.Seen(one, retained=True)


def live(one: CoordinatorStatus | None) -> lead.Seen:
    return lead.Seen(one, retained=False)


class Bench:
    """A machine, and all it ever wanted."""

    def __init__(self, session: int = 0, idle_heartbeat_s: float = 0.0) -> None:
        self.state = lead.State(OURS, session, 30.0, 0.0, idle_heartbeat_s)
        self.effects: list[lead.Effect] = []

    def __call__(self, *events: lead.Event) -> list[lead.Effect]:
        """What it wants of these."""
        before = len(self.effects)
        for event in events:
            self.state, effects = lead.step(self.state, event)
            self.effects.extend(effects)
        return self.effects[before:]

    def looks(self, *statuses: lead.Seen) -> list[lead.Effect]:
        """What it wants once it has connected and looked, and seen these."""
        return [
            effect
            for effect in self(lead.Connected(), *statuses, *[lead.Looked()] * lead.LOOKS)
            if not isinstance(effect, lead.Look)
        ]


def errors(effects: Iterable[lead.Effect]) -> list[str]:
    return [effect.error for effect in effects if isinstance(effect, lead.GiveUp)]


# -- a session that no clock gives -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", CoordinatorState)
def test_must_29_nobody_rises_above_a_session_that_no_clock_gives(state: CoordinatorState) -> None:
    """Seen to fail without ``BEYOND`` in ``_newcomer_sees``."""
    bench = Bench()
    bench.looks(kept(status(ENDED[0], session=9, instance="c" * 16)), kept(status(state, session=2**53)))
    bench(lead.Tick(1000.0))
    assert [effect.above for effect in bench.effects if isinstance(effect, lead.Lead)] == [9]


@pytest.mark.parametrize("state", CoordinatorState)
def test_must_30_a_session_that_no_clock_gives_is_written_over_unless_somebody_speaks_under_it(
    state: CoordinatorState,
) -> None:
    """A broker's copy of it, a will and a farewell end nobody: a newcomer would find it there again, for ever.

    Seen to fail without ``idle_claim``, and where that asks for less.
    """
    bench = Bench(session=7)
    claim = status(state, session=2**53)
    assert isinstance(bench.looks(kept(claim))[0], lead.Lead)
    assert lead.Say() in bench(kept(claim))
    effects = bench(live(claim))
    assert bool(errors(effects)) == (state in lead.SERVING)
    assert errors(effects) or lead.Say() in effects


# -- a newcomer --------------------------------------------------------------------------------------------------------


def test_a_newcomer_leads_where_there_is_no_status_at_all() -> None:
    bench = Bench()
    assert bench.looks() == [lead.Lead(0)]
    assert bench.effects.count(lead.Look()) == lead.LOOKS


@pytest.mark.parametrize("state", ENDED)
def test_a_newcomer_leads_at_once_where_the_other_has_ended_with_a_session_above_its(state: CoordinatorState) -> None:
    assert Bench().looks(kept(status(state, session=9))) == [lead.Lead(9)]


@pytest.mark.parametrize("state", CoordinatorState)
def test_a_restart_on_the_same_state_directory_never_refuses_itself(state: CoordinatorState) -> None:
    """Seen to fail without the comparison of instances in ``_rival``."""
    assert Bench().looks(kept(status(state, instance=OURS))) == [lead.Lead(7)]


@pytest.mark.parametrize("state", SERVING)
def test_a_newcomer_waits_for_a_sign_of_life_for_two_and_a_half_heartbeats(state: CoordinatorState) -> None:
    """Seen to fail with a ``PATIENCE`` of 2 and of 3."""
    bench, rival = Bench(), status(state, heartbeat_s=10.0)
    assert bench.looks(kept(rival)) == [lead.Doubt(rival, 25.0)]
    assert lead.wake_at(bench.state) == 25.0
    assert bench(lead.Tick(24.9)) == []
    assert bench(lead.Tick(25.0)) == [lead.Lead(7, rival)]


def test_a_newcomer_does_not_wait_for_ever_whatever_a_status_says() -> None:
    bench = Bench()
    bench.looks(kept(status(heartbeat_s=31_536_000.0)))
    assert lead.wake_at(bench.state) == lead.LONGEST_S


@pytest.mark.parametrize("state", SERVING)
@pytest.mark.parametrize("moment", ["looking", "doubting"])
def test_a_sign_of_life_refuses_a_newcomer_naming_the_other(state: CoordinatorState, moment: str) -> None:
    """Seen to fail with retained statuses taken for signs of life, and without the check of ``retained``."""
    bench = Bench()
    if moment == "looking":
        bench(lead.Connected())
    else:
        bench.looks(kept(status()))
    (error,) = errors(bench(live(status(state))))
    assert error.startswith("another coordinator (run run-other, session 7, since noon) serves this federation")
    assert bench(lead.Tick(1e6), lead.Connected(), lead.Looked()) == []  # that was its last word


@pytest.mark.parametrize("state", ENDED)
def test_a_rival_that_ends_while_it_is_doubted_is_followed_at_once(state: CoordinatorState) -> None:
    bench = Bench()
    bench.looks(kept(status()))
    assert bench(live(status(state))) == [lead.Lead(7)]


def test_a_rival_that_is_offline_may_have_lost_its_connection_to_us_and_is_given_time_to_take_it_back() -> None:
    """Seen to fail with ``OFFLINE`` not among what ``_rival`` returns."""
    offline = status(CoordinatorState.OFFLINE)
    bench = Bench()
    assert bench.looks(kept(offline)) == [lead.Doubt(offline, lead.RETURN_S)]
    assert bench(kept(offline)) == []  # a broker may give it twice: no reason to wait anew
    assert bench(lead.Disconnected(), lead.Connected(), kept(offline)) == [lead.Look()]
    assert errors(bench(kept(status())))  # it is back
    bench = Bench()
    bench.looks(kept(status()))
    assert bench(live(offline)) == [lead.Doubt(offline, lead.RETURN_S)]
    assert bench(lead.Tick(lead.RETURN_S)) == [lead.Lead(7, offline)]


@pytest.mark.parametrize("moment", ["away", "looking"])
def test_a_will_that_comes_before_all_is_seen_neither_ends_the_look_nor_stands_for_it(moment: str) -> None:
    """Seen to fail without the look at the stage in ``_newcomer_sees``: two seconds after such a will it led, with what
    was retained not yet read, or over no connection at all.
    """
    bench, offline, serving = Bench(), status(CoordinatorState.OFFLINE, session=5), status(instance="c" * 16)
    bench(lead.Connected(), *[lead.Disconnected()] * (moment == "away"))
    assert bench(live(offline), lead.Tick(1e3)) == []
    assert bench.looks(kept(serving)) == [lead.Doubt(serving, 75.0)]
    assert lead.wake_at(bench.state) == 1075.0


def test_a_newcomer_whose_connection_breaks_looks_again_and_waits_anew() -> None:
    bench = Bench()
    bench.looks(kept(status()))
    assert bench(lead.Tick(70.0), lead.Disconnected(), lead.Tick(100.0)) == []
    assert bench.looks(kept(status())) == [lead.Doubt(status(), 75.0)]
    assert lead.wake_at(bench.state) == 175.0


def test_a_rival_that_said_its_status_anew_between_two_looks_is_alive() -> None:
    """Seen to fail without ``said_anew``."""
    bench, first = Bench(), status()
    bench.looks(kept(first), kept(first))
    bench(lead.Disconnected(), lead.Connected(), kept(first))
    assert errors(bench(kept(first.model_copy(update={"said": "later"}))))


def test_rubbish_on_the_topic_is_no_rival() -> None:
    assert Bench().looks(kept(None)) == [lead.Lead(0)]


# -- in office ---------------------------------------------------------------------------------------------------------


def office(session: int = 7, idle_heartbeat_s: float = 0.0) -> Bench:
    bench = Bench(session, idle_heartbeat_s)
    assert bench.looks() == [lead.Lead(0)]
    return bench


def test_it_publishes_nothing_between_a_connect_and_its_look() -> None:
    """Seen to fail with ``Lead`` at the first answer."""
    bench = office()
    bench(lead.Disconnected())
    assert not bench.state.leading
    assert bench(lead.Tick(1e3), live(status(session=1)), kept(None)) == []
    assert bench(lead.Connected(), live(status(session=1)), lead.Looked()) == [lead.Look(), lead.Look()]
    assert bench(lead.Looked()) == [lead.Lead(0)]


@pytest.mark.parametrize("state", CoordinatorState)
@pytest.mark.parametrize("moment", ["looking", "leading"])
def test_a_higher_session_ends_it_whatever_state_it_shows(state: CoordinatorState, moment: str) -> None:
    """Devices follow the higher session from then on. Seen to fail with ``<`` for ``>`` in ``_sees``."""
    bench = office()
    if moment == "looking":
        bench(lead.Disconnected(), lead.Connected())
    assert "a newer coordinator (run run-other, session 8" in errors(bench(kept(status(state, session=8))))[0]


@pytest.mark.parametrize("state", CoordinatorState)
def test_it_begins_again_where_the_higher_one_does_not_serve(state: CoordinatorState) -> None:
    """Seen to fail with ranks compared and states left alone."""
    (gave_up,) = office()(live(status(state, session=8)))
    assert isinstance(gave_up, lead.GiveUp)
    assert gave_up.again == (state not in SERVING)


@pytest.mark.parametrize(
    "seen", [status(CoordinatorState.OFFLINE, session=6), status(CoordinatorState.OFFLINE, 7, OURS), None]
)
def test_whatever_else_stands_in_its_place_is_answered_with_its_status(seen: CoordinatorStatus | None) -> None:
    """A lower session's will, its own that comes late, rubbish. Seen to fail without ``Say`` in ``_sees``."""
    assert office()(live(seen)) == [lead.Say()]


@pytest.mark.parametrize("state", SERVING)
def test_where_a_lower_one_led_too_for_an_instant_the_tree_is_repeated_now_and_after_a_heartbeat(
    state: CoordinatorState,
) -> None:
    """That one may write until it hears of us. Seen to fail with its status answered alone, with the second left out,
    and with the second put off by whatever shows meanwhile: then somebody who says it every second has it never come.
    """
    bench, lower = office(), status(state, session=6)
    assert bench(lead.Tick(10.0), live(lower)) == [lead.Say(), lead.Repeat()]
    for second in range(11, 40):
        assert bench(lead.Tick(float(second)), live(lower), live(None)) == [lead.Say(), lead.Say()]
    assert bench(lead.Tick(40.0)) == [lead.Say(), lead.Repeat()]
    assert bench(lead.Tick(70.0)) == [lead.Say()]


@pytest.mark.parametrize("state", SERVING)
def test_where_a_lower_one_has_led_meanwhile_the_tree_is_repeated_a_heartbeat_after_its_return(
    state: CoordinatorState,
) -> None:
    """All of it goes out as it comes back anyway. Seen to fail with what shows while it looks left alone."""
    bench = office()
    bench(lead.Disconnected(), lead.Tick(10.0))
    assert bench.looks(kept(status(state, session=6))) == [lead.Lead(0)]
    assert bench(lead.Tick(40.0)) == [lead.Say(), lead.Repeat()]
    assert bench(lead.Tick(70.0)) == [lead.Say()]


@pytest.mark.parametrize("state", SERVING)
def test_a_status_of_its_own_earlier_session_is_answered_and_no_rival_s(state: CoordinatorState) -> None:
    """Seen to fail without the comparison of instances in ``_sees``: the tree went out again, twice."""
    bench = office()
    assert bench(live(status(state, session=6, instance=OURS))) == [lead.Say()]
    assert bench(lead.Tick(30.0)) == [lead.Say()]


@pytest.mark.parametrize("state", SERVING)
def test_its_own_status_that_comes_back_is_no_news(state: CoordinatorState) -> None:
    assert office()(live(status(state, 7, OURS))) == []


def test_it_says_its_status_every_heartbeat() -> None:
    """Seen to fail with twice the heartbeat in ``_leading``."""
    bench, said = office(), []
    for second in range(1, 100):
        said += [second] * len(bench(lead.Tick(float(second))))
    assert said == [30, 60, 90]


@pytest.mark.parametrize("heartbeat_s", [0.5, 10.0, 30.0, 3600.0])
def test_one_that_stood_still_is_told_to_look_anew_before_a_newcomer_would_lead(heartbeat_s: float) -> None:
    """That one may have begun to wait a fifth of its time before."""
    newcomer = Bench()
    newcomer.looks(kept(status(heartbeat_s=heartbeat_s)))
    assert lead.standstill_s(heartbeat_s) == pytest.approx(0.8 * lead.wake_at(newcomer.state))


@pytest.mark.parametrize("idle_heartbeat_s", [0.0, 30.0])
def test_where_it_need_not_be_seldom_its_pace_is_the_same_whatever_is_at_stake(idle_heartbeat_s: float) -> None:
    """Seen to fail without the comparison in ``_leading``."""
    bench = office(idle_heartbeat_s=idle_heartbeat_s)
    assert bench(lead.Tick(30.0, idle=True)) == [lead.Say()]
    assert bench(lead.Tick(31.0)) == []


def test_must_31_its_status_comes_seldom_while_nothing_is_at_stake_and_at_once_as_something_is() -> None:
    """Each promises the time to the next. Seen to fail with the longer promise as soon as it is idle, and with the
    shorter one when the longer is over.
    """
    bench = office(idle_heartbeat_s=300.0)
    assert bench.state.promised_s == 30.0
    assert bench(lead.Tick(1.0, idle=True), lead.Tick(29.9, idle=True), lead.Tick(29.95)) == []
    assert bench.state.promised_s == 30.0
    assert bench(lead.Tick(30.0, idle=True)) == [lead.Say()]
    assert (bench.state.promised_s, lead.wake_at(bench.state)) == (300.0, 330.0)
    assert bench(lead.Tick(329.9, idle=True)) == []
    assert bench(lead.Tick(330.0, idle=True)) == [lead.Say()]
    assert bench(lead.Tick(400.0)) == [lead.Say()]
    assert (bench.state.promised_s, lead.wake_at(bench.state)) == (30.0, 430.0)
    assert bench(lead.Tick(401.0, idle=True), lead.Tick(402.0)) == []


def test_news_for_people_come_every_ten_seconds_at_most() -> None:
    """Each device of a fleet gets them. Seen to fail with a ``Say`` for each."""
    bench = office()
    assert bench(lead.Tick(9.9, news=True)) == []
    assert lead.wake_at(bench.state) == 10.0
    assert bench(lead.Tick(10.0, news=True)) == [lead.Say()]
    assert lead.wake_at(bench.state) == 30.0
    assert bench(lead.Tick(10.1, news=True), lead.Tick(19.9)) == []
    assert lead.wake_at(bench.state) == 30.0
    assert bench(lead.Tick(20.1, news=True)) == [lead.Say()]


def test_must_31_news_leave_its_heartbeat_alone() -> None:
    """Who counts on the promised time hears it then. Seen to fail with ``_leading`` for news."""
    bench = office(idle_heartbeat_s=300.0)
    bench(lead.Tick(30.0, idle=True))
    assert bench(lead.Tick(60.0, idle=True, news=True)) == [lead.Say()]
    assert (bench.state.promised_s, lead.wake_at(bench.state)) == (300.0, 330.0)


def test_must_31_over_a_new_connection_its_first_status_promises_the_next_one_soon() -> None:
    """Who was away meanwhile is to answer. Seen to fail with the pace kept in ``_lead``."""
    bench = office(idle_heartbeat_s=300.0)
    bench(lead.Tick(30.0, idle=True), lead.Disconnected(), lead.Tick(40.0, idle=True))
    assert not bench.state.slow
    assert bench.looks() == [lead.Lead(0)]
    assert (bench.state.promised_s, lead.wake_at(bench.state)) == (30.0, 70.0)


def test_a_question_is_answered_and_leaves_its_pace_alone() -> None:
    """Seen to fail without ``slow`` in ``_sees``: a question had every device answer; and with it always true: in the
    middle of a round one had it promise the next for five minutes later.
    """
    bench = office(idle_heartbeat_s=300.0)
    assert bench(lead.Tick(1.0), live(None)) == [lead.Say()]
    assert (bench.state.promised_s, lead.wake_at(bench.state)) == (30.0, 31.0)
    bench = office(idle_heartbeat_s=300.0)
    bench(lead.Tick(30.0, idle=True))
    assert bench(lead.Tick(50.0, idle=True), live(None)) == [lead.Say()]
    assert (bench.state.promised_s, lead.wake_at(bench.state)) == (300.0, 350.0)


def test_where_a_lower_one_led_too_the_tree_is_repeated_soon_though_nothing_is_at_stake() -> None:
    """Seen to fail with ``slow=slow`` in ``_sees``."""
    bench = office(idle_heartbeat_s=300.0)
    bench(lead.Tick(30.0, idle=True))
    assert bench(live(status(session=6))) == [lead.Say(), lead.Repeat()]
    assert bench(lead.Tick(60.0, idle=True)) == [lead.Say(), lead.Repeat()]


EVENTS = st.one_of(
    st.builds(lead.Tick, st.floats(0, 1e4), st.booleans(), st.booleans()),
    st.just(lead.Connected()),
    st.just(lead.Disconnected()),
    st.just(lead.Looked()),
    st.builds(
        lead.Seen,
        st.none()
        | st.builds(status, st.sampled_from(CoordinatorState), st.integers(1, 9), st.sampled_from((OURS, THEIRS))),
        st.booleans(),
    ),
)


@given(st.integers(0, 9), st.lists(EVENTS, max_size=30))
def test_after_any_events_it_writes_only_while_it_leads_and_nothing_once_it_gave_up(
    session: int, events: list[lead.Event]
) -> None:
    bench = Bench(session)
    gave_up, answers = False, 0
    for event in events:
        before = bench.state
        effects = bench(event)
        answers = answers + 1 if isinstance(event, lead.Looked) else answers
        answers = 0 if isinstance(event, lead.Connected | lead.Disconnected) else answers
        assert not (gave_up and effects)
        gave_up = gave_up or bool(errors(effects))
        for effect in effects:
            if isinstance(effect, lead.Say):
                assert before.leading
            if isinstance(effect, lead.Lead):
                assert isinstance(before.stage, lead.Looking | lead.Doubting)
                assert answers >= lead.LOOKS
                assert effect.above >= max([0, *([bench.state.newest.session] if bench.state.newest else [])])


@given(st.integers(1, 3), st.integers(1, 3), st.permutations([0, 1, 0, 1, 0, 1]))
def test_of_two_that_lead_at_once_exactly_the_higher_stays(first: int, second: int, order: list[int]) -> None:
    """Whoever hears the other first; the same session is decided by the instances."""
    states = [lead.State(OURS, first, 30.0, 0.0), lead.State(THEIRS, second, 30.0, 0.0)]
    shown = [status(session=first, instance=OURS), status(session=second, instance=THEIRS)]
    gone = [False, False]
    for _ in range(2):
        states = [lead.step(state, lead.Connected())[0] for state in states]
    for _ in range(lead.LOOKS):
        states = [lead.step(state, lead.Looked())[0] for state in states]
    for who in order:
        states[who], effects = lead.step(states[who], live(shown[1 - who]))
        gone[who] = gone[who] or bool(errors(effects))
    assert gone == [first <= second, first > second]
