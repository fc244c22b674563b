"""What a trainer child is asked, read beside its work; and what it says of a job on the way and in the end."""

from __future__ import annotations

import functools
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from edge.core.jobs import MAX_TEXT, Answer, Cancel, Done, Failure, Job, Progressed, Together, Train, Warm, read_request
from edge.dataset import Dataset
from edge.trainer.frames import Frames
from edge.training import checkpoint
from edge.training.checkpoint import Checkpoint
from schemas.errors import FedbeatError, ModelError, PlanError, Reject, TrainingError, WireError

if TYPE_CHECKING:
    from edge.training.loop import Event  # torch comes with it, when there is something to train
    from schemas.parameters import Parameters

PROGRESS_S = 1.0  # between two reports of how far a training is

log = logging.getLogger(__name__)


class Cancelled(Exception):
    """The running job's result is no longer wanted."""


class Batch(NamedTuple):
    """Trainings that are done together."""

    about: Together
    jobs: tuple[Train, ...]


class Inbox:
    """Jobs as they come, read on a thread of its own, so that a cancel and a hang-up are noticed during a job.

    Where the agent hangs up, nobody wants what the main thread is doing: ``leave`` ends the process at once.
    """

    def __init__(self, connection: Frames, leave: Callable[[int], object] = os._exit) -> None:
        self._connection = connection
        self._leave = leave
        self._jobs: queue.SimpleQueue[Job | Warm | Batch] = queue.SimpleQueue()
        self._cancelled: dict[str, Cancel] = {}
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> Job | Warm | Batch:
        """The next job, or batch of jobs; blocks."""
        return self._jobs.get()

    def cancelled(self, key: str) -> Cancel | None:
        """The message that says that the job ``key`` is no longer wanted, if one came."""
        return self._cancelled.get(key)

    def check(self, key: str) -> None:
        """Raise ``Cancelled`` where the job ``key`` is no longer wanted."""
        if key in self._cancelled:
            raise Cancelled

    def forget(self, key: str) -> None:
        """The job ``key`` is answered: a cancel of it has had its effect, or came too late and isn't the next one's."""
        self._cancelled.pop(key, None)

    def _read(self) -> None:
        try:
            while True:
                message = read_request(self._connection.receive)
                if isinstance(message, Cancel):
                    self._cancelled[message.key] = message
                elif isinstance(message, Together):
                    self._jobs.put(Batch(message, tuple(self._member(message) for _ in range(message.jobs))))
                else:
                    self.forget(message.key)
                    self._jobs.put(message)
        except (EOFError, OSError):
            self._leave(0)
        except WireError:
            log.exception("the agent sent what is no job")
            self._leave(1)

    def _member(self, together: Together) -> Train:
        """The next training of a batch, with its plan and model. Raises ``WireError``."""
        message = read_request(self._connection.receive)
        if not isinstance(message, Train):
            raise WireError(Reject.UNEXPECTED, f"a {message.job} in the middle of a batch")
        self.forget(message.key)
        return message.model_copy(update={"plan": together.plan, "model": together.model})


class Watch:
    """Looks at a training as it goes: reports, takes checkpoints, and ends it where nobody wants it any more."""

    def __init__(
        self,
        job: Train,
        model: Parameters,
        data: Dataset,
        engine: str,
        inbox: Inbox,
        report: Callable[[Progressed], None],
    ) -> None:
        """``model`` and ``data`` are what the job trains, ``engine`` is ``training.engine``: checkpoints name them."""
        self._job = job
        self._model = model
        self._data = data
        self._engine = engine
        self._inbox = inbox
        self._report = report
        self._reported_at = -math.inf
        self._kept_at = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Something happened in the training. Raises ``Cancelled``."""
        cancel, now = self._inbox.cancelled(self._job.key), time.monotonic()
        due = 0 < self._job.checkpoint_s <= now - self._kept_at
        if event.capture is not None and (due or (cancel is not None and cancel.keep)):
            self._kept_at = self._reported_at = now
            kept = checkpoint.encode(event.capture(), self._subject)
            self._report(Progressed(key=self._job.key, fraction=event.step / event.steps, checkpoint=kept))
        elif now >= self._reported_at + PROGRESS_S and cancel is None:
            self._reported_at = now
            self._report(Progressed(key=self._job.key, fraction=event.step / event.steps))
        if cancel is not None and (event.capture is not None or not cancel.keep):
            raise Cancelled

    def resumed(self) -> Checkpoint | None:
        """Where the job goes on from. Raises ``WireError`` where that is no checkpoint of this training."""
        return checkpoint.decode(self._job.checkpoint, self._subject) if self._job.checkpoint else None

    @functools.cached_property
    def _subject(self) -> str:
        job = self._job
        return checkpoint.subject(job.plan, self._model, self._data, job.settings, job.seed, self._engine)


def explained(key: str, error: Exception) -> Answer:  # noqa: PLR0911 - one for each kind
    """What a job's error means to who asked for it; raised again where it is no job's fault."""
    match error:
        case Cancelled():
            return Done(key=key)
        case PlanError():
            return _failure(key, "plan", error)
        case ModelError():
            return _failure(key, "model", error)
        case TrainingError() | WireError():  # a WireError: model or delta that the codec can't have
            return _failure(key, "training", error)
        case FedbeatError():
            return _failure(key, "data", error)
        case OSError() if not isinstance(error, ConnectionError):  # of the recordings; a connection is the agent's
            text = f"can't read {error.filename or 'the recordings'}: {error.strerror or error}"
            return _failure(key, "data", f"{text}; see to its permissions, and to the disk")
        case RuntimeError() | MemoryError():  # torch's own: what the dry run can't see
            reason = str(error).partition("\n")[0] or "memory ran out"
            return _failure(key, "training", f"torch can't run the plan here: {reason}")
        case _:
            raise error


def _failure(key: str, kind: str, error: FedbeatError | str) -> Failure:
    return Failure.model_validate({"key": key, "kind": kind, "message": str(error)[:MAX_TEXT]})
