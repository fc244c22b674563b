"""The federation as its retained messages tell it: what ``coordinator status`` prints, coordinator running or not."""

from __future__ import annotations

import json
import os
import queue
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from coordinator.config import CoordinatorSettings
from coordinator.display import plain_table, synthetic_people
from coordinator.leadership import PATIENCE, SERVING
from schemas import codec
from schemas.counted import counted
from schemas.errors import BrokerUnreachable, FederationError, WireError
from schemas.link.link import Connected, Disconnected, Event, Inbound, Link, Sink
from schemas.link.mqtt import MqttLink
from schemas.messages import (
    CoordinatorStatus,
    DeviceStatus,
    Health,
    Message,
    Metrics,
    ModelPointer,
    Phase,
    RoundAnnouncement,
    RoundSummary,
    RunSettings,
)
from schemas.printable import printable
from schemas.topics import Kind, Topics

FIRST_S = 2.0  # for the first retained message, over a slow line too
QUIET_S = 0.5  # they come in one burst; this long without another one ends it
TABLE_WIDTH = 80  # columns in which names and numbers can be read
ROWS = 100  # of a table, unless all are asked for: whoever may write a status can write thousands, with long remarks
REMARK = 160  # characters of a remark in it
MORE = "--all shows them, --json is for programs"
KINDS = (Kind.COORDINATOR, Kind.RUN, Kind.MODEL, Kind.ROUND, Kind.SUMMARY, Kind.DEVICE)


def _silence(status: CoordinatorStatus, now: datetime) -> Iterator[str]:
    """How old a status is, where it should be renewed every so often; as far as two wall clocks agree."""
    if status.state not in SERVING or not status.said:
        return
    try:
        age = (now - datetime.fromisoformat(status.said)).total_seconds()
    except (ValueError, TypeError):  # another program's idea of a time
        return
    late = " (that is too long: it hangs, or has no connection)" if age > PATIENCE * status.heartbeat_s else ""
    yield f"it last said so {max(age, 0.0):.0f} s ago, and does every {status.heartbeat_s:g} s{late}"


@dataclass(slots=True)
class Snapshot:
    """What the broker holds of one federation."""

    coordinator: CoordinatorStatus | None = None
    run: RunSettings | None = None
    model: ModelPointer | None = None
    round: RoundAnnouncement | None = None
    summaries: dict[int, RoundSummary] = field(default_factory=dict)
    devices: dict[str, DeviceStatus] = field(default_factory=dict)
    unreadable: int = 0  # retained messages that no version of ours has written

    def take(self, message: Message) -> None:
        """Keep ``message`` in its place."""
        match message:
            case CoordinatorStatus():
                self.coordinator = message
            case RunSettings():
                self.run = message
            case ModelPointer():
                self.model = message
            case RoundAnnouncement():
                self.round = message
            case RoundSummary():
                self.summaries[message.round] = message
            case DeviceStatus():
                self.devices[message.device] = message
            case _:
                self.unreadable += 1

    def plain(self) -> dict[str, Any]:
        """As JSON would have it, under the topics' own names."""
        single = {"coordinator": self.coordinator, "run": self.run, "model": self.model, "round": self.round}
        return {
            **{name: message and message.model_dump(mode="json") for name, message in single.items()},
            "rounds": {number: summary.model_dump(mode="json") for number, summary in self.rounds()},
            "devices": {name: device.model_dump(mode="json") for name, device in sorted(self.devices.items())},
            "unreadable": self.unreadable,
        }

    def rounds(self) -> list[tuple[int, RoundSummary]]:
        """How the run's rounds ended, in order; an earlier, longer run may have left some of its own."""
        run = self.run or self.coordinator
        ours = {number: summary for number, summary in self.summaries.items() if run is None or summary.run == run.run}
        return sorted(ours.items())

    def lines(self, now: datetime) -> Iterator[str]:
        """What there is to say in a sentence each; ``now`` is the wall clock here."""
        if self.coordinator is not None:
            c = self.coordinator
            number, phase = c.round, c.phase
            if self.round is not None and self.round.run == c.run:
                number, phase = self.round.round, self.round.phase.value  # a status tells it later, a last will never
            where = f"run {c.run}, round {number} of {c.rounds} {phase}".rstrip()
            yield f"coordinator {c.state}: {where}{f'. {c.detail}' if c.detail else ''}"
            yield from _silence(c, now)
        yield from self._open_round()
        if self.model is not None:
            m = self.model
            score = "" if m.metrics is None else f", {_score(m.metrics)}"
            size = f"{m.blob.size} bytes in {counted(m.blob.parts, 'part')}"
            yield f"model {m.version}: {size}, digest {m.digest[:12]}{score}"
        if self.unreadable:
            messages = counted(self.unreadable, "retained message")
            yield f"{messages} can't be read: another version's, or somebody else's"

    def _open_round(self) -> Iterator[str]:
        """How far the attempt is that is open, and what it takes for it to close."""
        r, c = self.round, self.coordinator
        if r is None or c is None or r.run != c.run or r.phase is not Phase.COLLECTING:
            return
        what = f"round {r.round}, {'training' if r.task == 'train' else 'evaluation'}"
        again = f", attempt {r.attempt + 1}" if r.attempt else ""
        asked = f", {r.joined} of {counted(r.selected, 'device')} joined" if r.selected else ""
        yield f"{what}{again}: {r.received} of {counted(r.goal, 'update')} received{asked}"
        yield f"it opened at {r.opened} and closes within {r.deadline_s:g} s; it needs {counted(r.quorum, 'update')}"

    @property
    def empty(self) -> bool:
        """Whether nothing of a federation was there."""
        return self.coordinator is None and self.run is None and not self.devices


