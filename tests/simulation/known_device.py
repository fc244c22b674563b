"""What the referee knows of a device from what it is given and says, and what must hold of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge.agent import Agent
from edge.core.contact import UNHEARD_S
from edge.core.participation_state import SERVING
from tests.simulation.ledger import Violation

if TYPE_CHECKING:
    from tests.simulation.devices import DeviceNode
    from tests.simulation.devices import Life as DeviceLife
    from tests.simulation.world import World

OUTBOX: Final = 8  # invariant 11: updates a device keeps
SETTLED: Final = 16
EPSILON_S: Final = 1e-6


class KnownDevice:
    """What is known of one device."""

    def __init__(self) -> None:
        self.version = -1
        self.run = ""
        self.session = 0  # of the coordinator, in this life
        self.session_at = 0.0  # when it was first believed
        self.digests: dict[tuple[str, str, str], str] = {}  # of all updates it ever kept, by round, task and nonce
        self.until: dict[str, float] = {}  # till when a nonce may be answered, by what this life was told
        self.joined: set[str] = set()  # nonces that were answered or worked on in time, in this life
        self.garbage = 0
        self.paused = False
        self.evicting: set[str] = set()  # digests of updates without a receipt, as it hears that it is evicted
        self.evicted: set[str] = set()  # and once it has done what follows from that

    def begin(self, agent: Agent) -> None:
        """A life of its process begins."""
        self.until.clear()
        self.joined.clear()
        self.garbage = self.session = 0
        self.paused = False
        self.evicting = set()
        self._see(agent)

    def told(self, command: str, life: DeviceLife) -> None:
        """The operator's word reaches it."""
        if command in {"pause", "evict"}:
            self.paused = True
        elif command == "resume":
            self.paused = False
        if command == "evict" and not life.disk.full and life.agent is not None:  # there is room to note it
            self.evicting = {pending.parcel.ref.digest for pending in life.agent._state.outbox}

    def is_free(self, what: str) -> None:
        """Whether it may take something up."""
        if self.paused:
            raise Violation(33, f"its operator has paused it, and {what}")

    def look(self, node: DeviceNode) -> None:
        """See what it holds."""
        assert node.life is not None
        agent = node.life.agent
        assert agent is not None
        self._see(agent)
        if agent.rejected.total() < self.garbage:
            raise Violation(13, f"{node.name} was given garbage {self.garbage} times and counted {agent.rejected}")

    def answers(self, nonce: str, world: World) -> None:
        """It joins an attempt. Where rounds overlap it says so again, after a reconnect, for as long as it trains."""
        if world.scenario.settings.max_staleness is None or nonce not in self.joined:
            self.in_time(nonce, world.now, "is answered")
        self.joined.add(nonce)

    def in_time(self, nonce: str, now: float, what: str) -> None:
        """Whether an announcement may still be answered."""
        if nonce not in self.until or now > self.until[nonce] + EPSILON_S:
            raise Violation(7, f"an announcement that has expired or was never made {what}: {nonce}")

    def _see(self, agent: Agent) -> None:
        state = agent._state
        if state.coordinator is not None:
            session = state.coordinator.session
            if session < self.session and (
                state.coordinator.state not in SERVING or state.now < self.session_at + UNHEARD_S
            ):  # else one that died has left the fleet to another, which serves and never heard of it
                raise Violation(0, f"{agent.name} believes the stale session {session}")
            if session != self.session:
                self.session, self.session_at = session, state.now
        if state.model is not None:
            if state.model.run != self.run:
                self.version, self.run = -1, state.model.run
            if state.model.version < self.version:
                raise Violation(7, f"{agent.name} goes back from model {self.version} to {state.model.version}")
            self.version = state.model.version
        if len(state.outbox) > OUTBOX or len(state.settled) > SETTLED:
            raise Violation(11, f"{agent.name} keeps {len(state.outbox)} updates and {len(state.settled)} tickets")
        for pending in state.outbox:
            ticket, digest = pending.parcel.ticket, pending.parcel.ref.digest
            key = (str(ticket.round), str(ticket.task), ticket.nonce)
            if self.digests.setdefault(key, digest) != digest:
                raise Violation(8, f"{agent.name} has two updates for one round: {key}")
