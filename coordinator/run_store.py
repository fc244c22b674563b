"""A run on disk and in hand: its journal, its models, and the accumulator of the open task. Decides nothing.

A new version's file is on disk before the journal's transaction that commits it, which is the instant it exists. A
crash between the two leaves a file that is written again; a crash after it leaves nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from coordinator import downlink, scores
from coordinator.aggregation import rule
from coordinator.events import Header, Reopened, Ticket, Version
from coordinator.fleet import View
from coordinator.inbox import Content
from coordinator.journal import Journal, ModelVersion, Resume, StoredUpdate
from coordinator.models import Checkpoint, ModelStore
from coordinator.round_state import Rules, Selecting, State
from schemas.errors import FederationError, SettingsError, StateError, WireError
from schemas.messages import Counts, DeviceStatus, Message, Metrics, RoundAnnouncement, RoundSummary, RunSettings, Task
from schemas.parameters import Parameters
from schemas.plan import Plan

KEPT_MODELS: Final = 20  # unless told otherwise
LARGE: Final = 2**20  # parameters of a model that is put down, and for whose updates the journal spares memory
ADJUSTABLE: Final = ("rounds", "goal", "quorum", "deadline_s", "evaluate")  # may change while a run goes on
KEPT_ROUNDS: Final = 2  # whose updates stay in the journal, so that the newest version can be computed again
PRUNE_BYTES: Final = 64 * 2**20  # of updates deleted at a time, which takes a moment in which nobody is served

Wall = Callable[[], datetime]


class RunStore:
    """One run in one state directory, made or found there; a context manager.

    ``settings.run`` names the run where there is none yet; one that is found goes on under its own name, up to
    ``settings.rounds``: a finished one has nothing left to do, unless there are more of them now. One that differs in
    more than ``ADJUSTABLE`` raises ``SettingsError``, unless no round of it was ever opened, as where a start failed
    at its broker: a new run takes its place. Raises ``StateError`` where the disk won't. A method that writes and
    raises ``DiskFull`` has changed nothing, and can be called again.
    """

    def __init__(
        self,
        directory: Path,
        settings: RunSettings,
        plan: Plan,
        model: Parameters,
        wall: Wall,
        keep_models: int = KEPT_MODELS,
    ) -> None:
        """``model`` is version 0 of a new run; an unfinished one must have begun from the same."""
        self._keep_models = keep_models
        self.plan = plan
        self._wall = wall
        self._rule = rule(settings.strategy.name)
        self._folded: Any = None  # the rule's own, or a list of counts
        self._made: Checkpoint | None = None  # of what was folded, until it is committed
        self._held: Checkpoint | None = None  # the newest version, where it is in memory
        self._open = ""  # the nonce of the open attempt
        with ExitStack() as opened:
            self.journal = opened.enter_context(Journal(directory / "journal.db"))
            self._models = ModelStore(directory / "models")
            unfinished = self.journal.open_run()
            found = unfinished or self.journal.finished_run()
            if found is not None and (others := self._differences(found, settings, model)):
                if self.journal.has_opened(found.settings.run):
                    raise _other_settings(directory, others)
                self.journal.forget_run(found.settings.run)  # and its name, which devices may have heard
                found = unfinished = None
            self._unfinished = unfinished is not None
            self.resumed = found is not None
            self.settings = settings if found is None else settings.model_copy(update={"run": found.settings.run})
            if found is None:
                self.version = self._start(model)
            else:
                if found.settings != self.settings:
                    self.journal.change_settings(self.settings)
                self.version = Version(found.model.version, found.model.digest)
            # The journal may have been put back from a backup: what is to be the newest model is then none of its own.
            self._models.set_aside(self.version.number + 1)
            self._manifest = self.checkpoint.parameters.manifest
            if self._manifest.size > LARGE:
                self.journal.spare_memory()
            self._found = found
            # Seconds since 1970 are higher than in any state directory before this one, whose devices may still be up.
            self.session = self.journal.next_session(int(wall().timestamp()))
            self._opened = opened.pop_all()

    def _differences(self, found: Resume, settings: RunSettings, model: Parameters) -> list[str]:
        """In what a run that would go on differs from the one that is there, beside ``ADJUSTABLE``, in words."""
        there = found.settings
        here = settings.model_copy(update={name: getattr(there, name) for name in ("run", *ADJUSTABLE)})
        plans = [f"{run.plan.name} ({run.plan.blob.digest[:8]})" for run in (there, here)]
        if plans[0] != plans[1]:  # which brings other recommendations with it
            return [f"plan is {plans[0]} there and {plans[1]} here"]
        others = list(_differences(there, here))
        if not others and model.digest() != self.journal.models(there.run)[0].digest:
            others = ["the initial model is another one"]
        return others

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._opened.close()

    @property
    def checkpoint(self) -> Checkpoint:
        """The newest version, from disk where it was put down."""
        if self._held is None:
            self._held = self._models.load(self.version.number, self.version.digest)
        return self._held

    @property
    def begun(self) -> bool:
        """Whether a round was ever opened: a start may have failed before that, at its broker."""
        return self.journal.has_opened(self.settings.run)

    def takes_long(self, task: Task, updates: int) -> bool:
        """Whether the result of so many updates is more than an instant's work."""
        cells = updates * len(self.plan.classes) ** 2  # of confusion matrices
        return (self._manifest.size if task == "train" else cells) > LARGE

    def put_down(self) -> None:
        """Leave the newest version on disk alone until it is asked for, where it is large."""
        if self._manifest.size > LARGE:
            self._held = None

    def standing(self, now: float) -> tuple[State, Reopened | None]:
        """Where the run stands, and its open attempt where it has one."""
        run, announced = self.settings.run, None if self._found is None else self._found.round
        number = (self._found.committed if self._found else 0) + 1
        task: Task = "train"
        attempt = self.journal.attempts(run, number, "train")
        if announced is not None:
            number, task, attempt = announced.round, announced.task, announced.attempt
        elif attempt == 0 and self._is_unmeasured(number - 1):
            number, task = number - 1, "evaluate"
        summary = self.summaries(1)[-1] if task == "evaluate" else None
        reopened = None if announced is None else self._reopened(announced)
        # Their statuses may come again only after all of their updates have made the next model.
        view = View(synthetic=self.journal.roster.made_up(self._found.devices if self._found else ()))
        rules = Rules.of(self.settings)
        state = State(rules, self.version, number, Selecting(now), now, task, attempt, view=view, summary=summary)
        # Who it was may be away just now, as after a power cut of the whole site: that is no start without devices.
        state = replace(state, met_anyone=self.begun)
        attempts = {one: self.journal.attempts(run, one, "train") for one in (*state.window, number)}
        state = replace(state, attempts=attempts)
        limit = self.settings.max_staleness
        if limit is not None:
            before = self.journal.models(run)[-1 - limit : -1]
            lineage = tuple(Version(model.version, model.digest) for model in reversed(before))
            state = replace(state, lineage=lineage, counted=self.journal.counted(run, number - limit))
        return state, reopened

    def _reopened(self, announced: RoundAnnouncement) -> Reopened:
        elapsed_s, asked = self.journal.marked(announced.nonce)
        return Reopened(announced.cohort, elapsed_s, max(announced.selected, asked))

    def _is_unmeasured(self, number: int) -> bool:
        """Whether the run ended between the commit of round ``number``, its newest, and that version's evaluation."""
        wanted = self._unfinished and number > 0 and Rules.of(self.settings).evaluates(number)
        return wanted and self.journal.attempts(self.settings.run, number, "evaluate") == 0

    @property
    def last_round(self) -> int:
        """The last round that ended, one way or the other; 0 for none."""
        return self.journal.last_closed(self.settings.run)

    def summaries(self, newest: int | None = None) -> tuple[RoundSummary, ...]:
        """How the run's rounds ended so far, all or the ``newest``, oldest first, the last word on each."""
        since = 1 if newest is None else self.last_round - newest + 1
        return tuple({summary.round: summary for summary in self.journal.history(self.settings.run, since)}.values())

    def renew_session(self, above: int) -> None:
        """Take a session higher than ``above`` too."""
        if self.session <= above:
            self.session = self.journal.next_session(above + 1)

    def outranked(self, session: int) -> None:
        """Have the next start take a session above that one, whatever it finds on the broker."""
        with suppress(StateError):  # the disk is full: what the broker retains is the next start's only word on it
            self.journal.note_session(session)

    def open(self, announcement: RoundAnnouncement) -> Iterator[StoredUpdate]:
        """Journal the attempt, and start an empty accumulator for it.

        What it had accepted before a restart comes one at a time, as it is asked for.
        """
        settings = self.settings
        train = announcement.task == "train"
        self._folded = self._rule.init(self._manifest, settings.strategy, settings.max_weight) if train else []
        self._open = announcement.nonce
        found, self._found = self._found, None
        if found is None or found.round is None or found.round.nonce != announcement.nonce:
            self.journal.open_round(announcement)
            return iter(())
        return self.journal.updates(self.settings.run, announcement.round, announcement.task)

    def keep(self, header: Header, content: Content) -> None:
        """Put an update that counts in the open attempt in the journal; call it within ``journal.batch``."""
        if not self.journal.add_update(self.settings.run, content.update, content.blob, header.digest, self._open):
            raise StateError(
                f"an update of {header.device} for round {header.round} would count twice: please report it; "
                "what was committed is safe, and the same command goes on from there"
            )

    def mark(self, ticket: Ticket, elapsed_s: float, asked: int) -> None:
        """Put on disk how long the attempt has been open, and for how many; call it within ``journal.batch``."""
        self.journal.mark(ticket.nonce, elapsed_s, asked)

    def meet(self, status: DeviceStatus) -> None:
        """Note a device in the journal; call it within ``journal.batch``."""
        self.journal.roster.add(status, self._now())

    def fold(self, header: Header, content: Content, staleness: int | None = None) -> None:
        """Fold an update, so many versions behind, into the accumulator."""
        if content.delta is not None:
            self._folded = self._rule.fold(self._folded, content.delta, header.examples, staleness)
        else:
            self._folded.append(content.update.counts)

    def commit_training(self, ticket: Ticket, summary: RoundSummary) -> Version:
        """Make the next version of what was folded, and commit it.

        Raises ``FederationError`` where none can be made of it: nothing has changed but that it is let go of.
        """
        if self._made is None:
            self._made = self._make()
        new = self._made
        digest = self._models.save(new)
        model = ModelVersion(new.run, new.version, digest, new.previous)
        self.journal.commit_round(ticket.nonce, summary, model, self._now())
        self._held, self._made, self.version = new, None, Version(new.version, digest)
        return self.version

    def _make(self) -> Checkpoint:
        """The next version. Whatever is as large as a model is let go of as soon as it has served."""
        delta = self._rule.finish(self._folded)
        self._folded = None
        old, self._held = self.checkpoint, None
        run, version, published, moments = old.run, old.version, old.parameters, old.moments
        before = downlink.intended(published, old.residual)
        del old
        moments, target = self._rule.apply(moments, before, delta, self.settings.strategy)
        del before, delta
        if not target.is_finite():
            raise FederationError(
                f"its updates drive version {version} to values that are not finite (lower learning rates, in a run "
                "with --fresh, help where the devices are sound)"
            )
        codec = self.settings.downlink
        try:
            out = downlink.publish(codec, published, target)
        except WireError as error:
            raise FederationError(
                f"its updates change version {version} by more than the downlink {codec} can say: {error.detail} "
                "(lower learning rates or --downlink none, in a run with --fresh, help where the devices are sound)"
            ) from error
        parts = out.parameters, moments, out.residual, out.step
        return Checkpoint(run, version + 1, self.version.digest, *parts)

    def commit_evaluation(self, ticket: Ticket, summary: RoundSummary) -> Metrics:
        """Add up what devices counted, and commit it as the newest version's scores."""
        counts: list[Counts] = self._folded
        metrics = scores.metrics(scores.add(counts), self.plan.classes, self.plan.report)
        metrics = metrics.model_copy(update={"synthetic": summary.synthetic})
        with self.journal.batch():
            self.journal.commit_evaluation(ticket.nonce, metrics)
            self.journal.roster.add_rejections(summary.run, summary.round, summary.rejected)
        self._folded = None
        return metrics

    def abandon(self, ticket: Ticket, summary: RoundSummary) -> None:
        """Forget the accumulator and the attempt's updates."""
        with self.journal.batch():
            self.journal.abandon_round(ticket.nonce, ticket.task, summary.reason)
            self.journal.roster.add_rejections(summary.run, summary.round, summary.rejected)
        self._folded = None

    def tidy(self) -> bool:
        """What can wait until nobody does: drop old models and updates, and move the journal's log into its file.

        A bounded piece of it; False where more is left.
        """
        self._models.prune(self._keep_models, self.version.number)
        done = self.journal.prune(max(KEPT_ROUNDS, (self.settings.max_staleness or 0) + 1), PRUNE_BYTES)
        self.journal.checkpoint()
        return done

    def finish(self) -> None:
        """Close the run: all its rounds are done."""
        self.journal.finish_run(self.settings.run, self._now())

    def _start(self, model: Parameters) -> Version:
        settings = self.settings
        moments = self._rule.start(model.manifest, settings.strategy)
        digest = self._models.save(Checkpoint(settings.run, 0, None, model, moments))
        self.journal.start_run(settings, digest, self._now())
        return Version(0, digest)

    def _now(self) -> str:
        return self._wall().isoformat(timespec="seconds")


def utc() -> datetime:
    """The wall clock, for people and the journal."""
    return datetime.now(UTC)


def _other_settings(directory: Path, others: list[str]) -> SettingsError:
    return SettingsError(
        f"{directory} holds a run of other settings ({'; '.join(others)}): go on with those, start over with "
        "--fresh, which sets it aside, or choose another --state directory"
    )


def _differences(there: Message, here: Message, prefix: str = "") -> Iterator[str]:
    """Each setting in which two messages of one type differ, in words."""
    for name in type(there).model_fields:
        old, new = getattr(there, name), getattr(here, name)
        if isinstance(old, Message) and isinstance(new, Message):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name} is {old} there and {new} here"
