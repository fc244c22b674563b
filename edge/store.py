"""What a device keeps beside its outbox, one file each. Only the session number and the budget cost an fsync.

The newest model is a snapshot and the steps that lead on from it: each follows the one before by number and digest,
and what doesn't is as good as not there. Models and plan can be fetched again, a training begun again, the pace learned
again: a torn file is found by its digest. So a damaged file is set aside with a message, and the device carries on
without what it held.

What was moved of the budget can't be learned again, and a torn file would give back a day's. So there are two: one
that waits for the disk, by the tenth of the budget and the hour, and one for what was moved since, which doesn't.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import Field, ValidationError

from edge import files, whole
from edge.core.budget import HOURS, Budget
from edge.core.jobs import Key
from edge.core.lineage import MOST, Lineage
from edge.core.pace import REMEMBERED, Pace, UploadTimes
from edge.core.participation_state import Kept
from edge.core.personal_settings import Origin
from schemas.errors import StateError
from schemas.messages import Count, Digest, Message, ModelPointer, Name, Seconds

M = TypeVar("M", bound=Message)
PERSONAL: Final = "personal"  # the file of the model that is the owner's own
_PLAN = "plan"
_MODEL = "model"
_STEP = "step-"
_SYNCED: Final = 0.1  # of the budget that a power cut may give back
_log = logging.getLogger(__name__)


class _Session(Message):
    session: Annotated[int, Field(ge=0, lt=2**53)]  # so that the next one still fits a message


@dataclass(frozen=True, slots=True)
class Held:
    """The newest model on disk: which it is, and what leads to it."""

    pointer: ModelPointer
    lineage: Lineage


class _PlanHeader(Message):
    digest: Digest
    run: Name  # whose plan it is: with the model of another run it says nothing


class _CheckpointHeader(Message):
    key: Key  # of the job
    plan: Digest
    model: Digest
    fraction: Annotated[float, Field(ge=0, le=1)]


_UploadSeconds = Annotated[tuple[Seconds, ...], Field(min_length=1, max_length=2)]


class _PaceHeader(Message):
    seconds: Annotated[tuple[tuple[Digest, Seconds], ...], Field(max_length=REMEMBERED)]
    uploads: Annotated[tuple[tuple[Digest, _UploadSeconds, Count], ...], Field(max_length=REMEMBERED)] = ()


class _AgeHeader(Message):
    running_s: Annotated[float, Field(ge=0)]


class _BudgetHeader(Message):
    running_s: Annotated[float, Field(ge=0)]
    hours: Annotated[tuple[tuple[Count, Count], ...], Field(max_length=HOURS + 1)]


class _LinkHeader(Message):
    speed: Annotated[float, Field(gt=0)]


@contextmanager
def claim(
    directory: Path, wall_clock: Callable[[], float] = time.time, report: Callable[[str], None] = _log.warning
) -> Iterator[int]:
    """Take ``directory`` for this process alone, and give the session number of this start.

    It is above every earlier one, also where the clock has jumped back or, the clock being right, the directory was
    lost. Where the disk is full that number can't be kept: ``report`` hears of it, and the device works on, so that its
    status shows the trouble to whoever looks. Raises ``StateError`` where another process has the directory, or where
    nothing can be made there.
    """
    files.make_directory(directory)
    path = directory / "lock"
    if path.is_dir():
        report(files.set_aside(path))
    with ExitStack() as stack:
        try:
            ours = stack.enter_context(whole.alone(path))
        except OSError as error:
            raise StateError(f"can't open {path}: {error.strerror}; see to its permissions and to the disk") from None
        if not ours:
            raise StateError(f"another process works in {directory}: stop it, or choose another with --state")
        files.sweep(directory)
        session = _next_session(directory / "session", wall_clock, report)
        yield session


def _next_session(path: Path, wall_clock: Callable[[], float], report: Callable[[str], None]) -> int:
    found = _read(path, _Session, report)
    before = found[0].session if found else 0
    session = max(before + 1, int(wall_clock()))
    try:
        files.write(path, {"session": session}, durable=True)
    except StateError as error:
        report(f"{error}; going on with a session number that isn't kept")
    return session


class Store:
    """The plan, the newest model, a training's checkpoint, the pace and the age of one device. Used from one thread."""

    def __init__(self, directory: Path, report: Callable[[str], None], *, durable: bool = True) -> None:
        """Use ``directory``, made if need be; ``report`` hears of damaged files. Raises ``StateError``.

        Not ``durable``, what was moved of the budget waits for no disk, for virtual devices without number.
        """
        files.make_directory(directory)
        files.sweep(directory)
        self._plan = directory / _PLAN
        self._directory = directory
        self._model = directory / _MODEL
        self._checkpoint = directory / "checkpoint"
        self._pace = directory / "pace"
        self._age = directory / "age"
        self._budget = directory / "budget"
        self._moved = directory / "budget-since"
        self._durable = durable
        self._synced: Budget | None = None  # what of it would outlast a power cut, as far as is known
        self._link = directory / "link"
        self._personal = directory / PERSONAL
        self._report = report

    def plan(self, digest: str) -> bytes | None:
        """The plan whose blob has this digest, if it is here."""
        found = _read(self._plan, _PlanHeader, self._report)
        return found[1] if found is not None and found[0].digest == digest else None

    def keep_plan(self, digest: str, blob: bytes, run: str) -> None:
        """Keep the plan of ``run``, whose SHA-256 this is, instead of the one there is. Raises ``StateError``."""
        header = _PlanHeader(digest=digest, run=run)
        if _glance(self._plan, _PlanHeader) != (header, blob):
            files.write(self._plan, header.model_dump(mode="json"), blob, durable=False, digest=digest)

    def model(self) -> Held | None:
        """The newest model there is."""
        return _held(self._directory, lambda path: _read(path, ModelPointer, self._report))

    def keep_model(self, pointer: ModelPointer, blob: bytes) -> None:
        """Keep a model that was fetched instead of the one there is. Raises ``StateError``, and then keeps that one."""
        files.write(self._model, pointer.model_dump(mode="json"), blob, durable=False, digest=pointer.blob.digest)
        self._drop_steps()

    def keep_step(self, pointer: ModelPointer, step: bytes) -> None:
        """Keep the step to the model ``pointer`` names beside the one there is. Raises ``StateError``."""
        digest = None if pointer.step is None else pointer.step.digest
        path = self._step(pointer.version)
        files.write(path, pointer.model_dump(mode="json"), step, durable=False, digest=digest)

    def keep_merged(self, pointer: ModelPointer, blob: bytes) -> None:
        """Keep a model that was made of the one there is and the steps up to it.

        Raises ``StateError``, and then keeps those.
        """
        files.write(self._model, pointer.model_dump(mode="json"), blob, durable=False)
        self._drop_steps(pointer.version)

    def drop_model(self) -> None:
        """Forget the model and its steps. Raises ``StateError``."""
        files.remove(self._model)
        self._drop_steps()

    def _step(self, version: int) -> Path:
        return _step(self._directory, version)

    def _drop_steps(self, last: int | None = None) -> None:
        """Those up to version ``last``, or all. One that can't be removed follows nothing, and does no harm."""
        for path in self._directory.glob(f"{_STEP}*"):
            version = path.name.removeprefix(_STEP)
            if version.isdecimal() and (last is None or int(version) <= last):
                try:
                    files.remove(path)
                except StateError as error:
                    self._report(str(error))

    def kept(self) -> Kept | None:
        """Which training can go on, and from where."""
        found = _read(self._checkpoint, _CheckpointHeader, self._report)
        return None if found is None else Kept(found[0].key, found[0].fraction)

    def checkpoint(self, key: str, plan: str, model: str) -> bytes:
        """What the training of this job goes on from; empty where it starts from the model."""
        found = _read(self._checkpoint, _CheckpointHeader, self._report)
        if found is None or (found[0].key, found[0].plan, found[0].model) != (key, plan, model):
            return b""
        return found[1]

    def keep_checkpoint(self, kept: Kept, plan: str, model: str, checkpoint: bytes) -> None:
        """Keep a checkpoint instead of the one there is. Raises ``StateError``, and then keeps that one."""
        header = _CheckpointHeader(key=kept.key, plan=plan, model=model, fraction=kept.fraction)
        files.write(self._checkpoint, header.model_dump(mode="json"), checkpoint, durable=False)

    def drop_checkpoint(self) -> None:
        """Nothing goes on from it. Raises ``StateError``."""
        files.remove(self._checkpoint)

    def personal(self) -> tuple[Origin, bytes] | None:
        """The model the device is to use, and what it is made of."""
        return _read(self._personal, Origin, self._report)

    def keep_personal(self, origin: Origin, model: bytes) -> None:
        """Keep the model the device is to use; nobody else may read it. Raises ``StateError``, keeping what was."""
        files.write(self._personal, origin.model_dump(mode="json"), model, durable=False)

    def pace(self) -> Pace:
        """How long training and uploads take, as far as is known."""
        found = _read(self._pace, _PaceHeader, self._report)
        if found is None:
            return Pace()
        return Pace(found[0].seconds, tuple(UploadTimes(*one) for one in found[0].uploads))

    def keep_pace(self, pace: Pace) -> None:
        """Keep how long training and uploads take. Raises ``StateError``, and then keeps what it knew."""
        uploads = [(one.about, one.seconds, one.kept_out) for one in pace.uploads]
        files.write(self._pace, {"seconds": pace.seconds, "uploads": uploads}, durable=False)

    def running_s(self) -> float:
        """For how long the device has been running, over all its starts, as it was last kept."""
        age, budget = _read(self._age, _AgeHeader, self._report), self._newest_budget()
        return max(0.0 if age is None else age[0].running_s, 0.0 if budget is None else budget.running_s)

    def keep_running_s(self, seconds: float) -> None:
        """Keep for how long it has been running. Raises ``StateError``, and then keeps what it knew."""
        files.write(self._age, {"running_s": seconds}, durable=False)

    def budget(self, limit: int) -> Budget:
        """What was moved of a budget of so many bytes a day."""
        found = self._newest_budget()
        return Budget(limit, () if found is None else found.hours)

    def keep_budget(self, budget: Budget, running_s: float) -> None:
        """Keep what was moved. Raises ``StateError``, and then keeps what it knew."""
        header = {"running_s": running_s, "hours": budget.hours}
        if self._durable and _outgrown(self._synced, budget):
            files.write(self._budget, header, durable=True)
            self._synced = budget
        else:
            files.write(self._moved, header, durable=False)

    def _newest_budget(self) -> _BudgetHeader | None:
        found = [_read(path, _BudgetHeader, self._report) for path in (self._budget, self._moved)]
        return max((one[0] for one in found if one is not None), key=_when, default=None)

    def speed(self) -> float | None:
        """How fast the link was, in bytes a second up, as far as is known."""
        found = _read(self._link, _LinkHeader, self._report)
        return None if found is None else found[0].speed

    def keep_speed(self, speed: float) -> None:
        """Keep how fast the link is. Raises ``StateError``, and then keeps what it knew."""
        files.write(self._link, {"speed": speed}, durable=False)


