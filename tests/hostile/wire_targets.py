"""Every decoder of what comes from the broker, or from the trainer child's socket. No NumPy: as on an idle device."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Final

from edge.core.jobs import (
    Answer,
    Cancel,
    Describe,
    Described,
    Done,
    Evaluate,
    Evaluated,
    Failure,
    Merge,
    Merged,
    Personalise,
    Personalised,
    Progressed,
    Request,
    Together,
    Train,
    Trained,
    Warm,
    read_answer,
    read_request,
)
from edge.core.lineage import Lineage
from edge.core.personal_settings import PersonalSettings, Verdict
from edge.dataspec import DataSpec
from edge.fetcher import _plan_ready
from schemas import codec
from schemas.errors import Reject, WireError
from schemas.link.filters import check_filter, check_topic, matches
from schemas.messages import Counts, Part, TrainSettings
from schemas.parts import Assembly, cut, describe
from schemas.topics import Address, Kind, Topics
from tests.hostile import json_text, proto_wire
from tests.hostile.raw import damage
from tests.hostile.target import Target
from tests.test_codec import EVALUATED, JSON_SAMPLES, PART, TRAINED

TOPICS: Final = Topics("home")
_LIMIT: Final = 4096  # bytes of a blob that the assembly takes
_HEADERS: Final = tuple(codec.encode(message) for message in JSON_SAMPLES.values())
_UPDATES: Final = tuple(codec.encode_update(update) for update in (TRAINED, EVALUATED))
_DATA: Final = DataSpec(path="watch", held_out="0.2")
_LINEAGE: Final = Lineage(b"snapshot", (("a" * 64, b"step"), ("b" * 64, b"another")))
_COUNTS: Final = Counts(examples=3, loss_sum=1.5, confusion=((1, 1), (0, 1)))
_OWN_LAYERS: Final = PersonalSettings(method="local-layers", layers=("head",))
_VERDICT: Final = Verdict(examples=20, personal_loss=0.1, global_loss=0.3, personal_f1=0.9, global_f1=0.6)
REQUESTS: Final[tuple[Request, ...]] = (
    Describe(key="a", data=_DATA, recipe="watch"),
    Train(key="b", data=_DATA, settings=TrainSettings(), seed=1, codec="int8", checkpoint=b"c", checkpoint_s=9.0),
    Together(key="g", plan=b"p", model=b"m", jobs=2, width=4),
    Evaluate(key="c", plan=b"p", model=b"m", data=_DATA),
    Personalise(key="i", plan=b"p", model=b"m", data=_DATA, settings=TrainSettings(), how=_OWN_LAYERS, seed=1),
    Merge(key="h", plan=b"p", model=b"m"),
    Warm(key="d"),
    Cancel(key="e", keep=True),
)
ANSWERS: Final[tuple[Answer, ...]] = (
    Described(key="a", examples=3, held_out=1, class_counts={"x": 3}, notes=("n",), rejected={"r": 1}),
    Trained(key="b", payload=b"delta", examples=3, train_loss=0.5, seconds=1.0),
    Evaluated(key="c", counts=_COUNTS, seconds=1.0),
    Personalised(key="i", model=b"m", verdict=_VERDICT, seconds=1.0),
    Merged(key="h", model=b"m"),
    Progressed(key="f", fraction=0.5, checkpoint=b"c"),
    Done(key="d"),
    Failure(key="e", kind="plan", message="no"),
)


def changed_json(rng: random.Random, text: bytes, other: bytes) -> bytes:
    """A document, changed in what it means, in its bytes, or both."""
    if rng.random() < 0.8:
        text = json_text.render(json_text.mutate(rng, json_text.parse(text), json_text.parse(other)))
    return damage(rng, text, other) if rng.random() < 0.25 else text


def _message(kind: Kind) -> Callable[[random.Random], bytes]:
    valid = codec.encode(JSON_SAMPLES[kind])
    return lambda rng: changed_json(rng, valid, rng.choice(_HEADERS))


def _decode(kind: Kind) -> Callable[[bytes], object]:
    def read(payload: bytes) -> object:
        message = codec.decode(kind, payload)
        assert codec.decode(kind, codec.encode(message)) == message
        return message

    return read


def _changed_proto(rng: random.Random, valid: bytes, other: bytes) -> bytes:
    if rng.random() < 0.8:
        valid = proto_wire.mutate(rng, valid, other)
    return damage(rng, valid, other) if rng.random() < 0.25 else valid


def part(rng: random.Random) -> bytes:
    return _changed_proto(rng, codec.encode_part(PART), rng.choice(_UPDATES))


def update(rng: random.Random, **fields: object) -> bytes:
    """An update, changed; one that was of these ``fields`` before."""
    valid = codec.encode_update(rng.choice((TRAINED, EVALUATED)).model_copy(update=fields))
    return _changed_proto(rng, valid, rng.choice((*_UPDATES, codec.encode_part(PART))))


def _read_update(payload: bytes) -> object:
    update = codec.decode_update(payload)
    assert codec.decode_update(codec.encode_update(update)) == update
    heading = codec.decode_heading(payload)
    assert heading is None or heading.nonce == update.nonce
    return update


def _parts(rng: random.Random) -> bytes:
    """Parts of a small blob, one behind another, each behind two bytes of length."""
    blob = rng.randbytes(rng.randint(1, 300))
    ref = describe(blob, rng.randint(1, 100))
    order = [rng.randrange(ref.parts) for _ in range(rng.randint(1, 12))]
    frames = [codec.encode_part(cut(blob, ref, index)) for index in (*order, *range(ref.parts))]
    frames = [_changed_proto(rng, one, rng.choice(frames)) if rng.random() < 0.1 else one for one in frames]
    return b"".join(len(one[:60_000]).to_bytes(2, "big") + one[:60_000] for one in frames)


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 2 <= len(data):
        length = int.from_bytes(data[at : at + 2], "big")
        yield data[at + 2 : at + 2 + length]
        at += 2 + length


def _assemble(data: bytes) -> object:
    """The first part says which blob; one that doesn't fit is refused by itself, and the digest has the last word."""
    assembly: Assembly | None = None
    for frame in _frames(data):
        try:
            part: Part = codec.decode_part(frame)
            assembly = assembly or Assembly(part.blob, _LIMIT)
            assembly.add(part)
        except WireError:
            continue
    if assembly is None:
        raise WireError(Reject.TRUNCATED, "no part")
    return assembly.blob()


