from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from schemas.link.link import Connected, Disconnected, Event, Inbound, Sent, Will
from schemas.link.memory import Faults, MemoryBroker, MemoryLink


def link(broker: MemoryBroker, client_id: str, *, keep_session: bool = False) -> tuple[MemoryLink, list[Event]]:
    """An open link and what it hears."""
    events: list[Event] = []
    opened = MemoryLink(broker, client_id, events.append, Will(f"will/{client_id}", b"gone"), keep_session=keep_session)
    opened.open()
    return opened, events


def payloads(events: list[Event]) -> list[bytes]:
    return [event.payload for event in events if isinstance(event, Inbound)]


def test_everything_a_verb_causes_has_happened_when_it_returns() -> None:
    broker = MemoryBroker()
    reader, heard = link(broker, "reader")
    reader.subscribe("t")
    assert heard == [Connected(), Sent(1)]
    reader.publish("t", b"x")
    assert heard == [Connected(), Sent(1), Inbound("t", b"x"), Sent(2)]


def test_an_event_that_causes_another_never_nests_in_it() -> None:
    broker = MemoryBroker()
    order: list[str] = []

    def sink(event: Event) -> None:
        order.append(f"begin {type(event).__name__}")
        if isinstance(event, Inbound) and event.payload == b"ping":
            talker.publish("t", b"pong")
        order.append(f"end {type(event).__name__}")

    talker = MemoryLink(broker, "talker", sink)
    talker.open()
    talker.subscribe("t")
    talker.publish("t", b"ping")
    assert order[0::2] == [line.replace("end", "begin") for line in order[1::2]]
    assert len(order) == 2 * 6


@given(st.integers(), st.floats(0, 1), st.floats(0, 1), st.floats(0, 5))
def test_faults_replay_exactly_and_lateness_keeps_the_order(
    seed: int, loss: float, duplicate: float, delay_s: float
) -> None:
    def run() -> list[Event]:
        broker = MemoryBroker(faults=Faults(loss, duplicate, delay_s), draw=random.Random(seed))  # noqa: S311
        reader, heard = link(broker, "reader")
        reader.subscribe("t")
        for index in range(20):
            reader.publish("t", b"%02d" % index)
            broker.advance(0.1)
        broker.advance(delay_s)
        return heard

    heard = run()
    assert heard == run()
    assert payloads(heard) == sorted(payloads(heard))
    assert sum(isinstance(event, Sent) for event in heard) == 1 + 20  # an acknowledgement proves nothing about delivery


def test_each_fault_does_what_it_says() -> None:
    for faults, expected in [(Faults(loss=1.0), []), (Faults(duplicate=1.0), [b"x", b"x"]), (Faults(), [b"x"])]:
        broker = MemoryBroker(faults=faults)
        reader, heard = link(broker, "reader")
        reader.subscribe("t")
        reader.publish("t", b"x")
        assert payloads(heard) == expected
    assert [event.duplicate for event in heard if isinstance(event, Inbound)] == [False]


def test_a_delayed_message_comes_when_the_clock_says() -> None:
    broker = MemoryBroker(faults=Faults(delay_s=10.0))
    reader, heard = link(broker, "reader")
    reader.subscribe("t")
    reader.publish("t", b"x")
    assert payloads(heard) == []
    broker.advance(10.0)
    assert payloads(heard) == [b"x"]
    assert broker.now_s == 10.0


def test_a_duplicate_of_an_acknowledged_message_still_comes() -> None:
    broker = MemoryBroker(faults=Faults(duplicate=1.0))
    heard: list[Event] = []

    def sink(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Inbound):
            event.ack()

    reader = MemoryLink(broker, "reader", sink)
    reader.open()
    reader.subscribe("t")
    reader.publish("t", b"x")
    assert [event.duplicate for event in heard if isinstance(event, Inbound)] == [False, True]


def test_a_message_on_its_way_when_the_line_is_cut_comes_after_it_or_never() -> None:
    for keep_session, expected in ((True, [b"x"]), (False, [])):
        broker = MemoryBroker(faults=Faults(delay_s=0.01))
        reader, heard = link(broker, "reader", keep_session=keep_session)
        reader.subscribe("t")
        reader.publish("t", b"x")
        broker.cut("reader")
        broker.advance(60.0)
        assert payloads(heard) == expected


def test_at_qos_0_nothing_comes_again() -> None:
    broker = MemoryBroker()
    reader, heard = link(broker, "reader", keep_session=True)
    reader.subscribe("t")
    writer, _ = link(broker, "writer")
    writer.publish("t", b"x", qos=0)
    broker.cut("reader")
    writer.publish("t", b"y", qos=0)
    broker.advance(60.0)
    assert payloads(heard) == [b"x"]


def test_reconnecting_takes_time_and_a_broker_that_is_down_is_tried_again() -> None:
    broker = MemoryBroker()
    _, heard = link(broker, "reader")
    broker.stop()
    broker.advance(5.0)
    assert len([event for event in heard if isinstance(event, Disconnected)]) > 1
    assert sum(isinstance(event, Connected) for event in heard) == 1
    broker.start()
    broker.advance(60.0)
    assert isinstance(heard[-1], Connected)


def test_a_crash_may_forget_retained_messages_and_sessions() -> None:
    for forget in (False, True):
        broker = MemoryBroker()
        keeper, heard = link(broker, "keeper", keep_session=True)
        keeper.publish("t", b"kept", retain=True)
        broker.stop(forget=forget)
        broker.start()
        broker.advance(60.0)
        assert ("t" in broker.retained) is not forget
        assert [event.session_present for event in heard if isinstance(event, Connected)] == [False, not forget]


def test_a_second_client_of_the_same_id_takes_the_connection_over() -> None:
    broker = MemoryBroker()
    _, heard = link(broker, "same")
    link(broker, "same")
    gone = heard[-1]
    assert isinstance(gone, Disconnected)
    assert "client id" in str(gone.error)
    assert broker.retained["will/same"] == b"gone"
