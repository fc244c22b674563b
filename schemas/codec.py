"""Messages to bytes and back, with the bounds every decoder enforces. Raises ``WireError`` and nothing else.

JSON for what a person would read, protobuf for parts and updates. Sizes are checked before anything is parsed, and
field lengths before they are copied, so that what a hostile peer can make us allocate is a small multiple of what it
sent. A decoder is strict where JSON is loose: one value per key, no NaN, no number written as a string.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Final, NoReturn, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Wire
from pydantic import ValidationError

from schemas.errors import Reject, WireError
from schemas.findings import Findings
from schemas.messages import (
    MAX_CLASSES,
    BlobRef,
    Command,
    CoordinatorStatus,
    Counts,
    DeviceStatus,
    Examples,
    Join,
    Message,
    ModelPointer,
    Name,
    Nonce,
    Part,
    Receipt,
    RoundAnnouncement,
    RoundNumber,
    RoundSummary,
    RunSettings,
    Tag,
    Task,
    Update,
)
from schemas.proto import federation_pb2 as pb
from schemas.topics import Kind

MODELS: Final[dict[Kind, type[Message]]] = {
    Kind.COORDINATOR: CoordinatorStatus,
    Kind.RUN: RunSettings,
    Kind.MODEL: ModelPointer,
    Kind.ROUND: RoundAnnouncement,
    Kind.SUMMARY: RoundSummary,
    Kind.JOIN: Join,
    Kind.RECEIPT: Receipt,
    Kind.DEVICE: DeviceStatus,
    Kind.COMMAND: Command,
    Kind.FINDINGS: Findings,
}
MAX_JSON: Final = 64 * 1024  # bytes
MAX_LONG_JSON: Final = 256 * 1024  # bytes, of the kinds that name many devices or classes
_FLOAT32_MAX: Final = (2 - 2.0**-23) * 2.0**127
MAX_PAYLOAD: Final = 16 * 2**20  # bytes of payload in a part: the largest ``part_size`` there is
MAX_PART: Final = MAX_PAYLOAD + 1024  # bytes, with its header and what a newer peer may add
MAX_UPDATE: Final = 2**31 - 1  # bytes; protobuf's own limit
MAX_COUNTS: Final = 32 + 10 * MAX_CLASSES**2  # bytes; a varint takes at most 10
_SPARE: Final = 1024  # numbers that a newer peer may add to counts
MAX_HEADING: Final = 1024  # bytes at the start of an update that have all but its payload; they take 200
MAX_FIELDS: Final = 64  # in an update; it has 11, and a newer peer may add some
MAX_FIELD: Final = 64  # bytes in a name, a digest or a nonce
MAX_ERRORS: Final = 100  # faults of one message that are looked at; listing thousands would cost a hundred MB

_LEAN: Final = (ModelPointer, RoundAnnouncement, Join, Receipt)
_LONG: Final = frozenset({Kind.RUN, Kind.SUMMARY})
_LIMITS: Final[dict[type[Message], int]] = {
    model: MAX_LONG_JSON if kind in _LONG else MAX_JSON for kind, model in MODELS.items()
}
_TASKS: Final[dict[Task, pb.Task]] = {"train": pb.TASK_TRAIN, "evaluate": pb.TASK_EVALUATE}
_TASK_NAMES: Final[dict[int, Task]] = {int(number): task for task, number in _TASKS.items()}

_DELTA_TAG: Final = pb.Update.PAYLOAD_FIELD_NUMBER << 3 | 2  # its number, and the wire type of what has a length
_MORE_FOLLOWS: Final = bytes(range(128, 256))  # the bytes of a varint but its last

# What pydantic calls a number or a length outside its range; all else is a message of another form.
_RANGE_ERRORS: Final = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "too_long", "too_short", "string_too_long"}
)
_BLOB_FIELDS: Final = ("digest", "size", "parts")
_PART_FIELDS: Final = ("blob", "index", "payload")
_COUNTS_FIELDS: Final = ("examples", "loss_sum")
_UPDATE_FIELDS: Final = ("round", "task", "nonce", "device", "model_version", "model_tag", "examples")

W = TypeVar("W", bound=Wire)
M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """The JSON of any message but ``Part`` and ``Update``. ``WireError`` where it is longer than a decoder takes.

    What a device can't tell isn't in its status, which it repeats day and night; nor is a default in what goes to every
    device, or comes from each, in every round.
    """
    limit = _LIMITS.get(type(message))
    if limit is None:
        raise TypeError(f"{type(message).__name__} doesn't travel as JSON")
    lean, frugal = isinstance(message, _LEAN), isinstance(message, DeviceStatus)
    payload = message.model_dump_json(exclude_none=frugal, exclude_defaults=lean).encode()
    _check_size(payload, limit, type(message).__name__)
    return payload


def decode(kind: Kind, payload: bytes) -> Message:
    """The message of a JSON ``kind`` (a ``RULES`` entry with form ``json``); ``MODELS`` says of which type."""
    model = MODELS.get(kind)
    if model is None:
        raise WireError(Reject.UNEXPECTED, f"topics of the form {kind} don't carry JSON")
    _check_size(payload, _LIMITS[model], model.__name__)
    # This parser bounds the depth, and goes first; it lets repeated keys and stray NaN through, which the second
    # one refuses.
    message = _build(lambda: model.model_validate_json(payload, strict=True), model.__name__)
    if _is_plain(payload, message):
        return message
    try:
        json.loads(payload, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise WireError(Reject.MALFORMED, f"{model.__name__}: not valid JSON") from None
    return message


def encode_part(part: Part) -> bytes:
    """A part as protobuf."""
    return pb.Part(
        blob=pb.Blob(digest=bytes.fromhex(part.blob.digest), size=part.blob.size, parts=part.blob.parts),
        index=part.index,
        payload=part.payload,
    ).SerializeToString()


def decode_part(payload: bytes) -> Part:
    """A part from protobuf; whether it fits its blob is for ``parts.Assembly`` to say."""
    wire = _parse(pb.Part(), payload, MAX_PART)
    _require(wire, _PART_FIELDS)
    _require(wire.blob, _BLOB_FIELDS)
    blob = wire.blob
    digest = _hex(blob.digest)
    return _build(
        lambda: Part(
            blob=BlobRef(digest=digest, size=blob.size, parts=blob.parts), index=wire.index, payload=wire.payload
        ),
        "Part",
    )


def encode_update(update: Update) -> bytes:
    """An update as protobuf, its loss as a float32. ``WireError`` where it is longer than protobuf takes."""
    if len(update.payload) > MAX_UPDATE - MAX_COUNTS - 1024:
        raise WireError(Reject.TOO_LARGE, f"a delta of {len(update.payload)} bytes: use a codec that makes it smaller")
    wire = pb.Update(
        round=update.round,
        task=_TASKS[update.task],
        nonce=bytes.fromhex(update.nonce),
        device=update.device,
        model_version=update.model_version,
        model_tag=bytes.fromhex(update.model_tag),
        examples=update.examples,
    )
    if update.train_loss is not None:
        wire.train_loss = min(max(update.train_loss, -_FLOAT32_MAX), _FLOAT32_MAX)  # protobuf would make it infinite
    if update.payload:
        wire.payload = bytes(update.payload)
    if update.counts is not None:
        wire.counts = pb.Counts(
            examples=update.counts.examples,
            loss_sum=update.counts.loss_sum,
            confusion=[count for row in update.counts.confusion for count in row],
        ).SerializeToString()
    return wire.SerializeToString()


def decode_update(payload: bytes) -> Update:
    """An update from protobuf; what its payload holds is for ``compression.read`` to say.

    Its payload is a view of ``payload``: a delta may be as large as the model, and is not copied.
    """
    _check_size(payload, MAX_UPDATE, "Update")
    delta, rest = _without_delta(payload)
    wire = _parse(pb.Update(), rest, MAX_COUNTS + MAX_HEADING)
    _require(wire, _UPDATE_FIELDS)
    task = _TASK_NAMES.get(wire.task)
    if task is None:
        raise WireError(Reject.MALFORMED, f"Update: task {wire.task} is not known here")
    nonce, tag = _hex(wire.nonce), _hex(wire.model_tag)
    counts = _decode_counts(wire.counts) if wire.HasField("counts") else None
    return _build(
        lambda: Update(
            round=wire.round,
            task=task,
            nonce=nonce,
            device=_short(wire.device),
            model_version=wire.model_version,
            model_tag=tag,
            examples=wire.examples,
            payload=delta,
            train_loss=wire.train_loss if wire.HasField("train_loss") else None,
            counts=counts,
        ),
        "Update",
    )


class Heading(Message):
    """What an update says before its payload, each field in its range."""

    round: RoundNumber
    task: Task
    nonce: Nonce
    device: Name
    model_version: RoundNumber
    model_tag: Tag
    examples: Examples


def decode_heading(start: bytes) -> Heading | None:
    """What the first part of an update tells of it, or None where that is too little."""
    end = _whole_fields(start[:MAX_HEADING])
    if end == 0:
        return None
    wire = _parse(pb.Update(), start[:end], MAX_HEADING)
    task = _TASK_NAMES.get(wire.task)
    if task is None or not all(wire.HasField(field) for field in _UPDATE_FIELDS):
        return None
    nonce, tag = _hex(wire.nonce), _hex(wire.model_tag)
    return _build(
        lambda: Heading(
            round=wire.round,
            task=task,
            nonce=nonce,
            device=_short(wire.device),
            model_version=wire.model_version,
            model_tag=tag,
            examples=wire.examples,
        ),
        "Update",
    )


def _without_delta(update: bytes) -> tuple[memoryview, bytes]:
    """The delta in an update, and all else of it, which protobuf may then copy."""
    view, delta, rest, end = memoryview(update), memoryview(b""), [], 0
    for number, (tag, start, after) in enumerate(_fields(update)):
        if number == MAX_FIELDS or after > len(update):
            break
        if tag == _DELTA_TAG:
            delta = view[start:after]  # of several, protobuf takes the last
        else:
            rest.append(view[end:after])
        end = after
    if end < len(update):
        raise WireError(Reject.MALFORMED, "Update: not valid protobuf")
    return delta, b"".join(rest)


def _whole_fields(start: bytes) -> int:
    """How many bytes of ``start`` are fields that end within it: protobuf can't parse one that is cut."""
    return max((after for _, _, after in _fields(start) if after <= len(start)), default=0)


