"""The trainer child: everything with arrays and torch happens here, away from the agent and from the network.

``python -m edge.trainer ADDRESS THREADS NICE`` connects to the agent's socket, answers its jobs one after the other,
and ends when the agent does, or hangs up. torch is imported by the first job that needs it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import math
import os
import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from typing import TYPE_CHECKING

import numpy as np

from edge import checkpoint
from edge.checkpoint import Checkpoint
from edge.dataset import Dataset
from edge.dataspec import DataSpec
from edge.health import peak_mb
from edge.jobs import (
    MAX_TEXT,
    Answer,
    Cancel,
    Describe,
    Described,
    Done,
    Evaluate,
    Evaluated,
    Failure,
    Job,
    Progressed,
    Train,
    Trained,
    Warm,
    read_request,
)
from edge.plan_fit import fit
from edge.sources import Prepared, prepare
from schemas import compression
from schemas.errors import FedbeatError, PlanError, TrainingError, WireError
from schemas.plan import Plan
from schemas.plan_cost import Limits, check

if TYPE_CHECKING:
    from edge.training import Event  # torch comes with it, when there is something to train

MAX_CACHED = 512 * 2**20  # bytes of prepared recordings kept between jobs
PROGRESS_S = 2.0  # between two reports of how far a training is
EVALUATION_BATCHES = (256, 64, 16, 4, 1)  # the largest that fits in memory is used
LIMITS = Limits()

log = logging.getLogger(__name__)


class Cancelled(Exception):
    """The running job's result is no longer wanted."""


class Inbox:
    """Jobs as they come, read on a thread of its own, so that a cancel and a hang-up are noticed during a job.

    Where the agent hangs up, nobody wants what the main thread is doing: ``leave`` ends the process at once.
    """

    def __init__(self, connection: Connection, leave: Callable[[int], object] = os._exit) -> None:
        self._connection = connection
        self._leave = leave
        self._jobs: queue.SimpleQueue[Job | Warm] = queue.SimpleQueue()
        self._cancelled: dict[str, Cancel] = {}
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> Job | Warm:
        """The next job; blocks."""
        return self._jobs.get()

    def cancelled(self, key: str) -> Cancel | None:
        """The message that says that the job ``key`` is no longer wanted, if one came."""
        return self._cancelled.get(key)

    def check(self, key: str) -> None:
        """Raise ``Cancelled`` where the job ``key`` is no longer wanted."""
        if key in self._cancelled:
            raise Cancelled

    def _read(self) -> None:
        try:
            while True:
                message = read_request(self._connection.recv_bytes)
                if isinstance(message, Cancel):
                    self._cancelled[message.key] = message
                else:
                    self._cancelled.pop(message.key, None)  # a cancel that came too late for an earlier job of this key
                    self._jobs.put(message)
        except (EOFError, OSError):
            self._leave(0)
        except WireError:
            log.exception("the agent sent what is no job")
            self._leave(1)


