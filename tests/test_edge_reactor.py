from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from edge.agent import Agent
from edge.dataspec import DataSpec
from edge.device import Device
from edge.reactor import Reactor
from schemas import codec
from schemas.link.link import Event, Inbound, Will
from schemas.link.memory import MemoryBroker, MemoryLink
from schemas.link.notify import Notifier
from schemas.messages import Command
from schemas.topics import Address, Kind, Topics
from tests.edge_scripts import InstantTrainer, announcement
from tests.test_agent import Desk
from tests.waiting import until

LIMIT_S = 20.0


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket a service would be given in NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(LIMIT_S)
        yield listener


def heard(listener: socket.socket, wanted: str) -> str:
    """The first message that begins like this."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        message = listener.recv(4096).decode()
        if message.startswith(wanted):
            return message
    pytest.fail(f"systemd never heard {wanted}")


def test_systemd_hears_that_a_device_is_up_how_it_is_that_it_turns_and_that_it_stops(
    systemd: socket.socket, tmp_path: Path
) -> None:
    broker = MemoryBroker()
    reactor = Reactor(Notifier(systemd.getsockname(), watchdog_s=0.3))
    device = Device("dev-one", 1, DataSpec(path="x"), tmp_path / "state")
    reactor.add(
        Agent(
            device,
            Topics("home"),
            lambda name, sink, will: MemoryLink(broker, name, sink, will),
            InstantTrainer(),
            reactor.post,
        )
    )
    thread = threading.Thread(target=reactor.run)
    thread.start()
    try:
        assert heard(systemd, "READY=1")
        for _ in range(3):  # with nothing else to do: the watchdog is what wakes it
            assert heard(systemd, "WATCHDOG=1")
        assert heard(systemd, "STATUS=") == "STATUS=idle, no model yet: no run yet"
    finally:
        reactor.stop()
        thread.join(LIMIT_S)
    assert heard(systemd, "STOPPING=1")
    assert not thread.is_alive()


def test_however_much_comes_in_systemd_hears_that_it_turns(systemd: socket.socket, tmp_path: Path) -> None:
    """Seen to fail with a turn that ends when nothing is left: systemd would have killed it for hanging."""
    broker, topics = MemoryBroker(), Topics("home")
    reactor = Reactor(Notifier(systemd.getsockname(), watchdog_s=0.3))
    query = codec.encode(Command(command="query"))

    def ask_again(event: Event) -> None:
        if isinstance(event, Inbound):
            nosy.publish(topics.topic(Address(Kind.COMMAND, device="dev-one")), query)

    nosy = MemoryLink(broker, "nosy", ask_again)
    nosy.subscribe(topics.filter(Kind.DEVICE))
    nosy.open()
    device = Device("dev-one", 1, DataSpec(path="x"), tmp_path / "state")
    reactor.add(
        Agent(
            device,
            topics,
            lambda name, sink, will: MemoryLink(broker, name, sink, will),
            InstantTrainer(),
            reactor.post,
        )
    )
    thread = threading.Thread(target=reactor.run)
    thread.start()
    try:
        for _ in range(3):
            assert heard(systemd, "WATCHDOG=1")
    finally:
        reactor.stop()
        thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_stop_before_run_ends_it_at_once() -> None:
    reactor = Reactor()
    reactor.stop()
    reactor.run()


def test_a_fleet_that_stops_cancels_every_training_before_the_first_goodbye_and_waits_for_none(tmp_path: Path) -> None:
    """Seen to fail where devices stopped one by one, and where one without checkpoints was suspended."""
    broker, topics, reactor = MemoryBroker(), Topics("home"), Reactor()
    trainer = InstantTrainer(hold=True)
    cancelled_at_goodbye: list[int] = []

    class Polite(MemoryLink):
        def close(self, farewell: Will | None = None, timeout_s: float = 5.0) -> None:
            cancelled_at_goodbye.append(len(trainer.cancelled))
            super().close(farewell, timeout_s)

    desk = Desk(broker)
    desk.begin()
    desk.announce(announcement(1))
    names = [f"dev-{number}" for number in range(3)]
    for name in names:
        device = Device(name, 1, DataSpec(path="watch"), tmp_path / name)
        reactor.add(Agent(device, topics, partial(Polite, broker), trainer, reactor.post))
    thread = threading.Thread(target=reactor.run)
    thread.start()
    try:
        until(lambda: len(trainer.held) == len(names), "the trainings")
    finally:
        reactor.stop()
        thread.join(LIMIT_S)
    assert cancelled_at_goodbye == [3, 3, 3]
    assert trainer.suspended == []
