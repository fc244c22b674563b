"""The coordinator's retained tree on the broker: plan, run, model, rounds and status, in an order devices can rely on.

What the coordinator wants the tree to be is kept here, and published again, all of it, after every connect, since a
broker may have lost it. Publications stand in one queue. A blob's parts go out a few at a time, and what stands
behind them waits for the broker's word on each: so a pointer never names parts that are not there, and no round is
announced before the model it starts from. A document that is changed while it waits is sent once, as it is then. What
somebody else writes in its place is written over (``guard``).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from coordinator.events import Rejected
from coordinator.guard import GUARDED, Guard
from coordinator.leftovers import MODELS, OldModels, filters, is_first_part
from schemas import codec
from schemas.errors import WireError
from schemas.link.link import Link
from schemas.messages import BlobRef
from schemas.parts import Bytes, cut
from schemas.topics import Address, Kind, Topics

WINDOW: Final = 8  # parts with the broker at a time, and old ones to be cleared

Render = Callable[[], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Blob:
    """A blob and where its parts stand: ``kind`` with either a ``number`` or the blob's own digest."""

    kind: Kind
    ref: BlobRef
    data: Bytes
    number: int | None = None

    def address(self, index: int) -> Address:
        """Where part ``index`` stands."""
        if self.number is None:
            return Address(self.kind, digest=self.ref.digest, part=index)
        return Address(self.kind, number=self.number, part=index)

    def holds(self, address: Address) -> bool:
        """Whether one of its parts stands there."""
        return address.part is not None and address.part < self.ref.parts and address == self.address(address.part)


