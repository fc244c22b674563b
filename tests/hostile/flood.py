"""Messages for every topic of a federation that nobody should have sent: mutated, misplaced, or of somebody else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from schemas import codec
from schemas.errors import WireError
from schemas.messages import Part
from schemas.parts import describe
from schemas.topics import Address, Kind
from tests.hostile import wire_targets
from tests.hostile.wire_targets import changed_json
from tests.test_codec import EVALUATED, JSON_SAMPLES, TRAINED
from tests.test_service import TOPICS

STRANGERS: Final = ("dev-7", "dev-8", "eve-1")
MISNAMED: Final = ("DEV-7", "d", "x" * 64, "-dev", "dev_7", "dev 7", "٣٣٣")
READ: Final = (Kind.DEVICE, Kind.JOIN, Kind.UPDATE_PART, Kind.COORDINATOR)  # what a coordinator reads
_VALID: Final = tuple(codec.encode(message) for message in JSON_SAMPLES.values())


def flood(rng: random.Random, count: int, among: float = 0.6) -> Iterator[tuple[str, bytes, bool]]:
    """Topic below the federation's root, payload, and whether it is retained; a share ``among`` is for a coordinator.

    What only a coordinator may say is never retained, nor well formed: a broker's access list sees to who can forge
    that, and nothing else can.
    """
    found = 0
    while found < count:
        kind = rng.choice(READ if rng.random() < among else tuple(Kind))
        address = Address(
            kind,
            number=rng.choice((0, 1, 1, 1, 2, 3, 999_999_999)),
            device=rng.choice(STRANGERS if rng.random() < 0.95 else MISNAMED),
            digest="ab" * 32,
            part=rng.choice((0, 0, 1, 99_999)),
        )
        below, content = TOPICS.topic(address).removeprefix(TOPICS.prefix), payload(rng, kind, address)
        from_device = address.rule.publisher == "device"
        if from_device or is_bad(below, content):
            yield below, content, from_device and rng.random() < 0.3
            found += 1


def payload(rng: random.Random, kind: Kind, address: Address) -> bytes:
    """Something for a topic of this kind: mostly its own message, mutated; of the device that ``address`` names."""
    if rng.random() < 0.1:
        return rng.choice((b"{}", b"null", b"\0" * 50, b"[" * 9000, rng.randbytes(200), rng.choice(_VALID)))
    if kind in JSON_SAMPLES:
        return changed_json(rng, codec.encode(JSON_SAMPLES[kind]), rng.choice(_VALID))
    return wire_targets.part(rng) if rng.random() < 0.3 else update_part(rng, address)


def update_part(rng: random.Random, address: Address) -> bytes:
    """A whole update in one part, mutated before it was cut: its digest is right."""
    fields = {"run": "run-1", "round": address.number or 0, "device": address.device or "dev-7"}
    blob = wire_targets.update(rng, **fields)[:60_000] or codec.encode_update(rng.choice((TRAINED, EVALUATED)))
    return codec.encode_part(Part(blob=describe(blob, len(blob)), index=0, payload=blob))


def is_bad(below: str, payload: bytes) -> bool:
    """Whether a message on a topic can't be anything but a rejection. An empty one clears what was retained."""
    address = TOPICS.parse(TOPICS.prefix + below)
    if address is None:
        return True
    try:
        if not payload and address.rule.retain:
            return False
        if address.rule.form == "protobuf":
            codec.decode_part(payload)
        else:
            codec.decode(address.kind, payload)
    except WireError:
        return True
    return False
