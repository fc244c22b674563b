"""What the agent asks of its trainer child and what comes back, as frozen models and as frames on their socket.

A message is one JSON frame, then one frame of raw bytes for each of its ``bytes`` fields, in the class's order. No
pickle, no numpy: the agent imports this. Both halves of the framing are here, so that they can't drift apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from edge.core.personal_settings import MAX_PREFIXES, PersonalSettings, Prefix, Verdict
from edge.dataspec import DataSpec
from schemas.errors import Reject, WireError
from schemas.messages import Count, Counts, Message, Seconds, TrainSettings

MAX_HEADER = 1 << 23  # bytes of a JSON frame: a confusion matrix of 1000 classes fits, with seven digits a cell
MAX_BLOB = 1 << 33  # bytes of a blob frame: the largest blob the protocol knows
MAX_KEY = 200
MAX_ERRORS = 100  # faults of a frame that are looked at; listing thousands would cost a hundred MB
MAX_TOGETHER = 1024  # trainings in one request
MAX_TEXT = 500  # characters of a failure's message

Accelerator = Literal["cpu", "cuda"]  # what a training's arrays are on
Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY)]  # the agent's name for a job; unique while it is pending


class _Framed(Message):
    """A message whose ``bytes`` fields travel as frames of their own."""

    blobs: ClassVar[tuple[str, ...]] = ()

    key: Key

    def frames(self) -> tuple[bytes, ...]:
        """The JSON frame and the blob frames, in order."""
        header = self.model_dump_json(exclude=set(self.blobs)).encode()
        return header, *(getattr(self, name) for name in self.blobs)

    def with_blobs(self, blobs: tuple[bytes, ...]) -> Self:
        """This message with its blob fields filled in."""
        return self.model_copy(update=dict(zip(self.blobs, blobs, strict=True)))


class Describe(_Framed):
    """Prepare the data and say how much there is."""

    job: Literal["describe"] = "describe"
    data: DataSpec
    recipe: str  # of ``edge.sources.RECIPES``; a plan's ``data``


class _Beside(_Framed):
    """A job of a round, for which the device may have layers of its own."""

    own: bytes = b""  # of a ``Personalised``, whose local layers take the place of the model's; empty for the model's
    local: Annotated[tuple[Prefix, ...], Field(max_length=MAX_PREFIXES)] = ()  # layers that are the device's own


class Train(_Beside):
    """Train one round from ``model``; the ``local`` layers stay as they are, and their delta is zero."""

    blobs: ClassVar[tuple[str, ...]] = ("plan", "model", "checkpoint", "residual", "own")

    job: Literal["train"] = "train"
    plan: bytes = b""  # ``Plan.to_bytes()``
    model: bytes = b""  # ``Lineage.pack``
    data: DataSpec
    settings: TrainSettings
    seed: Count  # of batch order, dropout and the codec's rounding
    codec: str  # of ``schemas.compression.NAMES``
    checkpoint: bytes = b""  # of ``Progressed``, to go on from; one that is of another training is left aside
    checkpoint_s: Seconds = 0.0  # between two checkpoints on the way; none where 0
    residual: bytes = b""  # of an earlier ``Trained``: what its update left out, for this one to carry


class Together(_Framed):
    """The ``jobs`` trainings that follow, all with this plan, this model and the same settings, are to be done at once.

    Their own ``plan`` and ``model`` are left empty. Each is answered under its own key. Between pool and child only.
    """

    blobs: ClassVar[tuple[str, ...]] = ("plan", "model")

    job: Literal["together"] = "together"
    plan: bytes = b""
    model: bytes = b""
    jobs: Annotated[int, Field(ge=1, le=MAX_TOGETHER)]
    width: Annotated[int, Field(ge=1, le=MAX_TOGETHER)] | None = None  # devices in one step; by the plan's size if None
    accelerator: Accelerator = "cpu"


class Evaluate(_Beside):
    """Count how ``model`` does on the held-out examples, with the ``local`` layers of the device's own."""

    blobs: ClassVar[tuple[str, ...]] = ("plan", "model", "own")

    job: Literal["evaluate"] = "evaluate"
    plan: bytes = b""
    model: bytes = b""
    data: DataSpec


class Personalise(_Framed):
    """Fit ``model`` to the device's owner, and say which of both is better."""

    blobs: ClassVar[tuple[str, ...]] = ("plan", "model")

    job: Literal["personalise"] = "personalise"
    plan: bytes = b""
    model: bytes = b""  # ``Lineage.pack``
    data: DataSpec
    settings: TrainSettings  # of the run
    how: PersonalSettings
    seed: Count


class Merge(_Framed):
    """Make one snapshot of ``model``."""

    blobs: ClassVar[tuple[str, ...]] = ("plan", "model")

    job: Literal["merge"] = "merge"
    plan: bytes = b""
    model: bytes = b""  # ``Lineage.pack``


class Warm(_Framed):
    """Get ready for training, so that the next job starts at once. Between pool and child only."""

    job: Literal["warm"] = "warm"


