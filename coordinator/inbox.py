"""Bytes from the broker to events, or ``Rejected``; bad bytes raise nothing and change nothing. No rules here.

What an update is worth is ``admission.refusal``'s decision, asked as soon as its first part tells what it answers, so
that a late or uninvited one costs a dictionary look-up a part and is never read. A whole update is
checked (digest, sender, shape, range, no NaN) before it becomes an event: what is accepted can always be averaged.

Room is bounded. An update's whole size is set aside when its first part comes; where there is no room, updates
that have stalled give theirs up, and if none has, the newcomer is turned away and told later to send its parts again.
So updates under way always finish, however many devices send at once.

Of a large update the first part comes alone, and is answered with what else there is to send. No more than ``WINDOW``
of large ones is asked for in ``WINDOW_S`` beyond what has come: a broker that had to queue them all for us would drop
what is too much for it. What takes longer comes over a slow link, queues nowhere, and holds nobody up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from coordinator.admission import hears, refusal
from coordinator.aggregation.mean import MAX_VALUE
from coordinator.events import (
    Header,
    JoinReceived,
    Rejected,
    StatusCleared,
    StatusReceived,
    UpdateReceived,
    UpdateSeen,
    UpdateStalled,
    Version,
)
from coordinator.round_state import State
from schemas import codec, compression, parts
from schemas.codec import Heading
from schemas.compression import Compressed
from schemas.counted import counted
from schemas.errors import Reject, WireError
from schemas.messages import BlobRef, DeviceStatus, Join, Part, Update
from schemas.parameters import Manifest
from schemas.parts import Assembly, Memory, Store
from schemas.topics import Address, Kind, Topics

STALL_S: Final = 5.0  # without a new part, after which a device is told what is missing
STALLS: Final = 3  # such reminders in vain, after which an update's parts are forgotten
ROOM: Final = 256 * 2**20  # bytes that all unfinished updates together may take, in a spool on disk
WINDOW: Final = 64 * 2**20  # bytes of large updates asked for within WINDOW_S, where one alone isn't more
WINDOW_S: Final = 2.0
BLOCK: Final = 4096  # bytes in which the spool deals them out, as file systems do
ENTRY_COST: Final = 4096  # bytes of that, for what is remembered of one in memory
PART_COST: Final = 128  # likewise, of each of its parts: a flood of empty promises must fill the room as well
PER_DEVICE: Final = 2  # unfinished updates: one that trains, one that evaluates
REMEMBERED: Final = 4096  # digests of updates that were accepted, and of those refused
TURNED_AWAY: Final = 4096  # devices waiting for room
MIN_PARTS: Final = 1024  # that the largest update may have, however little room there is
MAX_MISSING: Final = 1000  # parts a receipt names

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What an update holds: its bytes as they came, and ``delta`` for ``train``, still compressed, or its counts."""

    blob: bytes
    update: Update
    delta: Compressed | None


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A whole update to be given to the round, and its content if it would count there."""

    event: UpdateReceived
    content: Content | None


Arrival = StatusReceived | StatusCleared | JoinReceived | Delivery | UpdateSeen | UpdateStalled | Rejected


@dataclass(slots=True, eq=False)
class _Unfinished:
    device: str
    round: int
    assembly: Assembly
    store: Store
    begun_at: float
    fed_at: float
    reminders: int = 0
    asked_to: int = -1  # the last part asked for: they come in order, and with it all that were
    header: Header | None = None  # once part 0 is here


class Inbox:
    """What has arrived in parts. ``manifest`` and ``classes`` are the plan's; ``room`` is in bytes.

    ``store`` makes the places where updates of several parts wait for the rest; in memory unless given.
    """

    def __init__(
        self,
        topics: Topics,
        run: str,
        manifest: Manifest,
        classes: int,
        room: int = ROOM,
        store: Callable[[BlobRef], Store] | None = None,
    ) -> None:
        self._topics = topics
        self._run = run
        self._manifest = manifest
        self._classes = classes
        self._store = store
        self._limit = largest_update(manifest, classes)
        self._room = max(room, self._limit + BLOCK + ENTRY_COST + PART_COST * MIN_PARTS)
        self._unfinished: OrderedDict[tuple[str, str], _Unfinished] = OrderedDict()  # longest unfed first
        self._turned_away: OrderedDict[str, BlobRef] = OrderedDict()
        self._accepted: OrderedDict[str, Header] = OrderedDict()
        self._refused: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._by_device: dict[str, tuple[_Unfinished, ...]] = {}  # oldest first
        self._buffered = 0

    @property
    def buffered(self) -> int:
        """Bytes set aside for unfinished updates."""
        return self._buffered

    def receive(self, topic: str, payload: bytes, state: State, qos: int = 1) -> Arrival | None:
        """What a message means while the run is in ``state``; None for a part that completes nothing."""
        address = self._topics.parse(topic)
        if address is None or address.device is None:
            return Rejected(Reject.UNEXPECTED, "nobody publishes here for a coordinator", topic)
        try:
            match address.kind:
                case Kind.DEVICE:
                    return _status(address.device, payload)
                case Kind.JOIN if qos:
                    return self._join(address, address.device, payload)
                case Kind.UPDATE_PART if qos:
                    return self._part(address, address.device, codec.decode_part(payload), topic, state)
                case _:
                    text = f"nobody publishes here at QoS {qos} for a coordinator"
                    return Rejected(Reject.UNEXPECTED, text, topic, address.device)
        except WireError as error:
            # No receipt: one bad part, which may come again in order, is not the end of an update.
            return Rejected(error.reason, error.detail, topic, address.device)

    def poll(self, state: State) -> Iterator[UpdateReceived | UpdateStalled]:
        """What has become of unfinished updates; to be asked when the run's state changes, and about every second."""
        for entry in tuple(self._unfinished.values()):
            if entry.header is not None and refusal(state, entry.header) is not None:
                self._forget(entry.device, entry.assembly.ref.digest)
                yield UpdateReceived(entry.header)
            elif not hears(state, entry.round) or state.now - entry.fed_at >= STALL_S * (STALLS + 1):
                self._drop(entry)
            elif state.now - entry.fed_at >= STALL_S * (entry.reminders + 1):
                entry.reminders += 1
                yield self._lacks(entry, state)
        free, under_way = self._room - self._buffered, self._under_way(state.now)
        while self._turned_away:
            device, ref = next(iter(self._turned_away.items()))
            free -= _cost(ref)
            if free < 0 or not _fits(under_way, ref):
                return
            under_way += _weight(ref)
            del self._turned_away[device]
            known = 1 if _weight(ref) else min(ref.parts, MAX_MISSING)  # of a large one the rest is asked for later
            yield UpdateStalled(device, tuple(range(known)))

    @property
    def turned_away(self) -> bool:
        """Whether devices wait for room."""
        return bool(self._turned_away)

    def remember(self, header: Header) -> None:
        """Know an accepted update again when parts of it are sent once more."""
        _note(self._accepted, header.digest, header, REMEMBERED)

    def forget(self, digests: Iterable[str]) -> None:
        """Take accepted updates that count no more, sent once more, for what they then are: late, or new."""
        for digest in digests:
            self._accepted.pop(digest, None)

    def restore(self, blob: bytes, digest: str) -> tuple[Header, Content]:
        """An accepted update from the journal; ``WireError`` where it isn't one any more."""
        update = codec.decode_update(blob)
        return _header(update, digest, len(blob)), self._content(update, blob)

    def _join(self, address: Address, device: str, payload: bytes) -> JoinReceived:
        join = codec.decode(Kind.JOIN, payload)
        assert isinstance(join, Join)
        self._check_identity(join, address, device)
        if join.run != self._run:
            raise WireError(Reject.WRONG_RUN, f"it is for the run {join.run}; this is {self._run}")
        return JoinReceived(join)

    def _part(self, address: Address, device: str, part: Part, topic: str, state: State) -> Arrival | None:
        digest, number = part.blob.digest, address.number
        known = self._accepted.get(digest)
        if known is not None and known.device == device:
            return UpdateSeen(known) if part.index == 0 else None
        assert number is not None
        if number > state.round:
            raise WireError(Reject.WRONG_RUN, f"round {number} has not begun")
        if part.index > 0:
            foreign = (device, digest) in self._refused or not hears(state, number)
            return None if foreign else self._gather(address, device, part, topic, state, None)
        try:
            header = self._heading(address, device, part)
        except WireError as error:
            self._forget(device, digest)
            return Rejected(error.reason, error.detail, topic, device, number)
        if header is not None and refusal(state, header) is not None:
            self._forget(device, digest)
            return Delivery(UpdateReceived(header), None)
        self._refused.pop((device, digest), None)
        return self._gather(address, device, part, topic, state, header)

    def _gather(
        self, address: Address, device: str, part: Part, topic: str, state: State, header: Header | None
    ) -> Arrival | None:
        assert address.number is not None
        known = (device, part.blob.digest) in self._unfinished
        try:
            entry = self._entry(device, address.number, part.blob, state.now)
        except WireError as error:
            return Rejected(error.reason, error.detail, topic, device, address.number)
        if entry is None:
            return None
        if fed := entry.assembly.add(part):
            entry.fed_at, entry.reminders = state.now, 0
            self._unfinished.move_to_end((device, part.blob.digest))
        entry.header = header or entry.header
        if not entry.assembly.complete:
            comes_alone = not known and part.index == 0 and _weight(part.blob) > 0
            return self._lacks(entry, state) if comes_alone or (fed and part.index == entry.asked_to) else None
        arrival = self._complete(address, entry, topic, state)
        self._drop(entry)
        return arrival

    def _lacks(self, entry: _Unfinished, state: State) -> UpdateStalled:
        """What a device is to send of an update; of very many parts the first, and the next when those have come."""
        ours = entry.header is None or entry.header.nonce == state.ticket.nonce
        earlier = None if ours else entry.header
        missing = entry.assembly.missing()[:MAX_MISSING]
        entry.asked_to = missing[-1]
        return UpdateStalled(entry.device, missing, earlier)

    def _under_way(self, now: float) -> int:
        """Bytes of large updates that were asked for just now and have not come."""
        asked = (entry for entry in self._unfinished.values() if now - entry.begun_at < WINDOW_S)
        return sum(_weight(entry.assembly.ref) for entry in asked)

    def _heading(self, address: Address, device: str, part: Part) -> Header | None:
        heading = codec.decode_heading(part.payload)
        if heading is None:
            return None
        self._check_identity(heading, address, device)
        return _header(heading, part.blob.digest, part.blob.size)

    def _entry(self, device: str, number: int, ref: BlobRef, now: float) -> _Unfinished | None:
        """The unfinished update a part belongs to, made where there is room for it."""
        entry = self._unfinished.get((device, ref.digest))
        if entry is not None:
            return entry
        Assembly(ref, self._limit)  # refuses what no update can be, before anything gives way to it
        cost = _cost(ref)
        if cost > self._room:
            raise WireError(Reject.TOO_LARGE, f"{ref.parts} parts of {ref.size} bytes: send larger ones")
        if not _fits(self._under_way(now) if _weight(ref) else 0, ref):
            _note(self._turned_away, device, ref, TURNED_AWAY)
            return None
        mine = self._by_device.get(device, ())
        if len(mine) >= PER_DEVICE:
            self._drop(mine[0])
        while self._buffered + cost > self._room:
            oldest = next(iter(self._unfinished.values()))
            if now - oldest.fed_at < STALL_S:
                _note(self._turned_away, device, ref, TURNED_AWAY)
                return None
            self._drop(oldest)
        store = self._store(ref) if self._store is not None and ref.parts > 1 else Memory()
        entry = _Unfinished(device, number, Assembly(ref, self._limit, store), store, now, now)
        self._unfinished[device, ref.digest] = entry
        self._by_device[device] = (*self._by_device.get(device, ()), entry)
        self._buffered += cost
        self._turned_away.pop(device, None)
        return entry

    def _complete(self, address: Address, entry: _Unfinished, topic: str, state: State) -> Arrival:
        ref, header = entry.assembly.ref, None
        try:
            blob = entry.assembly.blob()
            update = codec.decode_update(blob)
            self._check_identity(update, address, entry.device)
            header = _header(update, ref.digest, ref.size)
            wanted = refusal(state, header) is None
            return Delivery(UpdateReceived(header), self._content(update, blob) if wanted else None)
        except WireError as error:
            return Rejected(error.reason, error.detail, topic, entry.device, entry.round, header)

    def _content(self, update: Update, blob: bytes) -> Content:
        if update.counts is not None:
            return Content(blob, self._counted(update), None)
        delta = compression.read(update.payload, self._manifest)
        if delta.peak > MAX_VALUE:
            raise WireError(Reject.OUT_OF_RANGE, f"a value of magnitude {delta.peak:.3g}; at most {MAX_VALUE:.3g}")
        return Content(blob, update.model_copy(update={"payload": b""}), delta)

    def _counted(self, update: Update) -> Update:
        counts = update.counts
        assert counts is not None
        if len(counts.confusion) != self._classes:
            found = counted(len(counts.confusion), "class", "classes")
            raise WireError(Reject.WRONG_SHAPE, f"counts of {found}, not {self._classes}")
        if counts.examples != update.examples:
            said = counted(update.examples, "example")
            raise WireError(Reject.OUT_OF_RANGE, f"{said}, and counts of {counts.examples}")
        return update

    def _check_identity(self, message: Join | Heading | Update, address: Address, device: str) -> None:
        if message.device != device:
            raise WireError(Reject.WRONG_SENDER, f"it is from {message.device}, on the topic of {device}")
        if message.round != address.number:
            raise WireError(Reject.WRONG_RUN, f"it is for round {message.round}, on the topic of {address.number}")

    def _forget(self, device: str, digest: str) -> None:
        """Let the rest of a refused update pass without a look."""
        _note(self._refused, (device, digest), None, REMEMBERED)
        if (entry := self._unfinished.get((device, digest))) is not None:
            self._drop(entry)

    def _drop(self, entry: _Unfinished) -> None:
        ref = entry.assembly.ref
        entry.store.clear()
        del self._unfinished[entry.device, ref.digest]
        self._buffered -= _cost(ref)
        mine = tuple(other for other in self._by_device[entry.device] if other is not entry)
        if mine:
            self._by_device[entry.device] = mine
        else:
            del self._by_device[entry.device]


