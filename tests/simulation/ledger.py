"""What the journal must hold: each commit is compared with all that was ever committed, published and receipted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import safetensors.numpy

from schemas import codec, compression
from schemas.messages import RunSettings
from tests.simulation.arithmetic import Arithmetic, Flat
from tests.simulation.disk import Journal
from tests.simulation.scenario import Scenario

COLLECTING: Final = "collecting"
KEPT_MODELS: Final = 9  # files, at most: 4, those since the last tidying, and the one that is written
GRACE_S: Final = 5.0  # which devices always have after a restart of the coordinator
INVARIANTS: Final = 15  # of docs/reliability.md
_OPEN_AND_NEW: Final = 3  # rows that a single commit may have changed


class Violation(Exception):
    """Something doesn't hold that always does: an invariant, or a MUST of the protocol above their numbers."""

    def __init__(self, number: int, text: str) -> None:
        what = "must" if number > INVARIANTS else "invariant"
        super().__init__(f"{what} {number}: {text}" if number else f"liveness: {text}")
        self.number = number


Key = tuple[str, int]  # of an update among those of one attempt: its device, and the round that it answers


@dataclass(eq=False)
class Attempt:
    """One row of the journal's rounds."""

    round: int
    task: str
    attempt: int
    model_version: int
    model_digest: str
    phase: str = COLLECTING
    updates: dict[Key, str] = field(default_factory=dict)  # digests of what counts in it, as long as it is open
    receipts: set[Key] = field(default_factory=set)  # of updates whose devices were told that they are accepted