def _fields(message: bytes) -> Iterator[tuple[int, int, int]]:
    """Each field's tag, and where its value begins and ends; the last one may end beyond ``message``."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        start, kind = at, tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:  # noqa: PLR2004  - protobuf's wire type of anything with a length
            length, start = _varint(message, at)
            at = start + length
        else:
            at += {1: 8, 5: 4}.get(kind, len(message))
        yield tag, start, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at`` and where it ends, which is beyond ``data`` where it is cut or too long."""
    if at < len(data) and data[at] < 0x80:  # noqa: PLR2004  - most have one byte
        return data[at], at + 1
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:  # noqa: PLR2004  - the bit that says that more follows
            return value, at + place + 1
    return value, len(data) + 1


def _decode_counts(payload: bytes) -> Counts:
    # Each number ends in the one byte of it below 128: a short one takes eight bytes parsed, and many more in Python.
    if len(payload.translate(None, _MORE_FOLLOWS)) > MAX_CLASSES**2 + _SPARE:
        raise WireError(Reject.TOO_LARGE, f"Counts: more numbers than {MAX_CLASSES} classes have")
    wire = _parse(pb.Counts(), payload, MAX_COUNTS)
    _require(wire, _COUNTS_FIELDS)
    flat = tuple(wire.confusion)
    width = math.isqrt(len(flat))
    if width * width != len(flat):
        raise WireError(Reject.MALFORMED, f"Counts: {len(flat)} numbers don't make a square")
    rows = tuple(flat[row * width : (row + 1) * width] for row in range(width))
    return _build(lambda: Counts(examples=wire.examples, loss_sum=wire.loss_sum, confusion=rows), "Counts")


