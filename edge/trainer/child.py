"""The trainer child: everything with arrays and torch happens here, away from the agent and from the network.

``python -m edge.trainer.child ADDRESS THREADS NICE`` connects to the agent's socket, answers its jobs one after the
other, and ends when the agent does, or hangs up. torch is imported by the first job that needs it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge import model_file, sources
from edge.core.jobs import (
    Answer,
    Describe,
    Described,
    Done,
    Evaluate,
    Evaluated,
    Job,
    Merge,
    Merged,
    Personalise,
    Personalised,
    Progressed,
    Train,
    Trained,
    Warm,
)
from edge.dataset import Dataset
from edge.dataspec import DataSpec
from edge.footprint import footprint
from edge.health import peak_mb
from edge.model_reader import ModelReader
from edge.sources import Prepared
from edge.sources.source import Form, Reading, Source
from edge.trainer.frames import Frames
from edge.trainer.inbox import Batch, Inbox, Watch, explained
from edge.training import feedback
from edge.training.plan_fit import fit
from schemas import compression
from schemas.errors import PlanError, StateError, WireError
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.plan_cost import Limits, check

MAX_CACHED = 512 * 2**20  # bytes of prepared recordings kept between jobs
EVALUATION_BATCHES = (256, 64, 16, 4, 1)  # the largest that fits in memory is used

log = logging.getLogger(__name__)


class Recordings:
    """Prepared recordings, the most recently used up to ``MAX_CACHED`` bytes, until their files change.

    What the devices of a virtual fleet share out among them is read once, not once for each.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, DataSpec], tuple[str, Prepared]] = OrderedDict()  # with the footprint
        self._shared: tuple[tuple[str, str, str, tuple[str, ...]], Reading] | None = (
            None  # the newest, by what it is of
        )

    def read(self, spec: DataSpec, recipe: str) -> Prepared:
        """The recordings of one device as they are now. Raises ``DataError``."""
        key, now = (recipe, spec), footprint(spec.path)
        self._kept.pop(key, None)
        read = functools.partial(self._read_shared, spec.path, now, recipe) if spec.devices > 1 else sources.read
        prepared = sources.prepare(spec, recipe, read)
        self._kept[key] = now, prepared
        while len(self._kept) > 1 and sum(_size(kept) for _, kept in self._kept.values()) > MAX_CACHED:
            self._kept.popitem(last=False)
        return prepared

    def get(self, spec: DataSpec, recipe: str, look: Callable[[str], str] = footprint) -> Prepared:
        """The recordings of one device, read again where their files have changed. Raises ``DataError``."""
        key = recipe, spec
        if key not in self._kept or self._kept[key][0] != look(spec.path):
            return self.read(spec, recipe)
        self._kept.move_to_end(key)
        return self._kept[key][1]

    def get_at_once(self) -> Callable[[DataSpec, str], Prepared]:
        """``get`` for many devices at one time: of each path the disk is asked once whether its files have changed."""
        look = functools.cache(footprint)
        return lambda spec, recipe: self.get(spec, recipe, look)

    def _read_shared(
        self, path: str, now: str, recipe: str, source: Source, owners: Sequence[str], form: Form
    ) -> Reading:
        about = path, now, recipe, tuple(owners)
        if self._shared is None or self._shared[0] != about:
            self._shared = about, sources.read(source, owners, form)
        return self._shared[1]


