"""Pulls plans and models from their part topics onto the disk, each at most once at a time, and answers with events."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

from edge import events as ev
from edge.download import Download, Move
from edge.events import BlobKind, Event
from edge.store import Store
from schemas import codec
from schemas.errors import StateError, WireError
from schemas.link.link import Link
from schemas.messages import BlobRef, Message, ModelPointer, Word
from schemas.topics import Address, Kind, Topics

MAX_PLAN: Final = 2**20  # bytes; the trainer takes no larger one
MAX_MODEL: Final = 2**30  # bytes

Wanted = BlobRef | ModelPointer  # a plan, or a model


class _PlanHead(Message):
    """The one field of a plan that concerns the agent."""

    data: Word


class Fetcher:
    """The downloads of one device. Used from one thread."""

    def __init__(self, link: Link, topics: Topics, store: Store) -> None:
        """Finished blobs go to ``store``."""
        self._link = link
        self._topics = topics
        self._store = store
        self._downloads: dict[BlobKind, tuple[Wanted, Download]] = {}

    def plan(self, ref: BlobRef) -> tuple[Event, ...]:
        """Get a plan, from disk where it is there."""
        held = self._store.plan(ref.digest)
        return self._begin(ref) if held is None else (_plan_ready(ref, held),)

    def model(self, pointer: ModelPointer) -> tuple[Event, ...]:
        """Get a model, which takes the place of the one on disk."""
        return self._begin(pointer)

    def stop(self, kind: BlobKind) -> None:
        """Forget a download."""
        if kind in self._downloads:
            wanted, download = self._downloads.pop(kind)
            self._move(wanted, download.end())

    def take(self, address: Address, payload: bytes) -> tuple[Event, ...]:
        """Take a part; one that nobody waits for is dropped unread, as some brokers send those.

        Raises ``WireError`` where the part is malformed, or of another blob.
        """
        kind: BlobKind = "plan" if address.kind is Kind.PLAN_PART else "model"
        if kind not in self._downloads or address.part is None:
            return ()
        wanted, download = self._downloads[kind]
        if address != _address(wanted, address.part):
            return ()
        self._move(wanted, download.take(address.part, codec.decode_part(payload)))
        if not download.complete:
            return ()
        del self._downloads[kind]
        try:
            return (self._keep(wanted, download.blob()),)
        except WireError as error:
            return (ev.FetchFailed(kind, download.ref.digest, error.detail, rejected=error.reason),)

    def _begin(self, wanted: Wanted) -> tuple[Event, ...]:
        kind: BlobKind = "model" if isinstance(wanted, ModelPointer) else "plan"
        try:
            download = Download(_ref(wanted), MAX_MODEL if kind == "model" else MAX_PLAN)
        except WireError as error:
            return (ev.FetchFailed(kind, _ref(wanted).digest, error.detail, lasting=True, rejected=error.reason),)
        self._downloads[kind] = (wanted, download)
        self._move(wanted, download.begin())
        return ()

    def _keep(self, wanted: Wanted, blob: bytes) -> Event:
        try:
            if isinstance(wanted, ModelPointer):
                self._store.keep_model(wanted, blob)
                return ev.ModelReady(wanted)
            self._store.keep_plan(wanted.digest, blob)
        except StateError as error:
            kind: BlobKind = "model" if isinstance(wanted, ModelPointer) else "plan"
            return ev.FetchFailed(kind, _ref(wanted).digest, str(error), lasting=True)
        return _plan_ready(wanted, blob)

    def _move(self, wanted: Wanted, move: Move) -> None:
        if move.unsubscribe:
            self._link.unsubscribe(*(self._topics.topic(_address(wanted, index)) for index in move.unsubscribe))
        if move.subscribe:
            self._link.subscribe(*(self._topics.topic(_address(wanted, index)) for index in move.subscribe))


def _plan_ready(ref: BlobRef, blob: bytes) -> Event:
    try:
        recipe = _PlanHead.model_validate_json(blob).data
    except ValidationError:
        text = "the run's plan can't be read: export it anew with `coordinator plan export`"
        return ev.FetchFailed("plan", ref.digest, text, lasting=True)
    return ev.PlanReady(ref.digest, recipe)


def _ref(wanted: Wanted) -> BlobRef:
    return wanted.blob if isinstance(wanted, ModelPointer) else wanted


def _address(wanted: Wanted, index: int) -> Address:
    if isinstance(wanted, ModelPointer):
        return Address(Kind.MODEL_PART, number=wanted.version, part=index)
    return Address(Kind.PLAN_PART, digest=wanted.digest, part=index)