def _cost(ref: BlobRef) -> int:
    """What an unfinished update takes of the room, in bytes."""
    return -(-ref.size // BLOCK) * BLOCK + ENTRY_COST + PART_COST * ref.parts


def _weight(ref: BlobRef) -> int:
    """What it takes of the window, in bytes; small ones nothing, since they come unasked."""
    return ref.size if ref.size > parts.LARGE else 0


def _fits(under_way: int, ref: BlobRef) -> bool:
    """Whether it may come beside large ones of so many bytes."""
    return not under_way or not _weight(ref) or under_way + _weight(ref) <= WINDOW


def largest_update(manifest: Manifest, classes: int) -> int:
    """Bytes that no update is longer than: uncompressed float32 in its frame, or counts of every pair of classes."""
    return max(4 * manifest.size + manifest.size // 8, 10 * classes**2) + 65_536


def _status(device: str, payload: bytes) -> StatusReceived | StatusCleared:
    if not payload:
        return StatusCleared(device)
    status = codec.decode(Kind.DEVICE, payload)
    assert isinstance(status, DeviceStatus)
    if status.device != device:
        raise WireError(Reject.WRONG_SENDER, f"it is from {status.device}, on the topic of {device}")
    return StatusReceived(status)


def _header(update: Heading | Update, digest: str, size: int) -> Header:
    return Header(
        device=update.device,
        round=update.round,
        task=update.task,
        nonce=update.nonce,
        model=Version(update.model_version, update.model_tag),
        examples=update.examples,
        train_loss=update.train_loss if isinstance(update, Update) else None,
        digest=digest,
        size=size,
    )


def _note(memory: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    """Put ``value`` in ``memory``, which forgets its oldest entry beyond ``limit``."""
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > limit:
        memory.popitem(last=False)