class Trainer:
    """Does jobs, one at a time; ``inbox`` says when a job's result is no longer wanted."""

    def __init__(self, inbox: Inbox, threads: int, report: Callable[[Sequence[Answer]], None]) -> None:
        """``report`` hears on the way how far a training is, and what becomes of a batch's."""
        self._inbox = inbox
        self._report = report
        self._threads = threads
        self._recordings = Recordings()
        self._plans: dict[bytes, Plan] = {}
        self._models = ModelReader()

    def answer(self, job: Job | Warm) -> Answer:
        """Do a job; what is wrong with its plan, data or numbers becomes a ``Failure``."""
        try:
            return self._do(job)
        except Exception as error:  # noqa: BLE001 - what is no job's fault is raised again
            return explained(job.key, error)
        finally:
            self._inbox.forget(job.key)

    def answer_together(self, batch: Batch) -> None:
        """Do a batch of trainings at once; ``report`` hears each one's answer. One fails, or is cancelled, alone."""
        self._import_torch()
        from edge.trainer.batch import train_batch  # noqa: PLC0415 - torch comes with it

        def hear(answers: Sequence[Answer]) -> None:
            for answer in answers:
                if not isinstance(answer, Progressed):
                    self._inbox.forget(answer.key)
            self._report(answers)

        train_batch(batch, self._plan, self._models.read, self._recordings.get_at_once(), self._inbox, hear)

    def _do(self, job: Job | Warm) -> Answer:
        match job:
            case Describe():
                return self._describe(job)
            case Train():
                return self._train(job)
            case Evaluate():
                return self._evaluate(job)
            case Personalise():
                return self._personalise(job)
            case Merge():
                plan = self._plan(job.plan)
                check(plan, 1, Limits())  # a few kB can claim to be a model of any size
                model = self._models.read(job.model, plan.manifest())
                return Merged(key=job.key, model=compression.encode("float32", model, np.random.default_rng(0)))
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
        check(plan, job.settings.batch_size, Limits())
        data = fit(self._recordings.get(job.data, plan.data).train, plan)
        model = self._models.read(job.model, plan.manifest())
        self._import_torch()
        from edge.training.loop import Tether, engine, train  # noqa: PLC0415 - torch comes with it

        model, mine = _with_own_layers(job, model, plan)
        begun = feedback.start(model, job.residual, feedback.AHEAD.get(job.codec, 0.0), mine)
        tether = Tether(model, None if mine is None else ~mine)
        about = engine() if mine is None else f"{engine()}, local: {', '.join(job.local)}"
        watch = Watch(job, begun, data, about, self._inbox, lambda told: self._report((told,)))
        training, rounding = np.random.default_rng(job.seed).spawn(2)
        started = time.perf_counter()
        try:
            done = train(begun, data, plan, job.settings, training, watch, watch.resumed(), tether)
        except WireError as error:  # of the checkpoint, which costs no round
            log.warning("training starts over: %s", error.detail)
            training, rounding = np.random.default_rng(job.seed).spawn(2)
            done = train(begun, data, plan, job.settings, training, watch, tether=tether)
        seconds = time.perf_counter() - started
        encoded = feedback.encode(job.codec, done.delta, job.residual, rounding, mine)
        if encoded.trouble:
            log.warning("what the last update left out is lost: %s", encoded.trouble)
        return Trained(
            key=job.key,
            payload=encoded.payload,
            examples=done.examples,
            train_loss=done.metrics.loss,
            seconds=seconds,
            peak_mb=peak_mb(),
            residual=encoded.residual,
        )

    def _evaluate(self, job: Evaluate) -> Evaluated:
        plan = self._plan(job.plan)
        batch = _evaluation_batch(plan)
        data = fit(self._recordings.get(job.data, plan.data).held_out, plan)
        model = self._models.read(job.model, plan.manifest())
        self._import_torch()
        from edge.training.evaluation import evaluate  # noqa: PLC0415 - torch comes with it

        model, _ = _with_own_layers(job, model, plan)
        started = time.perf_counter()
        counts = evaluate(model, data, plan, batch, lambda: self._inbox.check(job.key))
        return Evaluated(key=job.key, counts=counts, seconds=time.perf_counter() - started, peak_mb=peak_mb())

    def _personalise(self, job: Personalise) -> Personalised:
        plan = self._plan(job.plan)
        check(plan, job.settings.batch_size, Limits())
        batch = _evaluation_batch(plan)
        data = fit(self._recordings.get(job.data, plan.data).train, plan)
        model = self._models.read(job.model, plan.manifest())
        self._import_torch()
        from edge.training.personal import personalise  # noqa: PLC0415 - torch comes with it

        started = time.perf_counter()
        made = personalise(
            model,
            data,
            plan,
            job.settings,
            job.how,
            np.random.default_rng(job.seed),
            on_batch=lambda: self._inbox.check(job.key),
            batch=batch,
        )
        return Personalised(
            key=job.key,
            model=model_file.own_to_bytes(model_file.Own(made.model, made.neighbours)),
            verdict=made.verdict,
            seconds=time.perf_counter() - started,
            peak_mb=peak_mb(),
        )

    def _plan(self, payload: bytes) -> Plan:
        """The plan in ``payload``; the newest is kept, since a run has one."""
        if payload not in self._plans:
            self._plans = {payload: Plan.from_bytes(payload)}
        return self._plans[payload]

    def _import_torch(self) -> None:
        torch = importlib.import_module("torch")
        torch.set_num_threads(self._threads)
        importlib.import_module("edge.training.loop")


def _own(raw: bytes, plan: Plan) -> Parameters | None:
    """The personal model; one that can't be read is as good as none."""
    if not raw:
        return None
    try:
        return model_file.own_from_bytes(raw, plan).parameters
    except (PlanError, StateError) as error:
        log.warning("the device's own layers are left out: %s", error)
        return None


def _with_own_layers(
    job: Train | Evaluate, model: Parameters, plan: Plan
) -> tuple[Parameters, NDArray[np.bool_] | None]:
    """The global model with the device's own layers in it, and which values (P,) those are; None where it has none.

    Raises ``PlanError`` where the plan has no such layer.
    """
    if not job.local:
        return model, None
    from edge.training.personal import beside, local  # noqa: PLC0415 - torch comes with it

    mine, own = local(model.manifest, job.local), _own(job.own, plan)
    return (model if own is None else beside(model, own, mine)), mine


def _evaluation_batch(plan: Plan) -> int:
    for batch in EVALUATION_BATCHES[:-1]:
        try:
            check(plan, batch, Limits())
        except PlanError:
            continue
        return batch
    check(plan, EVALUATION_BATCHES[-1], Limits())  # says what is wrong, where it is more than the size
    return EVALUATION_BATCHES[-1]


def _size(prepared: Prepared) -> int:
    return sum(_bytes(part) for part in (prepared.train, prepared.held_out))


def _bytes(data: Dataset) -> int:
    looks = 0 if data.looks is None else data.looks.nbytes
    return sum(array.nbytes for array in data.inputs) + data.labels.nbytes + data.owners.nbytes + looks


def main(address: str, threads: int, nice: int) -> None:
    """Answer the jobs that come over the socket at ``address`` until it closes."""
    os.nice(nice)
    # Where the agent has been killed there is nobody to connect to or to answer, and nothing to say about it.
    with contextlib.suppress(ConnectionError), Frames.connect(address) as agent:
        inbox = Inbox(agent)

        def send(answers: Sequence[Answer]) -> None:
            agent.send(*(frame for answer in answers for frame in answer.frames()))

        trainer = Trainer(inbox, threads, send)
        while True:
            job = inbox.next()
            if isinstance(job, Batch):
                trainer.answer_together(job)
            else:
                send((trainer.answer(job),))


if __name__ == "__main__":
    logging.basicConfig(format="trainer: %(message)s")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
