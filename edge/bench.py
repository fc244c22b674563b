"""``edge bench``: what this machine can do for a federation, measured with the programs that would do it.

This process is the agent's, with what that imports and holds; training is the trainer child's, by the same jobs as in a
round. So the memory that is reported is that of a round. Arrays are made and codecs timed in a third process, which
nobody would have beside a device.
"""

from __future__ import annotations

import contextlib
import json
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from edge import files, health
from edge.bench_report import CodecSpeed, Disk, Prepared, Report, trained_on
from edge.config import EdgeSettings
from edge.core.jobs import Describe, Described, Failure, Job, Progressed, Result, Train, Trained
from edge.dataspec import DataSpec
from edge.start import check_training, needed
from edge.trainer.pool import TrainerPool
from schemas import SOFTWARE
from schemas.errors import DataError, FedbeatError, PlanError, SettingsError, StateError, TrainingError
from schemas.messages import TrainSettings

LIMIT_S: Final = 600.0  # for a job that should take seconds, on a slow card
WARM_STEPS: Final = 8  # batches whose time includes what PyTorch does only once
TRIES: Final = 3
MOST_STEPS: Final = 1_000_000
WRITES: Final = 20
WRITING_S: Final = 3.0  # after which a slow disk has shown what it is
KEPT: Final = 4096  # bytes of a write

_FAILURES: Final[dict[str, type[FedbeatError]]] = {"data": DataError, "plan": PlanError}
_ERRORS: Final = {kind.__name__: kind for kind in (DataError, PlanError, SettingsError, StateError, TrainingError)}


def bench(settings: EdgeSettings, plan: str, seconds: float, examples: int | None = None) -> Report:
    """Measure for about ``seconds`` of training, with a plan's name or file and the settings' recordings, if any.

    ``examples`` is how many a round is reckoned with; those that there are unless given. Raises any ``FedbeatError``.
    """
    check_training()
    began = time.perf_counter()
    data = needed(settings.data) if settings.data else ""
    place = _nearest(settings.state)
    before = health.read(place)
    pool = TrainerPool(idle_s=LIMIT_S, threads=settings.trainer_threads, nice=settings.trainer_nice)
    with tempfile.TemporaryDirectory(prefix="fedbeat-bench-") as scratch, pool:
        folder = Path(scratch)
        disk = _disk(place)
        prepared = Prepared.model_validate(_arrays("prepare", plan, scratch, data))
        spec = DataSpec.of(path=prepared.path, held_out=settings.held_out if data else "none")
        trainer = _Trainer(pool, folder, spec)
        found = trainer.describe(json.loads((folder / "plan").read_bytes())["data"]) if data else prepared.made_up
        start_s, trained, rate = trainer.train(prepared.train, found, seconds)
        (folder / "delta").write_bytes(trained.payload)
        codecs = TypeAdapter(tuple[CodecSpeed, ...]).validate_python(_arrays("codecs", scratch))
    return Report(
        software=SOFTWARE,
        plan=prepared.plan,
        parameters=prepared.parameters,
        data=data or f"{prepared.made_up} examples of noise in the plan's shapes; add --data for your recordings",
        examples=examples or found,
        train=prepared.train,
        threads=settings.trainer_threads,
        nice=settings.trainer_nice,
        trainer_start_s=start_s,
        examples_per_s=rate,
        codecs=codecs,
        disk=disk,
        agent_peak_mb=health.peak_mb(),
        trainer_peak_mb=trained.peak_mb,
        before=before,
        after=health.read(place),
        took_s=time.perf_counter() - began,
    )


class _Trainer:
    """The trainer child, one job at a time."""

    def __init__(self, pool: TrainerPool, folder: Path, data: DataSpec) -> None:
        self._pool = pool
        self._plan = (folder / "plan").read_bytes()
        self._model = (folder / "model").read_bytes()
        self._data = data

    def describe(self, recipe: str) -> int:
        """Read the recordings; examples to train on."""
        found = self._do(Describe(key="describe", data=self._data, recipe=recipe))
        assert isinstance(found, Described)
        if not found.examples:
            raise DataError(f"{self._data.path} has no example to train on: see `edge data show {self._data.path}`")
        return found.examples

    def train(self, settings: TrainSettings, examples: int, seconds: float) -> tuple[float, Trained, float]:
        """The seconds before a child's first batch, a training of about ``seconds``, and its examples a second."""
        began = time.perf_counter()
        warm = self._train("warm", settings, WARM_STEPS)
        start_s = time.perf_counter() - began - warm.seconds
        number, done = WARM_STEPS, warm
        for _ in range(TRIES):  # the first batches are slow, so that they promise too few
            wanted = int(number * seconds / max(done.seconds, 1e-6))
            number = min(max(wanted, WARM_STEPS), MOST_STEPS)
            done = self._train("train", settings, number)
            if done.seconds >= seconds / 2:
                break
        return start_s, done, trained_on(settings, examples, number) / done.seconds

    def _train(self, key: str, settings: TrainSettings, number: int) -> Trained:
        wanted = settings.model_copy(update={"local_steps": number, "epochs": 1})
        job = Train(
            key=key, plan=self._plan, model=self._model, data=self._data, settings=wanted, seed=0, codec="float32"
        )
        trained = self._do(job)
        assert isinstance(trained, Trained)
        return trained

    def _do(self, job: Job) -> Result:
        answers: queue.SimpleQueue[Result | Failure] = queue.SimpleQueue()

        def hear(answer: Progressed | Result | Failure) -> None:
            if not isinstance(answer, Progressed):
                answers.put(answer)

        self._pool.submit(job, hear)
        try:
            answer = answers.get(timeout=LIMIT_S)
        except queue.Empty:
            text = f"the trainer gave no answer in {LIMIT_S:.0f} s: is this machine short of memory?"
            raise TrainingError(text) from None
        if isinstance(answer, Failure):
            raise _FAILURES.get(answer.kind, TrainingError)(answer.message)
        return answer


def _arrays(*arguments: str) -> Any:
    """What the process with the arrays answers. Raises what it has raised."""
    command = [sys.executable, "-m", "edge.bench_arrays", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own module
    if done.returncode:
        raise TrainingError(f"the process that times the codecs ended with code {done.returncode}: is memory short?")
    answer = json.loads(done.stdout)
    if isinstance(answer, dict) and "error" in answer:
        raise _ERRORS.get(answer["error"], FedbeatError)(answer["text"])
    return answer


def _nearest(state: Path) -> Path:
    """The state directory, or the folder it would be made in. Raises ``StateError``."""
    try:
        return next(path for path in (state, *state.absolute().parents) if path.is_dir())
    except OSError as error:
        raise StateError(f"can't look into {state}: {error.strerror}; choose another with --state") from None


def _disk(place: Path) -> Disk:
    """Keep something in ``place``, as an update is kept where the state is. Raises ``StateError``."""
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".edge-bench-", dir=place))
    except OSError as error:
        raise StateError(
            f"can't write in {place}: {error.strerror}; choose another place with --state, or be the device's user"
        ) from None
    took: list[float] = []
    try:
        while len(took) < WRITES and sum(took) < WRITING_S:
            began = time.perf_counter()
            files.write(scratch / "kept", {"bench": len(took)}, bytes(KEPT), durable=True)
            took.append(time.perf_counter() - began)
    finally:
        for left in scratch.iterdir():
            left.unlink()
        with contextlib.suppress(OSError):
            scratch.rmdir()
    return Disk(
        directory=str(place),
        median_ms=round(1e3 * statistics.median(took), 3),
        worst_ms=round(1e3 * max(took), 3),
        times=len(took),
    )