class Ledger:
    """One run's."""

    def __init__(self, scenario: Scenario, settings: RunSettings) -> None:
        self.chain: list[str] = []  # digests by version
        self.attempts: dict[str, Attempt] = {}  # by nonce
        self.closed = 0
        self.early: set[tuple[str, str]] = set()  # device and digest of updates acknowledged when they were not on disk
        self._scenario = scenario
        self._settings = settings
        self._arithmetic = Arithmetic(settings, scenario.model().flat)
        self._kept: set[tuple[str, str]] = set()  # devices and digests of all updates that were ever on disk
        self._counting: set[tuple[str, str]] = set()  # but those of abandoned attempts
        self._counted_in: dict[tuple[str, str], str] = {}  # nonces by the nonce that an update answers, and its device
        self.left: dict[str, float] = {}  # seconds of an open attempt that were left when the coordinator last waited
        self._resumes: str | None = None
        self._fresh = False  # whether a restart is over, and no attempt was opened after it
        self._can_evaluate = False
        self._left: float | None = None  # of it, before the restart

    @property
    def newest(self) -> tuple[int, str]:
        """The newest committed version and its digest."""
        return len(self.chain) - 1, self.chain[-1]

    def keeps(self, device: str, digest: str) -> bool:
        """Whether an update has ever been on disk."""
        return (device, digest) in self._kept

    # -- commits -------------------------------------------------------------------------------------------------------

    def read(self, journal: Journal, *, can_evaluate: bool) -> Iterator[str]:
        """See what a commit has changed, in lines for the trace; a coordinator that ``can_evaluate`` has made it."""
        self._can_evaluate = can_evaluate
        before = len(self.chain)
        self._read_models(journal, before - 1)
        for row in reversed(_rounds(journal, _OPEN_AND_NEW)):
            yield from self._read_round(journal, row)
        if len(self.chain) > before and before and not self._committed_as(before):
            raise Violation(3, f"version {before} is committed, and its round is not")

    def audit(self, journal: Journal) -> None:
        """All of a journal that was opened again: what was ever committed is there, and nothing else is."""
        chain = [digest for (digest,) in journal.ask("SELECT digest FROM models ORDER BY version")]
        if chain != self.chain:
            raise Violation(5, f"{len(self.chain)} versions were committed, and the journal opens with {len(chain)}")
        found = {row[0]: row[4] for row in _rounds(journal, -1)}
        known = {nonce: attempt.phase for nonce, attempt in self.attempts.items()}
        if found != known:
            raise Violation(4, f"rounds that a restart has changed: {dict(found.items() ^ known.items())}")
        self._fresh = True
        self._resumes = next((nonce for nonce, phase in known.items() if phase == COLLECTING), None)
        self._left = None if self._resumes is None else self.left.get(self._resumes)
        if self._resumes is not None and _updates(journal, self._resumes) != self.attempts[self._resumes].updates:
            raise Violation(4, "the open round's updates are others than before the restart")

    def _read_models(self, journal: Journal, newest: int) -> None:
        sql = "SELECT version, digest, previous FROM models WHERE version >= ? ORDER BY version"
        for version, digest, previous in journal.ask(sql, (newest,)):
            if version < len(self.chain):
                if digest != self.chain[version]:
                    raise Violation(5, f"version {version} has become another one")
                continue
            if version != len(self.chain) or previous != (self.chain[-1] if self.chain else None):
                raise Violation(5, f"version {version} does not follow version {len(self.chain) - 1}")
            self.chain.append(digest)

    def _read_round(self, journal: Journal, row: tuple[Any, ...]) -> Iterator[str]:
        nonce, number, task, attempt_number, phase, version, digest, summary = row
        attempt = self.attempts.get(nonce)
        if attempt is None:
            attempt = self._opened(nonce, Attempt(number, task, attempt_number, version, digest))
            yield f"opens {number} {task} {attempt_number}"
        if attempt.phase == COLLECTING and phase != "abandoned":
            yield from self._keep(journal, nonce, attempt)
        if phase == attempt.phase:
            return
        if attempt.phase != COLLECTING:
            raise Violation(3, f"round {number} was {attempt.phase}, and now it is {phase}")
        attempt.phase = phase
        self._fresh = False
        if phase == "abandoned":
            self._counting.difference_update((device, digest) for (device, _), digest in attempt.updates.items())
        self.closed += task == "train"
        yield f"{phase} {number} {task} with {', '.join(_named(attempt.updates))}"
        if phase == "committed":
            self._check_commit(journal, nonce, attempt, summary)

    def _opened(self, nonce: str, attempt: Attempt) -> Attempt:
        identity = (attempt.round, attempt.task, attempt.attempt)
        if any((one.round, one.task, one.attempt) == identity for one in self.attempts.values()):
            raise Violation(4, f"an attempt is opened again under another nonce: {identity}")
        if (attempt.model_version, attempt.model_digest) != self.newest:
            raise Violation(5, f"round {attempt.round} starts from version {attempt.model_version}")
        fresh, self._fresh = self._fresh, False
        if fresh and self._can_evaluate and attempt.task == "train" and self.unmeasured:
            raise Violation(0, f"after a restart version {len(self.chain) - 1} should have been evaluated")
        self.attempts[nonce] = attempt
        return attempt

    @property
    def unmeasured(self) -> bool:
        """Whether the newest version has yet to be evaluated, and the round after it has yet to be opened."""
        settings, number = self._settings, len(self.chain) - 1
        if not settings.evaluate or (settings.max_staleness is not None and number < settings.rounds) or not number:
            return False
        after = {(number, "evaluate"), (number + 1, "train")}
        return not any((one.round, one.task) in after for one in self.attempts.values())

    def _keep(self, journal: Journal, nonce: str, attempt: Attempt) -> Iterator[str]:
        rows = journal.ask("SELECT device, round, digest, nonce FROM updates WHERE counted = ?", (nonce,))
        kept = {(device, number): digest for device, number, digest, _ in rows}
        for key, digest in attempt.updates.items():
            if kept.get(key) != digest:
                raise Violation(2, f"the update of {key[0]} for round {key[1]} has gone from the journal")
        for (device, number), digest in kept.items():
            if (device, number) in attempt.updates:
                continue
            if (device, digest) in self.early:
                raise Violation(2, f"the update of {device} was acknowledged to the broker before it was on disk")
            if (device, digest) in self._counting:
                raise Violation(1, f"one update of {device} counts in two rounds")
            self._check_age(attempt, device, number)
            self._kept.add((device, digest))
            self._counting.add((device, digest))
            yield f"keeps {device} {digest[:8]}{'' if number == attempt.round else f' for round {number}'}"
        self._counted_in.update(dict.fromkeys(((answered, device) for device, _, _, answered in rows), nonce))
        attempt.updates = kept

    def _check_age(self, attempt: Attempt, device: str, number: int) -> None:
        """One update counts for a device and a round, and only the open round's but where rounds overlap."""
        limit = (self._settings.max_staleness or 0) if attempt.task == "train" else 0
        if not attempt.round - limit <= number <= attempt.round:
            raise Violation(1, f"an update of {device} for round {number} counts in round {attempt.round}")
        for other in self.attempts.values():
            if other.phase == "committed" and other.task == attempt.task and (device, number) in other.updates:
                raise Violation(1, f"two updates of {device} count for round {number}")

    def _committed_as(self, version: int) -> bool:
        return any(
            (one.task, one.phase, one.model_version) == ("train", "committed", version - 1)
            for one in self.attempts.values()
        )

    # -- what a commit must be -----------------------------------------------------------------------------------------

    def _check_commit(self, journal: Journal, nonce: str, attempt: Attempt, summary: str | None) -> None:
        counted = attempt.updates.keys()
        if lost := attempt.receipts - counted:
            raise Violation(2, f"accepted and not in round {attempt.round}: {', '.join(_named(lost))}")
        if len(counted) < (self._settings.quorum if attempt.task == "train" else 1):
            raise Violation(3, f"round {attempt.round} is committed with {len(counted)} updates")
        rows = journal.ask("SELECT device, examples, blob FROM updates WHERE counted = ? ORDER BY device", (nonce,))
        if attempt.task == "evaluate":
            sql = "SELECT examples FROM metrics WHERE version = ?"
            if journal.ask(sql, (attempt.model_version,)) != [(sum(row[1] for row in rows),)]:
                raise Violation(3, f"the evaluation of round {attempt.round} is committed, and its counts are others")
            return
        if attempt.model_version + 1 != len(self.chain) - 1:
            raise Violation(3, f"round {attempt.round} is committed, and its version is not")
        if summary is None or set(json.loads(summary)["devices"]) != {device for device, _ in counted}:
            raise Violation(6, f"the summary of round {attempt.round} names others than {', '.join(_named(counted))}")
        self._check_model(journal, attempt, rows)

    def _check_model(self, journal: Journal, attempt: Attempt, rows: list[tuple[str, int, bytes]]) -> None:
        version, manifest = attempt.model_version + 1, self._scenario.plan.manifest()
        folder = journal.disk.root / "models"
        path = folder / f"v{version:09d}.safetensors"
        if not path.exists():
            raise Violation(3, f"version {version} is committed, and its file is not there")
        if len(list(folder.iterdir())) > KEPT_MODELS:
            raise Violation(11, f"more than {KEPT_MODELS} models are kept")
        arrays = safetensors.numpy.load(path.read_bytes())
        found: Flat = np.concatenate([arrays[tensor.name].reshape(-1) for tensor in manifest.tensors])
        updates = []
        for _, examples, blob in rows:
            update = codec.decode_update(blob)
            delta = compression.decode(update.payload, manifest).flat
            updates.append((delta, examples, attempt.model_version - update.model_version))
        self._check_step(version, arrays, found)
        if not self._arithmetic.follow(updates, found, arrays.get("downlink/residual")):
            raise Violation(6, f"version {version} is not the mean of {', '.join(row[0] for row in rows)}")

    def _check_step(self, version: int, arrays: dict[str, Any], found: Flat) -> None:
        if self._settings.downlink == "none":
            if "downlink/step" in arrays or "downlink/residual" in arrays:
                raise Violation(6, f"version {version} goes out whole, and owes something")
            return
        step = compression.decode(arrays["downlink/step"].tobytes(), self._scenario.plan.manifest())
        if not self._arithmetic.leads(step.flat, found):
            raise Violation(6, f"the step does not lead to version {version}")

    # -- what the coordinator says -------------------------------------------------------------------------------------

    def announced(self, nonce: str, remaining_s: float) -> None:
        """Devices are asked for something, which they have ``remaining_s`` for."""
        if nonce not in self.attempts:
            raise Violation(4, "an attempt is announced that the journal does not have")
        resumes, self._resumes = self._resumes, None
        if resumes not in {None, nonce} and self.attempts[resumes or ""].phase == COLLECTING:
            raise Violation(4, "after a restart another attempt goes on than was open")
        if resumes == nonce and (left := self._left) is not None:
            settings = self._settings
            slack = max(1.0, 0.02 * settings.deadline_s) + 1.0 + 2 * self._scenario.busy_s
            if remaining_s > max(GRACE_S, left + slack):
                raise Violation(
                    4, f"{left:.1f} s of the round were left before a restart, {remaining_s:.1f} s after it"
                )

    def published(self, version: int, digest: str, previous: str | None) -> None:
        """A model is pointed to."""
        before = self.chain[version - 1] if version else None
        if version != len(self.chain) - 1 or (digest, previous) != (self.chain[version], before):
            raise Violation(5, f"version {version} is published, and version {len(self.chain) - 1} is the newest")

    def receipted(self, nonce: str, device: str, outcome: str) -> None:
        """A device is told that its update counts."""
        answered = self.attempts.get(nonce)
        counts = self.attempts.get(self._counted_in.get((nonce, device), ""))
        if counts is None and answered is not None and outcome == "duplicate":
            # Where rounds overlap, what answers an earlier attempt at the round may count in its place.
            others = (other for other, one in self.attempts.items() if _same_task(one, answered))
            counts = next(
                (self.attempts[self._counted_in[one, device]] for one in others if (one, device) in self._counted_in),
                None,
            )
        if answered is None or (counts is None and answered.phase != "abandoned"):
            raise Violation(2, f"{device} is told {outcome}, and the journal does not have its update")
        if counts is not None:
            counts.receipts.add((device, answered.round))


def _rounds(journal: Journal, newest: int) -> list[Any]:
    sql = """SELECT nonce, round, task, attempt, phase, model_version, model_digest, summary
             FROM rounds ORDER BY rowid DESC LIMIT ?"""
    return journal.ask(sql, (newest,))


def _updates(journal: Journal, nonce: str) -> dict[Key, str]:
    rows = journal.ask("SELECT device, round, digest FROM updates WHERE counted = ?", (nonce,))
    return {(device, number): digest for device, number, digest in rows}


def _same_task(one: Attempt, other: Attempt) -> bool:
    return (one.round, one.task) == (other.round, other.task)


def _named(keys: Iterable[Key]) -> list[str]:
    return sorted({device for device, _ in keys})