def read(open_link: Callable[[Sink], Link], topics: Topics, timeout_s: float = 10.0) -> Snapshot:
    """Read the federation's retained messages.

    Raises ``LinkError`` where the broker can't be used, ``FederationError`` where it holds no such federation.
    """
    events: queue.Queue[Event] = queue.Queue()
    link = open_link(events.put)
    snapshot = Snapshot()
    link.subscribe(*(topics.filter(kind) for kind in KINDS))
    link.open()
    try:
        _gather(events, topics, snapshot, timeout_s)
    finally:
        link.close()
    if snapshot.empty:
        raise FederationError(
            f"the broker holds nothing of a federation {topics.federation!r}: check --federation and --root, "
            "or start a coordinator"
        )
    return snapshot


def _gather(events: queue.Queue[Event], topics: Topics, snapshot: Snapshot, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    connected, quiet = False, FIRST_S
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            event = events.get(timeout=min(left, quiet) if connected else left)
        except queue.Empty:
            break
        match event:
            case Connected():
                connected = True
            case Disconnected(error=error, fatal=True) if error is not None:
                raise error
            case Disconnected(error=error) if error is not None and not connected:
                raise error
            case Inbound():
                event.ack()
                quiet = QUIET_S
                _take(event, topics, snapshot)
            case _:
                pass
    if not connected:
        raise BrokerUnreachable(f"no broker answered within {timeout_s:g} s: check --broker and that it is running")


def _take(inbound: Inbound, topics: Topics, snapshot: Snapshot) -> None:
    address = topics.parse(inbound.topic)
    if address is None or not inbound.payload:
        return
    try:
        snapshot.take(codec.decode(address.kind, inbound.payload))
    except WireError:
        snapshot.unreadable += 1


def show(settings: CoordinatorSettings, *, as_json: bool, whole: bool = False) -> None:
    """Print the federation's state as tables, ``whole`` or as far as a person reads, or as one JSON object."""
    mqtt = settings.mqtt(f"{settings.federation}-status-{os.getpid()}")
    snapshot = read(lambda sink: MqttLink(mqtt, sink), Topics(settings.federation, settings.root))
    if as_json:
        click.echo(json.dumps(snapshot.plain(), indent=2))
        return
    console = Console(markup=False, emoji=False, highlight=False)
    for line in snapshot.lines(datetime.now(UTC)):
        console.print(printable(line))
    console.width = max(console.width, TABLE_WIDTH)  # a narrower terminal breaks rows in two, and hides nothing
    rows, remark = (sys.maxsize, sys.maxsize) if whole else (ROWS, REMARK)
    if snapshot.devices:
        console.print(_devices(snapshot, rows, remark))
        for line in _others(snapshot, rows):
            console.print(line)
    if snapshot.rounds():
        console.print(_rounds(snapshot, rows, remark))
        if (older := len(snapshot.rounds()) - rows) > 0:
            console.print(f"and {counted(older, 'earlier round')}: {MORE}")


def _others(snapshot: Snapshot, rows: int) -> Iterator[str]:
    """What there is beyond the table's rows."""
    others = sorted(snapshot.devices.items())[rows:]
    if others:
        states = Counter(device.state.value for _, device in others)
        told = ", ".join(f"{number} {state}" for state, number in states.most_common())
        yield f"and {counted(len(others), 'more device')} ({told}): {MORE}"


def _cut(remark: str, length: int) -> str:
    return printable(remark if len(remark) <= length else f"{remark[: length - 1]}…")


def _devices(snapshot: Snapshot, rows: int = ROWS, remark: int = REMARK) -> Table:
    names = ("device", "state", "examples", "held\nout", "model", "last\nround", "°C", "peak\nMB", "remark")
    table = plain_table("devices", *names, words=("device", "state", "remark"))
    for name, device in sorted(snapshot.devices.items())[:rows]:
        health = device.health
        hot = "" if health is None or health.temperature_c is None else f"{health.temperature_c:.0f}"
        numbers = (device.examples, device.held_out, device.model_version, device.last_round)
        cells = ("" if number is None else str(number) for number in numbers)
        table.add_row(name, device.state, *cells, hot, _peaks(health), _cut(_remark(device), remark))
    return table


def _remark(device: DeviceStatus) -> str:
    """What the device says of its rounds, its people and recorder, the codec it chose, and its budget."""
    recording = (device.health.recording if device.health else None) or ""
    if recording and "recording" not in recording:
        recording = f"recording: {recording}"
    budget = "" if device.budget_left is None else f"{device.budget_left:.0%} of its budget left"
    chosen = "" if device.codec is None else f"chose {device.codec}"
    people = "synthetic people" if device.synthetic else ""
    return "; ".join(filter(None, (device.detail, people, recording, chosen, budget)))


def _peaks(health: Health | None) -> str:
    """The most memory the device's program and its trainer have had, as far as they tell."""
    peaks = () if health is None else (health.agent_peak_mb, health.trainer_peak_mb)
    return "+".join(f"{peak:.0f}" for peak in peaks if peak is not None)


def _score(metrics: Metrics) -> str:
    score = f"accuracy {metrics.accuracy:.3f}" if metrics.tells_classes else f"loss {metrics.loss:.5f}"
    return f"{score} on held-out examples{synthetic_people(metrics.synthetic)}"


def _rounds(snapshot: Snapshot, rows: int = ROWS, remark: int = REMARK) -> Table:
    names = ("round", "outcome", "model", "devices", "examples", "accuracy", "macro-F1", "seconds", "remark")
    table = plain_table("rounds", *names, words=("outcome", "remark"))
    for number, summary in snapshot.rounds()[-rows:]:
        metrics = summary.metrics
        accuracy = "" if metrics is None or not metrics.tells_classes else f"{metrics.accuracy:.3f}"
        macro = "" if metrics is None or metrics.macro_f1 is None else f"{metrics.macro_f1:.3f}"
        counts = (str(summary.model_version), str(len(summary.devices)), str(summary.examples))
        synthetic = max(summary.synthetic, metrics.synthetic if metrics else 0)
        reason = "; ".join(filter(None, (summary.reason, "synthetic people" if synthetic else "")))
        cells = accuracy, macro, f"{summary.seconds:.1f}", _cut(reason, remark)
        table.add_row(str(number), summary.outcome, *counts, *cells)
    return table