class Recordings:
    """Prepared recordings, the most recently used up to ``MAX_CACHED`` bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, DataSpec], Prepared] = OrderedDict()

    def read(self, spec: DataSpec, recipe: str) -> Prepared:
        """The recordings of one device as they are now. Raises ``DataError``."""
        key = recipe, spec
        self._kept.pop(key, None)
        self._kept[key] = prepared = prepare(spec, recipe)
        while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > MAX_CACHED:
            self._kept.popitem(last=False)
        return prepared

    def get(self, spec: DataSpec, recipe: str) -> Prepared:
        """The recordings of one device, as they were read last. Raises ``DataError``."""
        key = recipe, spec
        if key not in self._kept:
            return self.read(spec, recipe)
        self._kept.move_to_end(key)
        return self._kept[key]


class Trainer:
    """Does jobs, one at a time; ``inbox`` says when a job's result is no longer wanted."""

    def __init__(self, inbox: Inbox, threads: int, report: Callable[[Progressed], None]) -> None:
        """``report`` hears on the way how far a training is."""
        self._inbox = inbox
        self._report = report
        self._threads = threads
        self._recordings = Recordings()
        self._plans: dict[bytes, Plan] = {}

    def answer(self, job: Job | Warm) -> Answer:
        """Do a job; what is wrong with its plan, data or numbers becomes a ``Failure``."""
        try:
            return self._do(job)
        except Cancelled:
            return Done(key=job.key)
        except PlanError as error:
            return _failure(job.key, "plan", error)
        except (TrainingError, WireError) as error:  # a WireError: model or delta that the codec can't have
            return _failure(job.key, "training", error)
        except FedbeatError as error:
            return _failure(job.key, "data", error)
        except (RuntimeError, MemoryError) as error:  # torch's own: what the dry run can't see
            reason = str(error).partition("\n")[0] or "memory ran out"
            return _failure(job.key, "training", f"torch can't run the plan here: {reason}")

    def _do(self, job: Job | Warm) -> Answer:
        match job:
            case Describe():
                return self._describe(job)
            case Train():
                return self._train(job)
            case Evaluate():
                return self._evaluate(job)
            case Warm():
                self._import_torch()
                return Done(key=job.key)

    def _describe(self, job: Describe) -> Described:
        prepared = self._recordings.read(job.data, job.recipe)
        return Described(
            key=job.key,
            examples=len(prepared.train),
            held_out=len(prepared.held_out),
            class_counts=prepared.train.class_counts(),
            notes=prepared.notes,
            rejected=dict(prepared.rejected),
        )

    def _train(self, job: Train) -> Trained:
        plan = self._plan(job.plan)
        check(plan, job.settings.batch_size, LIMITS)
        data = fit(self._recordings.get(job.data, plan.data).train, plan)
        model = compression.decode(job.model, plan.manifest())
        self._import_torch()
        from edge.training import train  # noqa: PLC0415 - torch comes with it

        watch = Watch(job, data, self._inbox, self._report)
        training, rounding = np.random.default_rng(job.seed).spawn(2)
        started = time.perf_counter()
        try:
            done = train(model, data, plan, job.settings, training, watch, watch.resumed())
        except WireError as error:  # of the checkpoint, which costs no round
            log.warning("training starts over: %s", error.detail)
            training, rounding = np.random.default_rng(job.seed).spawn(2)
            done = train(model, data, plan, job.settings, training, watch)
        seconds = time.perf_counter() - started
        payload = compression.encode(job.codec, done.delta, rounding)
        return Trained(
            key=job.key,
            payload=payload,
            examples=done.examples,
            train_loss=done.metrics.loss,
            seconds=seconds,
            peak_mb=peak_mb(),
        )

    def _evaluate(self, job: Evaluate) -> Evaluated:
        plan = self._plan(job.plan)
        batch = _evaluation_batch(plan)
        data = fit(self._recordings.get(job.data, plan.data).held_out, plan)
        model = compression.decode(job.model, plan.manifest())
        self._import_torch()
        from edge.evaluation import evaluate  # noqa: PLC0415 - torch comes with it

        started = time.perf_counter()
        counts = evaluate(model, data, plan, batch, lambda: self._inbox.check(job.key))
        return Evaluated(key=job.key, counts=counts, seconds=time.perf_counter() - started, peak_mb=peak_mb())

    def _plan(self, payload: bytes) -> Plan:
        """The plan in ``payload``; the newest is kept, since a run has one."""
        if payload not in self._plans:
            self._plans = {payload: Plan.from_bytes(payload)}
        return self._plans[payload]

    def _import_torch(self) -> None:
        torch = importlib.import_module("torch")
        torch.set_num_threads(self._threads)
        importlib.import_module("edge.training")


class Watch:
    """Looks at a training as it goes: reports, takes checkpoints, and ends it where nobody wants it any more."""

    def __init__(self, job: Train, data: Dataset, inbox: Inbox, report: Callable[[Progressed], None]) -> None:
        self._job = job
        self._data = data
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
        return checkpoint.subject(job.plan, job.model, self._data, job.settings, job.seed)


def _evaluation_batch(plan: Plan) -> int:
    for batch in EVALUATION_BATCHES[:-1]:
        try:
            check(plan, batch, LIMITS)
        except PlanError:
            continue
        return batch
    check(plan, EVALUATION_BATCHES[-1], LIMITS)  # says what is wrong, where it is more than the size
    return EVALUATION_BATCHES[-1]


def _failure(key: str, kind: str, error: FedbeatError | str) -> Failure:
    return Failure.model_validate({"key": key, "kind": kind, "message": str(error)[:MAX_TEXT]})


def _size(prepared: Prepared) -> int:
    return sum(_bytes(part) for part in (prepared.train, prepared.held_out))


def _bytes(data: Dataset) -> int:
    return sum(array.nbytes for array in data.inputs) + data.labels.nbytes + data.owners.nbytes


def main(address: str, threads: int, nice: int) -> None:
    """Answer the jobs that come over the socket at ``address`` until it closes."""
    os.nice(nice)
    # Where the agent has been killed there is nobody to connect to or to answer, and nothing to say about it.
    with contextlib.suppress(ConnectionError), Client(address, "AF_UNIX") as connection:
        inbox = Inbox(connection)

        def send(answer: Answer) -> None:
            for frame in answer.frames():
                connection.send_bytes(frame)

        trainer = Trainer(inbox, threads, send)
        while True:
            send(trainer.answer(inbox.next()))


if __name__ == "__main__":
    logging.basicConfig(format="trainer: %(message)s")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