class Publisher:
    """The retained tree over one link.

    ``shelve`` takes a blob's bytes to where they can be read again, should a broker lose its own; by default they stay
    in memory.
    """

    def __init__(self, topics: Topics, link: Link, shelve: Callable[[bytes], Bytes] = bytes) -> None:
        self.status_topic: Final = topics.topic(Address(Kind.COORDINATOR))  # of whoever coordinates this federation
        self._topics = topics
        self._link = link
        self._shelve = shelve
        self._connected = False
        self._tree: dict[Address | Kind, Render | Blob] = {}  # in the order to be published after a connect
        self._queue: OrderedDict[Address | Kind, None] = OrderedDict()
        self._next_part = 0  # of the blob at the queue's head
        self._in_flight: set[int] = set()
        self._clearing: dict[int, Address] = {}  # what the broker has yet to say is cleared, by token
        self._guard = Guard()
        self._old = OldModels(link, topics)

    @property
    def idle(self) -> bool:
        """Whether the broker has all there is, and nothing that is to be cleared."""
        return self._connected and not self._queue and self._old.done

    @property
    def position(self) -> tuple[int, ...]:
        """How far it has come: it is another one after whatever the broker has taken."""
        return len(self._queue), self._next_part, len(self._in_flight), len(self._clearing), self._old.left

    def put(self, address: Address, render: Render) -> None:
        """Publish a document behind all that waits; ``render`` is called when its turn comes, after connects too."""
        self._tree.pop(address, None)
        self._tree[address] = render
        self._enqueue(address)

    def put_blob(self, blob: Blob) -> None:
        """Publish a blob's parts, in place of the one of that kind before; what is put later waits for them."""
        if blob.kind in MODELS:
            self._old.listen_no_more()
        self._tree.pop(blob.kind, None)
        self._tree[blob.kind] = replace(blob, data=self._shelve(blob.data)) if isinstance(blob.data, bytes) else blob
        self._enqueue(blob.kind)

    def remove(self, *addresses: Address) -> None:
        """Clear what is retained at ``addresses``, behind all that waits; again after a connect that comes before."""
        for address in addresses:
            self._tree[address] = bytes
            self._enqueue(address)

    def holds(self, address: Address) -> bool:
        """Whether something of ours is to stand there."""
        entry = self._tree.get(address.kind)
        return address in self._tree or (isinstance(entry, Blob) and entry.holds(address))

    def say(self, address: Address, payload: bytes) -> int:
        """Publish at once, past the queue and only this once; the token is for the broker's word that it has it."""
        rule = address.rule
        return self._link.publish(self._topics.topic(address), payload, qos=rule.qos, retain=rule.retain)

    def watch_over(self, plan: BlobRef) -> None:
        """Hear what anybody publishes where newcomers look first, from now on; at QoS 0, as in ``look``."""
        parts = self._topics.filter(Kind.PLAN_PART, digest=plan.digest)
        self._link.subscribe(*map(self._topics.filter, sorted(GUARDED - {Kind.PLAN_PART})), parts, qos=0)

    def watches(self, topic: str) -> bool:
        """Whether that is one of these topics."""
        address = self._topics.parse(topic)
        return address is not None and (address.kind in GUARDED or is_first_part(address))

    def heard(self, topic: str, payload: bytes, now: float, *, retained: bool = False) -> Rejected | None:
        """Somebody, who may be we, has published this on one of them: nothing, or rubbish to be counted."""
        address = self._topics.parse(topic)
        assert address is not None
        if self._connected and self._guard.heard(address, payload, now):
            self.look()  # is it a newer coordinator?
        parts, rubbish = 1, None
        try:
            if payload and address.part is not None:
                parts = codec.decode_part(payload).blob.parts
            elif payload:
                _ = codec.decode(address.kind, payload)
        except WireError as error:
            rubbish = Rejected(error.reason, error.detail, topic)
        if payload and retained and is_first_part(address):
            self._heard_old(address, parts)
        return rubbish

    def _heard_old(self, first: Address, parts: int) -> None:
        model = self._tree.get(Kind.MODEL_PART)
        if self._connected and isinstance(model, Blob) and model.number is not None:
            # Who claims more than any of ours had is not believed: it is cleared, and takes no other one's place.
            self._old.heard(first, min(parts, 2 * model.ref.parts), model.number)
            self._pump()

    @property
    def mend_at(self) -> float:
        """When ``mend`` is to be called."""
        return self._guard.due_at if self._connected else math.inf

    def mend(self, now: float) -> Iterator[str]:
        """Publish again what others have overwritten, unless it waits in the queue anyway; the topics."""
        for address in self._guard.take_due(now) if self._connected else ():
            entry = self._tree.get(address) or self._tree.get(address.kind)
            if entry is None or address in self._queue or address.kind in self._queue:
                continue
            if not isinstance(entry, Blob):
                self._send_document(address, entry)
            elif entry.holds(address):
                self._send_part(entry, address)
            yield self._topics.topic(address)

    def is_presence(self, topic: str) -> bool:
        """Whether a device's status stands there."""
        address = self._topics.parse(topic)
        return address is not None and address.kind is Kind.DEVICE

    def look(self) -> int:
        """Ask the broker for that status; the token is for its answer.

        At QoS 0, so that no broker keeps statuses for us while we are away: those would be old when we hear them.
        """
        return self._link.subscribe(self.status_topic, qos=0)

    def ask_for_devices(self) -> None:
        """Have the broker send what it retains of all devices once more: subscribing again does."""
        self._link.subscribe(self._topics.filter(Kind.DEVICE))

    def listen_no_more(self) -> None:
        """Have the broker send us nothing of the models and summaries that we publish.

        Where a user has one session at the broker, ours has what another coordinator of that name subscribed to for its
        look at what an earlier run left, or a start of ours that was cut short.
        """
        firsts = (self._topics.filter(kind, part=0) for kind in sorted(MODELS))  # of a life of ours that was killed
        self._link.unsubscribe(*filters(self._topics), *firsts)

    def release(self, connection: int) -> None:
        """Let publications through over a link that holds them back until now."""
        self._link.release(connection)

    def connected(self) -> None:
        """Publish everything again, over a link that lets it through."""
        self._connected = True
        self.repeat()

    def repeat(self) -> None:
        """Publish everything again, over the connection there is."""
        self._restart()
        self._old.begin_anew()
        self._clearing.clear()
        self._queue = OrderedDict.fromkeys(self._tree)
        self._pump()

    def disconnected(self) -> None:
        """Wait for ``connected``."""
        self._connected = False
        self._old.listen_no_more()
        self._guard.disconnected()

    def sent(self, token: int) -> None:
        """The broker has taken a publication, or answered a subscription."""
        self._old.answered(token)
        self._in_flight.discard(token)
        address = self._clearing.pop(token, None)
        if address is not None and self._tree.get(address) is bytes and address not in self._queue:
            del self._tree[address]
        self._pump()

    def _enqueue(self, key: Address | Kind) -> None:
        if key not in self._queue:
            self._queue[key] = None
        elif isinstance(key, Kind):  # a blob keeps its place, before the pointer to the one it replaces
            if key == next(iter(self._queue)):
                self._restart()
        else:
            self._queue.move_to_end(key)
        self._pump()

    def _restart(self) -> None:
        """Begin the blob at the queue's head anew."""
        self._next_part = 0
        self._in_flight.clear()

    def _pump(self) -> None:
        """Send what may go now."""
        while self._connected and self._queue:
            key = next(iter(self._queue))
            entry = self._tree[key]
            if isinstance(entry, Blob):
                if not self._send_parts(entry):
                    return
            else:
                assert isinstance(key, Address)
                self._send_document(key, entry)
            self._queue.popitem(last=False)
            self._restart()
        if self._connected:
            self._old.listen()
            if not self._clearing:
                self.remove(*self._old.take(WINDOW))

    def _send_document(self, address: Address, render: Render) -> None:
        payload = render()
        self._guard.said(address, payload)
        token = self.say(address, payload)
        if not payload:
            self._clearing[token] = address

    def _send_parts(self, blob: Blob) -> bool:
        """Fill the window; True once the broker has all parts."""
        while self._next_part < blob.ref.parts and len(self._in_flight) < WINDOW:
            self._in_flight.add(self._send_part(blob, blob.address(self._next_part)))
            self._next_part += 1
        return not self._in_flight

    def _send_part(self, blob: Blob, address: Address) -> int:
        rule = address.rule
        assert address.part is not None
        payload = codec.encode_part(cut(blob.data, blob.ref, address.part))
        self._guard.said(address, payload)
        return self._link.publish(
            self._topics.topic(address), payload, qos=rule.qos, retain=rule.retain, bulk=rule.bulk
        )