def _outgrown(synced: Budget | None, budget: Budget) -> bool:
    """Whether more was moved since ``synced`` than a power cut may give back."""
    if synced is None:
        return True
    (then, before), (hour, moved) = (each.hours[-1] if each.hours else (0, 0) for each in (synced, budget))
    return hour != then or moved - before >= _SYNCED * budget.limit


def _when(kept: _BudgetHeader) -> tuple[float, int]:
    return kept.running_s, sum(moved for _, moved in kept.hours)


def look(directory: Path) -> tuple[Held, bytes] | None:
    """The newest model in a device's ``directory`` and its plan's bytes, for a process beside the one that claimed it.

    Nothing is changed there. None where there is none, or while one run's take the place of another's.
    """
    held = _held(directory, lambda path: _glance(path, ModelPointer))
    plan = _glance(directory / _PLAN, _PlanHeader)
    return None if held is None or plan is None or held.pointer.run != plan[0].run else (held, plan[1])


def look_own(directory: Path, pointer: ModelPointer) -> tuple[Origin, bytes] | None:
    """The model that is the owner's own and is made of this global one, where it is the better one; else None.

    Raises ``StateError`` where it is damaged.
    """
    path = directory / PERSONAL
    record = files.read(path)
    if record is None:
        return None
    try:
        origin = Origin.model_validate(record.header)
    except ValidationError:
        raise files.Damaged(f"{path} is damaged") from None
    fitting = (origin.run, origin.model) == (pointer.run, pointer.digest)
    return (origin, record.payload) if fitting and origin.verdict.personal else None


