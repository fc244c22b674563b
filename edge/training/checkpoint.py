"""Where a training is, so that it goes on later bit for bit; both halves of its encoding. No pickle, no ``torch.load``.

The bytes are a line of JSON, then the parameters and the optimiser's vectors, as they lie in memory. They carry the
digest of what is trained, so that they are never gone on with for anything else.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, ValidationError

from edge.dataset import Dataset
from schemas.errors import Reject, WireError
from schemas.messages import Count, Digest, Message, TrainSettings
from schemas.parameters import Parameters

MAX_PARAMETERS: Final = 2**28  # as many as the largest model a device takes
MAX_VECTORS: Final = 4  # of an optimiser
_LONGEST_HEADER: Final = 4096  # bytes

Vector = NDArray[np.float32]
_Word128 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,32}$")]


@dataclass(frozen=True, eq=False, slots=True)
class Checkpoint:
    """A training after ``step`` batches: all that the batches still to come depend on."""

    step: int
    parameters: Vector
    optimiser: tuple[Vector, ...]
    loss_sum: float  # over the examples of the pass that is running
    loss_examples: int
    loss_closed: float  # mean of the pass before
    shuffle: Mapping[str, Any]  # PCG64's state, as numpy has it, before the pass the next batch is of


class _Shuffle(Message):
    """PCG64's two numbers of 128 bits, and the half word it may have left."""

    state: _Word128
    inc: _Word128
    has_uint32: Annotated[int, Field(ge=0, le=1)]
    uinteger: Annotated[int, Field(ge=0, lt=2**32)]


class _Header(Message):
    subject: Digest
    order: str  # of the bytes in a number: a checkpoint stays on its machine
    step: Count
    parameters: Annotated[int, Field(ge=1, le=MAX_PARAMETERS)]
    vectors: Annotated[int, Field(ge=0, le=MAX_VECTORS)]
    loss_sum: float
    loss_examples: Count
    loss_closed: float
    shuffle: _Shuffle


def subject(plan: bytes, model: Parameters, data: Dataset, settings: TrainSettings, seed: int, engine: str) -> str:
    """The digest of what is trained, and by what: with anything else in its place, other bits would come.

    The model counts by its parameters, however they came; ``engine`` is ``training.engine``.
    """
    digest = hashlib.blake2b(digest_size=32)  # four times as fast as SHA-256 on a Pi, which has no instructions for it
    words = (settings.model_dump_json(), str(seed), "\0".join(data.classes), engine)
    for piece in (plan, *(word.encode() for word in words)):
        digest.update(len(piece).to_bytes(8, "little") + piece)
    arrays: tuple[NDArray[Any], ...] = (model.flat, *data.inputs, data.labels)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def encode(checkpoint: Checkpoint, about: str) -> bytes:
    """The bytes of a checkpoint of the training with the digest ``about``."""
    shuffle = checkpoint.shuffle
    header = _Header(
        subject=about,
        order=sys.byteorder,
        step=checkpoint.step,
        parameters=checkpoint.parameters.size,
        vectors=len(checkpoint.optimiser),
        loss_sum=checkpoint.loss_sum,
        loss_examples=checkpoint.loss_examples,
        loss_closed=checkpoint.loss_closed,
        shuffle=_Shuffle(
            state=f"{shuffle['state']['state']:x}",
            inc=f"{shuffle['state']['inc']:x}",
            has_uint32=shuffle["has_uint32"],
            uinteger=shuffle["uinteger"],
        ),
    )
    vectors = (vector.tobytes() for vector in (checkpoint.parameters, *checkpoint.optimiser))
    return b"".join((header.model_dump_json().encode(), b"\n", *vectors))


def decode(raw: bytes, about: str) -> Checkpoint:
    """The checkpoint in ``raw``. Raises ``WireError`` where it is none, or one of another training than ``about``."""
    end = raw.find(b"\n", 0, _LONGEST_HEADER)
    try:
        header = _Header.model_validate_json(raw[: max(0, end)])
    except ValidationError as error:
        raise WireError(Reject.MALFORMED, f"not a checkpoint: {error.errors()[0]['msg']}") from None
    if (header.subject, header.order) != (about, sys.byteorder):
        raise WireError(
            Reject.WRONG_RUN, "the checkpoint is of another plan, model, data, settings, torch or number of threads"
        )
    vectors, size = 1 + header.vectors, 4 * header.parameters
    start, whole = end + 1, end + 1 + vectors * size
    if len(raw) != whole:
        raise WireError(Reject.TRUNCATED, f"a checkpoint of {len(raw)} bytes instead of {whole}")
    numbers = np.frombuffer(raw, np.float32, vectors * header.parameters, start).reshape(vectors, -1).copy()
    if not np.isfinite(numbers).all():
        raise WireError(Reject.NOT_FINITE, "the checkpoint holds NaN or infinity")
    shuffle = header.shuffle
    return Checkpoint(
        step=header.step,
        parameters=numbers[0],
        optimiser=tuple(numbers[1:]),
        loss_sum=header.loss_sum,
        loss_examples=header.loss_examples,
        loss_closed=header.loss_closed,
        shuffle={
            "bit_generator": "PCG64",
            "state": {"state": int(shuffle.state, 16), "inc": int(shuffle.inc, 16)},
            "has_uint32": shuffle.has_uint32,
            "uinteger": shuffle.uinteger,
        },
    )
