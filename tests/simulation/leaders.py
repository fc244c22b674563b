"""Who may write the retained tree: what each coordinator has heard of others, and whose documents reach the broker.

The numbers are MUSTs of the protocol. What was lost on its way nobody can heed, so that what the broker holds is only
judged where the link loses nothing.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from coordinator.leadership import PATIENCE
from coordinator.round_state import Aggregating, Collecting
from coordinator.service import HEARTBEAT_S
from schemas.link.link import Inbound
from schemas.link.outbound import Publication
from schemas.topics import Address, Kind
from tests.simulation.ledger import Violation
from tests.simulation.scenario import TOPICS

if TYPE_CHECKING:
    from tests.simulation.coordinators import Life
    from tests.simulation.world import World

STATUS: Final = TOPICS.topic(Address(Kind.COORDINATOR))
SERVING: Final = {"starting", "running", "paused"}
SLACK_S: Final = 2.0  # for what waits in a queue, besides the link's delays and a turn's time
ROUNDING_S: Final = 1e-6  # of a node's clock, which counts from elsewhere
_DOCUMENTS: Final = {TOPICS.topic(Address(kind)) for kind in (Kind.RUN, Kind.MODEL, Kind.ROUND)}


class Leaders:
    """One world's."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._newest: dict[str, Any] | None = None  # status of the highest rank that the broker was given
        self._since = 0.0  # when the broker was given the first status of its session
        self._serves_since = 0.0  # and one that serves after others
        self._lives: dict[str, Life] = {}  # the newest of each instance that has said something

    def hears(self, life: Life, message: Inbound) -> None:
        """A coordinator takes from its queue what somebody published as the coordinator's status."""
        if not message.payload or message.payload in self._world.referee.garbage:
            return  # a question, or nothing
        status = json.loads(message.payload)
        before, life.last_seen = life.last_seen, status
        if life.reactor is not None:
            ours = life.service._performer
            assert ours is not None
            if _rank(status) > (ours.status.session, ours.status.instance):
                life.silenced = 30
        elif status["instance"] != life.instance and status["state"] in SERVING:
            anew = before is not None and before["instance"] == status["instance"] and before != status
            if anew or not message.retained:
                life.silenced = 29

    def said(self, life: Life, topic: str, payload: bytes) -> None:
        """A coordinator publishes something."""
        if life.silenced:
            raise Violation(life.silenced, f"{life.node.name} knows of another coordinator, and publishes {topic}")
        if topic == STATUS and payload:
            status = json.loads(payload)
            life.said_at, life.promised_s = self._world.now, status["heartbeat_s"]
            self._lives[status["instance"]] = life

    def waits(self, life: Life) -> None:
        """A coordinator's turn is over."""
        assert life.reactor is not None
        silent_s = self._world.now - life.said_at
        if life.reactor._office.held:
            if silent_s > life.promised_s + 2 * self._world.scenario.busy_s + SLACK_S:
                raise Violation(31, f"{life.node.name} serves, and has not said so for {silent_s:.0f} s")
            if life.promised_s > HEARTBEAT_S and isinstance(life.reactor._state.stage, Collecting | Aggregating):
                raise Violation(31, f"{life.node.name} has an attempt open, and beats every {life.promised_s:.0f} s")
        if not life.reactor._office.held:
            life.leads_since = math.inf
        elif life.leads_since == math.inf:
            life.leads_since = self._world.now
        self._judge_tree(life)

    def _judge_tree(self, life: Life) -> None:
        """What the broker holds is all of the highest that serves, once it has repeated it after a heartbeat."""
        newest, performer = self._newest, life.service._performer
        assert performer is not None
        if not self._world.scenario.second or newest is None or newest["state"] not in SERVING:
            return
        if _rank(newest) != (performer.status.session, performer.status.instance):
            return
        settled_s = HEARTBEAT_S + 2 * self._bound_s()
        if self._world.now <= max(self._since, life.leads_since) + settled_s:
            return
        for topic in sorted(_DOCUMENTS & self._world.broker.retained.keys()):
            run = json.loads(self._world.broker.retained[topic])["run"]
            if run != newest["run"]:
                raise Violation(30, f"{topic} is still of {run}, though {newest['run']} has led for {settled_s:.0f} s")

    def forgotten(self) -> None:
        """The broker has lost all it retained."""
        self._newest = None

    def accepted(self, publication: Publication) -> None:
        """The broker takes a publication."""
        if not publication.retain or not publication.payload or publication.topic not in {STATUS, *_DOCUMENTS}:
            return
        document = json.loads(publication.payload)
        if publication.topic == STATUS:
            self._status(document)
            if document["state"] not in SERVING:
                return  # a last will may come at any time
        newest, bound_s = self._newest, self._bound_s()
        if newest is None or document["run"] == newest["run"] or self._world.now <= self._since + bound_s:
            return
        raise Violation(30, f"{document['run']} is written {self._world.now - self._since:.1f} s after {newest['run']}")

    def _status(self, status: dict[str, Any]) -> None:
        before, now, served_since = self._newest, self._world.now, self._serves_since
        if before is not None and _rank(status) < _rank(before):
            if before["state"] not in SERVING:
                self._newest = None  # it is over, and this will stands in its place: nobody can hear of it any more
            return
        self._newest = status
        if before is None or before["state"] not in SERVING:
            self._serves_since = now
        if before is not None and _rank(status) == _rank(before):
            return
        self._since = self._serves_since = now
        if before is None or before["instance"] == status["instance"] or before["state"] not in SERVING:
            return
        if status["state"] not in SERVING:
            return  # the will of one that died before its first word; it had looked when the other was away
        life = self._lives.get(status["instance"])
        waited_s = 0.0 if life is None else now - life.looks_since
        if waited_s < PATIENCE * HEARTBEAT_S - ROUNDING_S and now > served_since + self._bound_s():
            name = "a coordinator" if life is None else life.node.name
            raise Violation(29, f"{name} takes over from one that serves, after {waited_s:.1f} s")

    def _bound_s(self) -> float:
        """How long another one's word may take to end a coordinator's own; infinite where it may be lost."""
        faults, scenario = self._world.scenario.faults, self._world.scenario
        if faults.loss:
            return float("inf")
        return 2 * faults.delay_s + 2 * faults.uplink_s + 2 * scenario.busy_s + SLACK_S


def _rank(status: dict[str, Any]) -> tuple[int, str]:
    return status["session"], status["instance"]
