"""What the tests of a device share: messages as a coordinator sends them, and a trainer that answers at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from edge.core.jobs import (
    Describe,
    Described,
    Evaluated,
    Failure,
    Job,
    Personalise,
    Personalised,
    Progressed,
    Result,
    Train,
    Trained,
)
from edge.core.personal_settings import Verdict
from schemas import parts
from schemas.messages import (
    BlobRef,
    CoordinatorState,
    CoordinatorStatus,
    Counts,
    ModelPointer,
    Outcome,
    Phase,
    PlanRef,
    Receipt,
    RoundAnnouncement,
    RunSettings,
    Task,
)

RUN = "run-one"
DEVICE = "dev-one"
PLAN = json.dumps({"data": "watch", "name": "tiny"}).encode()
PLAN_REF = parts.describe(PLAN, 1024)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def nonce(number: int) -> str:
    return f"{number:016x}"


def coordinator(
    session: int = 1, state: CoordinatorState = CoordinatorState.RUNNING, heartbeat_s: float = 30.0
) -> CoordinatorStatus:
    return CoordinatorStatus(state=state, session=session, heartbeat_s=heartbeat_s)


def run(
    name: str = RUN, *, plan: BlobRef = PLAN_REF, part_size: int = 1024, seed: int = 7, max_staleness: int | None = None
) -> RunSettings:
    return RunSettings(
        run=name,
        rounds=3,
        plan=PlanRef(name="tiny", blob=plan),
        part_size=part_size,
        seed=seed,
        codec="int8",
        max_staleness=max_staleness,
    )


def model_blob(version: int, run: str = RUN, size: int = 3000) -> bytes:
    return hashlib.shake_256(f"{run}/{version}".encode()).digest(size)


def pointer(version: int, run: str = RUN, size: int = 3000) -> ModelPointer:
    blob = parts.describe(model_blob(version, run, size), 1024)
    return ModelPointer(run=run, version=version, digest=digest(f"{run}/{version}"), previous=None, blob=blob)


def announcement(
    number: int,
    *,
    run: str = RUN,
    task: Task = "train",
    phase: Phase = Phase.COLLECTING,
    attempt: int = 0,
    tag: int | None = None,
    version: int | None = None,
    remaining_s: float = 60.0,
    cohort: float = 1.0,
) -> RoundAnnouncement:
    if version is None:
        version = number - 1 if task == "train" else number
    return RoundAnnouncement(
        run=run,
        round=number,
        task=task,
        phase=phase,
        attempt=attempt,
        nonce=nonce(number * 10 + attempt + (5 if task == "evaluate" else 0) if tag is None else tag),
        model_version=version,
        model_digest=digest(f"{run}/{version}"),
        opened="2026-01-01T00:00:00Z",
        deadline_s=60.0,
        remaining_s=remaining_s,
        cohort=cohort,
        goal=1,
        quorum=1,
    )


def receipt(
    about: RoundAnnouncement,
    outcome: Outcome = Outcome.ACCEPTED,
    *,
    device: str = DEVICE,
    missing: tuple[int, ...] = (),
    reason: str = "",
    come_back_after_s: float = 0.0,
) -> Receipt:
    return Receipt(
        run=about.run,
        round=about.round,
        task=about.task,
        nonce=about.nonce,
        device=device,
        outcome=outcome,
        missing=missing,
        reason=reason,
        come_back_after_s=come_back_after_s,
    )


def described(key: str, examples: int = 100, held_out: int = 0) -> Described:
    return Described(key=key, examples=examples, held_out=held_out, class_counts={"one": examples})


def trained(key: str, payload: bytes = b"delta", residual: bytes = b"") -> Trained:
    return Trained(key=key, payload=payload, examples=100, train_loss=0.5, seconds=0.1, residual=residual)


def personalised(key: str, model: bytes = b"own", personal_loss: float = 0.25) -> Personalised:
    about = {"personal_loss": personal_loss, "global_loss": 0.5, "personal_f1": 0.75, "global_f1": 0.5}
    verdict = Verdict.model_validate({"examples": 100, **about})
    return Personalised(key=key, model=model, verdict=verdict, seconds=1.0)


def evaluated(key: str) -> Evaluated:
    return Evaluated(key=key, counts=Counts(examples=3, loss_sum=1.5, confusion=((1, 1), (0, 1))), seconds=0.1)


@dataclass(slots=True)
class InstantTrainer:
    """A trainer that needs no time: the payload follows from the job, so that a repeated job gives the same bytes."""

    examples: int = 100
    held_out: int = 0
    hold: bool = False  # keep the jobs, to be answered with ``release``
    payload: Callable[[Train], bytes] = lambda job: f"{job.seed}".encode() + job.model
    residual: Callable[[Train], bytes] = lambda _job: b""
    jobs: list[Job] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    suspended: list[str] = field(default_factory=list)
    warmed: int = 0
    held: list[tuple[Job, Callable[[Result | Failure], None]]] = field(default_factory=list)

    def submit(self, job: Job, on_result: Callable[[Result | Failure], None]) -> None:
        self.jobs.append(job)
        if self.hold and not isinstance(job, Describe):
            self.held.append((job, on_result))
        else:
            on_result(self.answer(job))

    def cancel(self, key: str) -> None:
        self.cancelled.append(key)
        self.held = [one for one in self.held if one[0].key != key]

    def suspend(self, key: str) -> Progressed | None:
        self.suspended.append(key)
        self.cancel(key)
        return None

    def warm(self) -> None:
        self.warmed += 1

    def release(self) -> None:
        held, self.held = self.held, []
        for job, on_result in held:
            on_result(self.answer(job))

    def answer(self, job: Job) -> Result | Failure:
        if isinstance(job, Describe):
            evaluator = job.data.index < 0
            return described(job.key, 0 if evaluator else self.examples, 50 if evaluator else self.held_out)
        if isinstance(job, Train):
            return trained(job.key, self.payload(job), self.residual(job))
        if isinstance(job, Personalise):
            return personalised(job.key, b"own model of " + job.model[:8])
        return evaluated(job.key)

    def trainings(self) -> list[Train]:
        return [job for job in self.jobs if isinstance(job, Train)]
