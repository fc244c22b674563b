"""A batch of trainings in a trainer child: they share plan, model and settings; each has its own data, seed and end."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edge.core.jobs import Answer, Done, Train, Trained
from edge.dataset import Dataset
from edge.dataspec import DataSpec
from edge.sources import Prepared
from edge.trainer.inbox import Batch, Inbox, Watch, explained
from edge.training import feedback
from edge.training.dropout import Layout
from edge.training.loop import Tether, Training, engine
from edge.training.loop import Trained as Outcome
from edge.training.plan_fit import fit
from edge.training.stacked_training import Stack, train_stacked, width
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
    report: Callable[[Sequence[Answer]], None],
) -> None:
    """Do all of it; ``report`` hears what becomes of each job, once, and before that how far it is.

    It hears of several at a time: what there was to say since the step before.
    """
    about, settings = batch.about, batch.jobs[0].settings
    try:
        plan = read_plan(about.plan)
        check(plan, settings.batch_size, Limits())
        model = read_model(about.model, plan.manifest())
        stack = Stack(plan, settings.batch_size, about.accelerator)
        most = about.width or width(plan, settings.batch_size, about.accelerator)
    except Exception as error:  # noqa: BLE001 - what is no job's fault is raised again
        report([explained(job.key, error) for job in batch.jobs])
        return
    queue = _Queue(batch.jobs, plan, stack.layout, model, recordings, inbox, report, accelerator=about.accelerator)
    train_stacked(queue.begun(), stack, most, queue.done, queue.between_steps)
    queue.tell()


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
        report: Callable[[Sequence[Answer]], None],
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
        self._untold: list[Answer] = []
        self._accelerator = accelerator
        self._in_hand: dict[Training, tuple[Train, np.random.Generator, float]] = {}  # with rounding, and since when

    def begun(self) -> Iterator[Training]:
        """The trainings of the jobs that can be begun, in order; the others are answered."""
        while self._waiting:
            job = self._waiting.popleft()
            try:
                yield self._begin(job)
            except Exception as error:  # noqa: BLE001 - likewise
                self._untold.append(explained(job.key, error))

    def done(self, training: Training, outcome: Outcome | Exception) -> None:
        """Answer a job that was in hand."""
        job, rounding, since = self._in_hand.pop(training)
        if isinstance(outcome, Exception):
            self._untold.append(explained(job.key, outcome))
            return
        seconds = time.perf_counter() - since
        try:
            encoded = feedback.encode(job.codec, outcome.delta, job.residual, rounding)
        except WireError as error:
            self._untold.append(explained(job.key, error))
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
        self._untold.append(trained)

    def between_steps(self) -> None:
        """Answer the jobs that were cancelled while they waited, and tell all that there is to be told."""
        for job in [job for job in self._waiting if self._inbox.cancelled(job.key)]:
            self._waiting.remove(job)
            self._untold.append(Done(key=job.key))
        self.tell()

    def tell(self) -> None:
        """Report what hasn't been yet, all at once: for a stack's many answers calls and wake-ups cost most."""
        if self._untold:
            self._report(tuple(self._untold))
            self._untold.clear()

    def _begin(self, job: Train) -> Training:
        data = fit(self._recordings(job.data, self._plan.data).train, self._plan)
        begun = feedback.start(self._model, job.residual, feedback.AHEAD.get(job.codec, 0.0))
        watch = Watch(job, begun, data, engine(), self._inbox, self._untold.append)
        since = time.perf_counter()
        try:
            training, rounding = self._start(job, begun, data, watch, resuming=True)
        except WireError as error:  # of the checkpoint, which costs no round
            log.warning("training starts over: %s", error.detail)
            training, rounding = self._start(job, begun, data, watch, resuming=False)
        self._in_hand[training] = job, rounding, since
        return training

    def _start(
        self, job: Train, begun: Parameters, data: Dataset, watch: Watch, *, resuming: bool
    ) -> tuple[Training, np.random.Generator]:
        order, rounding = np.random.default_rng(job.seed).spawn(2)
        resume = watch.resumed() if resuming else None
        about = begun, data, self._plan, job.settings, order, self._layout
        tether = Tether(self._model)
        return Training(*about, watch, resume, accelerator=self._accelerator, tether=tether), rounding