class Cancel(_Framed):
    """Stop the running job of this key. Between pool and child only."""

    job: Literal["cancel"] = "cancel"
    keep: bool = False  # with a checkpoint of where a training is


class Progressed(_Framed):
    """How far a training is. Comes any number of times before its answer; now and then with a checkpoint."""

    blobs: ClassVar[tuple[str, ...]] = ("checkpoint",)

    job: Literal["progressed"] = "progressed"
    fraction: Annotated[float, Field(ge=0, le=1)]  # of its batches that are done
    checkpoint: bytes = b""  # ``checkpoint.encode``; empty where there is none this time


class Described(_Framed):
    """What a device has."""

    job: Literal["described"] = "described"
    examples: Count  # to train on
    held_out: Count  # to evaluate on
    class_counts: dict[str, int]  # of the examples to train on
    notes: tuple[str, ...] = ()
    rejected: dict[str, int] = Field(default_factory=dict)  # reason -> pieces


class Trained(_Framed):
    """A round's delta."""

    blobs: ClassVar[tuple[str, ...]] = ("payload", "residual")

    job: Literal["trained"] = "trained"
    payload: bytes = b""  # ``compression.encode(codec, delta, ...)``
    examples: Count  # trained on; the update's weight
    train_loss: float  # mean over the examples of the last epoch
    seconds: Seconds  # of training, without start-up and reading
    peak_mb: float | None = None  # most memory the child has had since it started
    residual: bytes = b""  # what the payload leaves out; empty where the codec keeps no account


class Evaluated(_Framed):
    """A device's counts."""

    job: Literal["evaluated"] = "evaluated"
    counts: Counts
    seconds: Seconds
    peak_mb: float | None = None  # likewise


class Personalised(_Framed):
    """The model that the device is to use: its owner's own, or the global one."""

    blobs: ClassVar[tuple[str, ...]] = ("model",)

    job: Literal["personalised"] = "personalised"
    model: bytes = b""  # ``model_file.own_to_bytes``
    verdict: Verdict
    seconds: Seconds
    peak_mb: float | None = None


class Merged(_Framed):
    """A device's model as one snapshot."""

    blobs: ClassVar[tuple[str, ...]] = ("model",)

    job: Literal["merged"] = "merged"
    model: bytes = b""  # ``compression.encode("float32", parameters, ...)``


class Done(_Framed):
    """A job ended that has nothing to report: warmed up, or cancelled. Between pool and child only."""

    job: Literal["done"] = "done"


class Failure(_Framed):
    """A job that has no result.

    ``kind``: ``data`` the recordings are at fault, ``plan`` the plan is malformed or doesn't fit them (decline, and
    say so), ``model`` it is not the one it should be (get it anew), ``training`` it went wrong in the numbers,
    ``crash`` the child died (try again).
    """

    job: Literal["failure"] = "failure"
    kind: Literal["data", "plan", "model", "training", "crash"]
    message: Annotated[str, Field(max_length=MAX_TEXT)]


Job = Describe | Train | Evaluate | Personalise | Merge
Result = Described | Trained | Evaluated | Personalised | Merged
Request = Job | Together | Warm | Cancel
Answer = Progressed | Result | Failure | Done


class Trainer(Protocol):
    """What trains: ``TrainerPool``, or anything that answers as it does. Answers may come on any thread."""

    def submit(self, job: Job, on_result: Callable[[Progressed | Result | Failure], None]) -> None:
        """Do ``job`` some time; ``on_result`` hears how it went, once, and before that how far it is, if at all."""

    def cancel(self, key: str) -> None:
        """The answer to the job of this key is not wanted any more."""

    def suspend(self, key: str) -> Progressed | None:
        """Nor is it here; but where the job is, with a checkpoint, where there is one. May wait some seconds."""

    def warm(self) -> None:
        """Get ready, if idle: a job is expected."""


_LATER: Final = ConfigDict(defer_build=True)  # an agent reads no requests, and no answers before there is work
_REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="job")], config=_LATER)
_ANSWERS: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="job")], config=_LATER)


def read_request(receive: Callable[[int], bytes]) -> Request:
    """Read what the pool asks from ``receive(max_bytes)``, which gives one frame a call. Raises ``WireError``."""
    request: Request = _read(_REQUESTS, receive)
    return request


def read_answer(receive: Callable[[int], bytes]) -> Answer:
    """Read what the child answers from ``receive(max_bytes)``. Raises ``WireError``."""
    answer: Answer = _read(_ANSWERS, receive)
    return answer


def _read(adapter: TypeAdapter[Any], receive: Callable[[int], bytes]) -> Any:
    try:
        message = adapter.validate_json(receive(MAX_HEADER))
    except ValidationError as error:
        if error.error_count() > MAX_ERRORS:
            raise WireError(Reject.MALFORMED, f"{error.error_count()} faults") from None
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise WireError(Reject.MALFORMED, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:MAX_TEXT]) from None
    return message.with_blobs(tuple(receive(MAX_BLOB) for _ in message.blobs))