def _check_size(payload: bytes, limit: int, what: str) -> None:
    if not payload:
        raise WireError(Reject.TRUNCATED, f"{what}: no bytes")
    if len(payload) > limit:
        raise WireError(Reject.TOO_LARGE, f"{what}: {len(payload)} bytes; at most {limit}")


def _parse(wire: W, payload: bytes, limit: int) -> W:
    what = wire.DESCRIPTOR.name
    _check_size(payload, limit, what)
    try:
        wire.ParseFromString(payload)
    except DecodeError:
        raise WireError(Reject.MALFORMED, f"{what}: not valid protobuf") from None
    return wire


def _require(wire: Wire, fields: tuple[str, ...]) -> None:
    for field in fields:
        if not wire.HasField(field):
            raise WireError(Reject.MALFORMED, f"{wire.DESCRIPTOR.name}: {field} is missing")


def _short(value: str) -> str:
    if len(value) > MAX_FIELD:
        raise WireError(Reject.TOO_LARGE, f"a name of {len(value)} characters; at most {MAX_FIELD}")
    return value


def _hex(value: bytes) -> str:
    if len(value) > MAX_FIELD:
        raise WireError(Reject.TOO_LARGE, f"a digest or nonce of {len(value)} bytes; at most {MAX_FIELD}")
    return value.hex()


def _build(make: Callable[[], M], what: str) -> M:
    try:
        return make()
    except ValidationError as error:
        if error.error_count() > MAX_ERRORS:
            raise WireError(Reject.MALFORMED, f"{what}: {error.error_count()} faults") from None
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] in _RANGE_ERRORS:
        reason = Reject.OUT_OF_RANGE
    else:
        reason = Reject.NOT_FINITE if first["type"] == "finite_number" else Reject.MALFORMED
    where = ".".join((what, *map(str, first["loc"])))
    # The names of fields come from outside too: keep them printable and short.
    raise WireError(reason, ascii(f"{where}: {first['msg']}")[1:-1][:200])


def _is_plain(payload: bytes, message: Message) -> bool:
    """Whether JSON that ``message`` was read from can hold no key twice, and no number that is none.

    Every key has a colon behind it: as many colons as there are fields in the message leave none for anything else.
    """
    return payload.count(b":") == _fields_of(message) and b"NaN" not in payload and b"Infinity" not in payload


def _fields_of(message: Message) -> int:
    """Fields that were given, those of the messages in them included, as far as those are fields themselves."""
    values = message.__dict__
    given = message.model_fields_set
    return len(given) + sum(_fields_of(values[name]) for name in given if isinstance(values[name], Message))


def _unique(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice in one object")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