def _held(directory: Path, read: Callable[[Path], tuple[ModelPointer, bytes] | None]) -> Held | None:
    """The newest model: a snapshot, and the steps that lead on from it."""
    found = read(directory / _MODEL)
    if found is None:
        return None
    pointer, snapshot = found
    steps: list[tuple[str, bytes]] = []
    while len(steps) < MOST:
        step = read(_step(directory, pointer.version + 1))
        if step is None or (step[0].run, step[0].previous) != (pointer.run, pointer.digest):
            break
        pointer = step[0]
        steps.append((pointer.digest, step[1]))
    return Held(pointer, Lineage(snapshot, tuple(steps)))


def _step(directory: Path, version: int) -> Path:
    return directory / f"{_STEP}{version}"


def _glance(path: Path, kind: type[M]) -> tuple[M, bytes] | None:
    """What a whole file of this kind holds."""
    try:
        record = files.read(path)
        return None if record is None else (kind.model_validate(record.header), record.payload)
    except (StateError, ValidationError):
        return None


def _read(path: Path, kind: type[M], report: Callable[[str], None]) -> tuple[M, bytes] | None:
    """What a file holds. One that isn't whole, or isn't of this kind, is set aside; ``report`` hears of any fault."""
    try:
        record = files.read(path)
        return None if record is None else (kind.model_validate(record.header), record.payload)
    except (files.Damaged, ValidationError):
        report(files.set_aside(path))
    except StateError as error:
        report(str(error))
    return None