def _job_frames(rng: random.Random, messages: tuple[Request | Answer, ...]) -> bytes:
    first, *_ = rng.choice(messages).frames()
    return changed_json(rng, first, rng.choice(messages).frames()[0])


def _feed(payload: bytes) -> Callable[[int], bytes]:
    frames = iter((payload,))
    return lambda _limit: next(frames, b"blob")


def _topic(rng: random.Random) -> bytes:
    address = Address(
        rng.choice(tuple(Kind)), number=rng.randrange(10**9), device="dev-1", digest="a" * 64, part=rng.randrange(10**9)
    )
    pieces = TOPICS.topic(address).split("/")
    at = rng.randrange(len(pieces))
    hostile = (
        "",
        "+",
        "#",
        "..",
        "٣",
        "１",
        "0" * 5000,
        "9" * 5000,
        "-1",
        "00",
        "dev-1\n",
        "DEV",
        "\0",
        "\ud800",
        "$SYS",
    )
    pieces[at : at + rng.randint(0, 1)] = [rng.choice((*hostile, pieces[at] * 3))]
    text = "/".join(pieces).encode("utf-8", "surrogatepass")
    return damage(rng, text) if rng.random() < 0.3 else text


def _read_topic(payload: bytes) -> object:
    topic = payload.decode("utf-8", "surrogateescape")
    address = TOPICS.parse(topic)
    assert address is None or TOPICS.topic(address) == topic
    return address


def _read_filter(payload: bytes) -> object:
    text = payload.decode()
    matches(text, "fl/v1/home/devices/dev-1")
    matches("fl/+/home/#", text)
    check_filter(text)
    check_topic(text)
    return text


def _plan_head(rng: random.Random) -> bytes:
    return changed_json(
        rng, json.dumps({"data": "watch", "name": "tiny", "inputs": [1, {"a": []}]}).encode(), b"[1,{}]"
    )


def _lineage(rng: random.Random) -> bytes:
    header, _, rest = _LINEAGE.pack().partition(b"\n")
    return changed_json(rng, header, b"[1,{}]") + rng.choice((b"\n", b"\n", b"\n", b"")) + rest


def _read_lineage(data: bytes) -> object:
    read = Lineage.unpack(data)
    assert len(read.snapshot) + sum(len(step) for _, step in read.steps) <= len(data)
    return read


WIRE: Final = (
    *(Target(f"codec.{kind.name.lower()}", _message(kind), _decode(kind), (WireError,)) for kind in JSON_SAMPLES),
    Target("codec.part", part, codec.decode_part, (WireError,), 20),
    Target("codec.update", update, _read_update, (WireError,), 30),
    Target("codec.heading", update, codec.decode_heading, (WireError,), 20),
    Target("parts.assembly", _parts, _assemble, (WireError,), 10),
    Target("topics.parse", _topic, _read_topic, (), 20),
    Target("link.filters", _topic, _read_filter, (ValueError,), 10),
    Target(
        "jobs.request", lambda rng: _job_frames(rng, REQUESTS), lambda data: read_request(_feed(data)), (WireError,)
    ),
    Target("jobs.answer", lambda rng: _job_frames(rng, ANSWERS), lambda data: read_answer(_feed(data)), (WireError,)),
    Target("lineage.unpack", _lineage, _read_lineage, (WireError,)),
    Target("fetcher.plan", _plan_head, lambda data: _plan_ready(describe(data or b"x", 100), data), ()),
)
