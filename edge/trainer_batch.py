"""A batch of trainings in a trainer child: they share plan, model and settings; each has its own data, seed and end."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from edge import feedback
from edge.dataset import Dataset
from edge.dataspec import DataSpec
from edge.dropout import Layout
from edge.jobs import Answer, Done, Train, Trained
from edge.plan_fit import fit
from edge.sources import Prepared
from edge.stacked_training import Stack, train_stacked, width
from edge.trainer_inbox import Batch, Inbox, Watch, explained
from edge.training import Trained as Outcome
from edge.training import Training, engine
from schemas.errors import WireError
from schemas.parameters import Manifest, Parameters
from schemas.plan import Plan
from schemas.plan_cost import Limits, check

log = logging.getLogger(__name__)


def train_batch(
    batch: Batch,
    read_plan: Callable[[bytes], Plan],
    read_model: Callable[[bytes, Manifest], Parameters],
    recordings: Callable[[DataSpec, str], Prepared],
    inbox: Inbox,
    report: Callable[[Answer], None],
) -> None:
    """Do all of it; ``report`` hears what becomes of each job, once, and before that how far it is."""
    about, settings = batch.about, batch.jobs[0].settings
    try:
        plan = read_plan(about.plan)
        check(plan, settings.batch_size, Limits())
        model = read_model(about.model, plan.manifest())
        stack = Stack(plan, settings.batch_size, about.accelerator)
        most = about.width or width(plan, settings.batch_size, about.accelerator)
    except Exception as error:  # noqa: BLE001 - what is no job's fault is raised again
        for job in batch.jobs:
            report(explained(job.key, error))
        return
    queue = _Queue(batch.jobs, plan, stack.layout, model, recordings, inbox, report, accelerator=about.accelerator)
    train_stacked(queue.begun(), stack, most, queue.done, queue.drop_cancelled)


class _Queue:
    """The jobs that wait and those in hand."""

    def __init__(
        self,
        jobs: tuple[Train, ...],
        plan: Plan,
        layout: Layout,
        model: Parameters,
        recordings: Callable[[DataSpec, str], Prepared],
        inbox: Inbox,
        report: Callable[[Answer], None],
        *,
        accelerator: str,
    ) -> None:
        self._waiting = deque(jobs)
        self._plan = plan
        self._layout = layout
        self._model = model
        self._recordings = recordings
        self._inbox = inbox
        self._report = report
        self._accelerator = accelerator
        self._in_hand: dict[Training, tuple[Train, np.random.Generator, float]] = {}  # with rounding, and since when

    def begun(self) -> Iterator[Training]:
        """The trainings of the jobs that can be begun, in order; the others are answered."""
        while self._waiting:
            job = self._waiting.popleft()
            try:
                yield self._begin(job)
            except Exception as error:  # noqa: BLE001 - likewise
                self._report(explained(job.key, error))

    def done(self, training: Training, outcome: Outcome | Exception) -> None:
        """Answer a job that was in hand."""
        job, rounding, since = self._in_hand.pop(training)
        if isinstance(outcome, Exception):
            self._report(explained(job.key, outcome))
            return
        seconds = time.perf_counter() - since
        try:
            encoded = feedback.encode(job.codec, outcome.delta, job.residual, rounding)
        except WireError as error:
            self._report(explained(job.key, error))
            return
        if encoded.trouble:
            log.warning("what the last update left out is lost: %s", encoded.trouble)
        trained = Trained(
            key=job.key,
            payload=encoded.payload,
            examples=outcome.examples,
            train_loss=outcome.metrics.loss,
            seconds=seconds,
            residual=encoded.residual,
        )
        self._report(trained)

    def drop_cancelled(self) -> None:
        """Answer the jobs that were cancelled while they waited."""
        for job in [job for job in self._waiting if self._inbox.cancelled(job.key)]:
            self._waiting.remove(job)
            self._report(Done(key=job.key))

    def _begin(self, job: Train) -> Training:
        data = fit(self._recordings(job.data, self._plan.data).train, self._plan)
        watch = Watch(job, self._model, data, engine(), self._inbox, self._report)
        since = time.perf_counter()
        try:
            training, rounding = self._start(job, data, watch, resuming=True)
        except WireError as error:  # of the checkpoint, which costs no round
            log.warning("training starts over: %s", error.detail)
            training, rounding = self._start(job, data, watch, resuming=False)
        self._in_hand[training] = job, rounding, since
        return training

    def _start(
        self, job: Train, data: Dataset, watch: Watch, *, resuming: bool
    ) -> tuple[Training, np.random.Generator]:
        order, rounding = np.random.default_rng(job.seed).spawn(2)
        resume = watch.resumed() if resuming else None
        about = self._model, data, self._plan, job.settings, order, self._layout
        training = Training(*about, watch, resume, accelerator=self._accelerator)
        return training, rounding
