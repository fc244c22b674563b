"""Pulls plans, models and steps from their part topics onto the disk, one of a kind at a time; answers with events."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from pydantic import ValidationError

from edge.core import events as ev
from edge.core.events import BlobKind, Event
from edge.download import Download, Move
from edge.store import Store
from schemas import codec
from schemas.errors import StateError, WireError
from schemas.link.link import Link
from schemas.messages import BlobRef, Message, ModelPointer, Word
from schemas.topics import Address, Kind, Topics

MAX_PLAN: Final = 2**20  # bytes; the trainer takes no larger one
MAX_MODEL: Final = 2**30  # bytes

Wanted = BlobRef | ModelPointer  # a plan; a model, or the step to it

_KINDS: Final[dict[Kind, BlobKind]] = {Kind.PLAN_PART: "plan", Kind.MODEL_PART: "model", Kind.DELTA_PART: "step"}
_TOPICS: Final = {kind: topic for topic, kind in _KINDS.items()}


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
        self._run = ""  # whose plan is wanted

    def plan(self, ref: BlobRef, run: str) -> tuple[Event, ...]:
        """Get the plan of ``run``, from disk where it is there."""
        self._run, held = run, self._store.plan(ref.digest)
        if held is None:
            return self._begin("plan", ref)
        with suppress(StateError):  # the plan is here all the same; only who looks in from beside us doesn't take it
            self._store.keep_plan(ref.digest, held, run)
        return (_plan_ready(ref, held),)

    def model(self, pointer: ModelPointer) -> tuple[Event, ...]:
        """Get a model, which takes the place of the one on disk."""
        return self._begin("model", pointer)

    def step(self, pointer: ModelPointer) -> tuple[Event, ...]:
        """Get the step to a model, which is kept beside the one on disk. ``pointer`` names one."""
        return self._begin("step", pointer)

    def again(self, kind: BlobKind) -> None:
        """Subscribe once more to the parts that have not come: a broker then sends what it retains of them."""
        if kind in self._downloads:
            wanted, download = self._downloads[kind]
            self._move(kind, wanted, download.again())

    def stop(self, kind: BlobKind) -> None:
        """Forget a download."""
        if kind in self._downloads:
            wanted, download = self._downloads.pop(kind)
            self._move(kind, wanted, download.end())

    def take(self, address: Address, payload: bytes) -> tuple[Event, ...]:
        """Take a part; one that nobody waits for is dropped unread, as some brokers send those.

        Raises ``WireError`` where the part is malformed, or of another blob.
        """
        kind = _KINDS.get(address.kind, "plan")
        if kind not in self._downloads or address.part is None:
            return ()
        wanted, download = self._downloads[kind]
        if address != _address(kind, wanted, address.part):
            return ()
        part, news = codec.decode_part(payload), download.is_news(address.part)
        self._move(kind, wanted, download.take(address.part, part))
        if not download.complete:
            # What was asked for once more comes twice where nothing was lost: the link is busy with that, not idle.
            arrives = news or download.is_answer(address.part)
            return (ev.PartArriving(len(part.payload) if news and kind != "plan" else 0),) if arrives else ()
        del self._downloads[kind]
        try:
            return (self._keep(kind, wanted, download.blob()),)
        except WireError as error:
            return (ev.FetchFailed(kind, download.ref.digest, error.detail, rejected=error.reason),)

    def _begin(self, kind: BlobKind, wanted: Wanted) -> tuple[Event, ...]:
        ref = _ref(kind, wanted)
        try:
            download = Download(ref, MAX_PLAN if kind == "plan" else MAX_MODEL)
        except WireError as error:
            return (ev.FetchFailed(kind, ref.digest, error.detail, lasting=True, rejected=error.reason),)
        self._downloads[kind] = (wanted, download)
        self._move(kind, wanted, download.begin())
        return ()

    def _keep(self, kind: BlobKind, wanted: Wanted, blob: bytes) -> Event:
        try:
            if not isinstance(wanted, ModelPointer):
                self._store.keep_plan(wanted.digest, blob, self._run)
                return _plan_ready(wanted, blob)
            if kind == "step":
                self._store.keep_step(wanted, blob)
                return ev.StepReady(wanted)
            self._store.keep_model(wanted, blob)
            return ev.ModelReady(wanted)
        except StateError as error:
            return ev.FetchFailed(kind, _ref(kind, wanted).digest, str(error), lasting=True)

    def _move(self, kind: BlobKind, wanted: Wanted, move: Move) -> None:
        if move.unsubscribe:
            self._link.unsubscribe(*(self._topics.topic(_address(kind, wanted, index)) for index in move.unsubscribe))
        if move.subscribe:
            self._link.subscribe(*(self._topics.topic(_address(kind, wanted, index)) for index in move.subscribe))


def _plan_ready(ref: BlobRef, blob: bytes) -> Event:
    try:
        recipe = _PlanHead.model_validate_json(blob).data
    except ValidationError:
        text = "the run's plan can't be read: export it anew with `coordinator plan export`"
        return ev.FetchFailed("plan", ref.digest, text, lasting=True)
    return ev.PlanReady(ref.digest, recipe)


def _ref(kind: BlobKind, wanted: Wanted) -> BlobRef:
    if not isinstance(wanted, ModelPointer):
        return wanted
    return wanted.step if kind == "step" and wanted.step is not None else wanted.blob


def _address(kind: BlobKind, wanted: Wanted, index: int) -> Address:
    if isinstance(wanted, ModelPointer):
        return Address(_TOPICS[kind], number=wanted.version, part=index)
    return Address(Kind.PLAN_PART, digest=wanted.digest, part=index)
