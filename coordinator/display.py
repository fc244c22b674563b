"""What a person or a program sees while a federation runs: a live table, plain log lines, or JSON lines."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import IO, Final, Protocol, Self, cast

from pydantic import BaseModel
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from coordinator import observers as seen
from schemas.counted import counted
from schemas.messages import MAX_DEVICES, Metrics, RoundSummary
from schemas.output import Output, Terminal
from schemas.printable import printable
from schemas.restraint import Restraint

NOTES = 6  # of the newest remarks under the table
ROWS = 30  # of the newest rounds in it
REMARKS = (
    seen.RivalDoubted,
    seen.RivalReplaced,
    seen.Overwritten,
    seen.Paused,
    seen.Resumed,
    seen.DeviceTroubled,
    seen.DeviceDeclined,
    seen.MessageRejected,
    seen.EvaluationFailed,
    seen.DataMadeUp,
    seen.LabelsByRule,
    seen.OwnModelsAwaited,
    seen.Finished,
)
MOST: Final[dict[type[seen.Observation], int]] = {  # told within a minute of what anybody can cause without end
    seen.MessageRejected: 100,  # an honest fleet rarely comes near
    seen.DeviceTroubled: 100,
    seen.DeviceDeclined: 1000,
    seen.DeviceJoined: MAX_DEVICES,
}
_WITHHELD = {
    "message_rejected": "messages that were rejected",
    "device_troubled": "devices that can't take part",
    "device_declined": "devices that decline",
}
WHOLE = ("outcome", "state")  # columns of single words, never cut
COLUMNS = ("round", "model", "devices", "examples", "train\nloss", "accuracy", "macro-F1", "up", "seconds")


class Display(Protocol):
    """An observer that is opened and closed."""

    def __enter__(self) -> Self:
        """Start showing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave what was shown standing."""

    def __call__(self, event: seen.Observation, /) -> None:
        """Take one event, to be shown at the next ``flush`` at the latest."""

    def flush(self) -> None:
        """Show all that was taken. Apart, since a thousand devices bring two events each."""


def choose(*, json_lines: bool) -> Display:
    """JSON lines where asked for, the live table on a terminal, else plain lines."""
    if json_lines:
        return Lines(json_line)
    console = Console(file=cast("IO[str]", Terminal()), markup=False, emoji=False, highlight=False)
    return LiveTable(console) if console.is_terminal else Lines(plain_line)


class Lines:
    """Each event as one line on standard output, where ``render`` has words for it, and floods in part."""

    def __init__(
        self,
        render: Callable[[seen.Observation], str | None],
        out: IO[str] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._render = render
        self._output = Output(out)
        self._restraint = Restraint(MOST, now)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own_up(ends=True)
        self.flush()

    def __call__(self, event: seen.Observation, /) -> None:
        """Print one event; what can't be printed is left out, since the run must outlast that."""
        self._own_up()
        if self._restraint.lets(type(event)):
            self._print(event)

    def flush(self) -> None:
        """Let whoever reads have the lines."""
        self._own_up()
        self._output.flush()

    def _own_up(self, *, ends: bool = False) -> None:
        """Tell how much was not told."""
        for kind, kept_back in self._restraint.over(ends=ends):
            self._print(seen.Withheld(seen.name_of(kind), kept_back))

    def _print(self, event: seen.Observation) -> None:
        if (line := self._render(event)) is not None:
            self._output.line(printable(line))


def json_line(event: seen.Observation) -> str:
    """An event as JSON: its name under ``event``, the wall clock in seconds under ``at``, and its fields."""
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    return json.dumps(
        {"event": seen.name_of(type(event)), "at": round(time.time(), 3)}
        | {name: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for name, v in fields.items()}
    )


def plain_line(event: seen.Observation) -> str | None:  # noqa: C901, PLR0911, PLR0912 - a table of words, one a case
    """An event in words; None for those too frequent for a log."""
    match event:
        case seen.Started(run=run, plan=plan, rounds=rounds, next_round=first, version=version, resumed=resumed):
            return (
                f"run {run}: plan {plan}, {_beginning(rounds, first, version) if resumed else counted(rounds, 'round')}"
            )
        case seen.Connected():
            return "connected to the broker"
        case seen.Disconnected(reason=reason, retry_in_s=None):
            return f"no connection: {reason}"
        case seen.Disconnected(reason=reason, retry_in_s=wait):
            return f"no connection: {reason}; trying again in {wait:.1f} s"
        case seen.RivalDoubted(run=run, wait_s=wait):
            return (
                f"another coordinator (run {run}) has not said that it ended: asked it for a sign of life, and waiting "
                f"for one for {wait:.0f} s"
            )
        case seen.RivalReplaced(run=run):
            return f"no sign of life of the coordinator of run {run}: going on in its place"
        case seen.Overwritten(topic=topic):
            return f"somebody else has written on {topic}: published again what belongs there"
        case seen.Paused(reason=reason):
            return f"paused: {reason}"
        case seen.Resumed():
            return "the disk takes more again: going on"
        case seen.DeviceTroubled(device=device, reason=reason, others=others):
            return f"{device}{f' and {others} more' if others else ''} can't take part: {reason}"
        case seen.Selecting(round=number, quorum=quorum, deadline_s=deadline):
            return f"round {number}: waiting for {counted(quorum, 'device')}, at most {deadline:g} s"
        case seen.RoundOpened(task="train", round=number, selected=selected, deadline_s=deadline):
            asked = f"{counted(selected, 'device')} asked to train" if selected else "open again, waiting for updates"
            return f"round {number}: {asked}, {deadline:g} s"
        case seen.DeviceDeclined(round=number, device=device, reason=reason):
            return f"round {number}: {device} declines: {reason}"
        case seen.UpdateAccepted(task="train", round=number, device=device, examples=examples, size=size):
            behind = f", {counted(event.staleness, 'version')} behind" if event.staleness else ""
            return f"round {number}: update from {device}, {counted(examples, 'example')}, {_bytes(size)}{behind}"
        case seen.MessageRejected(reason=reason, detail=detail, topic=topic, device=device):
            whence = f" on {topic}" if topic else f" from {device}" if device else ""
            return f"rejected ({reason}){whence}: {detail}"
        case seen.Withheld(kind=kind, count=number) if kind in _WITHHELD:
            return (
                f"{counted(number, 'more line like these is', 'more lines like these are')} left out: {_WITHHELD[kind]}"
            )
        case seen.RoundClosed(summary=summary):
            return f"round {summary.round}: {_closing(summary)}"
        case seen.ModelEvaluated(version=version, devices=devices, metrics=metrics):
            where = f"{counted(metrics.examples, 'held-out example')} on {_devices(devices, metrics.synthetic)}"
            return f"model {version}: {_scores(metrics)}, {where}"
        case seen.EvaluationFailed(round=number, reason=reason):
            return f"round {number}: not evaluated: {reason}"
        case seen.DataMadeUp(device=device, others=others):
            these = f"{device}{f' and {others} more' if others else ''}"
            return f"{these}: the people are synthetic, and what comes of them says nothing about patients"
        case seen.LabelsByRule():
            return "labels are a rule's: figures of this run say how like the rule a model is, and no more"
        case seen.OwnModelsAwaited():
            return "the virtual devices make models of their own; Ctrl-C doesn't wait for them"
        case seen.Finished(version=version, stopped=True, error=None):
            return f"stopped at model {version}; the same command goes on from here"
        case seen.Finished(version=version, stopped=False, error=None):
            return f"finished with model {version}"
        case _:
            return None


def _beginning(rounds: int, first: int, version: int) -> str:
    """How a run that was found in the state directory goes on."""
    if first <= rounds:
        return f"resuming at round {first} of {rounds} from model {version}"
    return (
        f"all of its {counted(rounds, 'round')} are done; model {version} is published again (more --rounds go on from "
        "it, --fresh starts over)"
    )


def _devices(number: int, synthetic: int) -> str:
    """So many devices, and how many of them have made-up people's examples."""
    return counted(number, "device") + synthetic_people(synthetic, of=number)


def synthetic_people(devices: int, of: int | None = None) -> str:
    """That figures are of made-up people, to be put behind them: on so many devices of some; empty where on none."""
    if not devices:
        return ""
    return f" (synthetic people{'' if of in {None, devices} else f' on {devices}'})"


def _bytes(size: float) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"  # noqa: PLR2004 - the unit's own limit


def _closing(summary: RoundSummary) -> str:
    if summary.outcome == "abandoned":
        return f"abandoned: {summary.reason}"
    loss = "" if summary.train_loss is None else f", training loss {summary.train_loss:.3f}"
    return (
        f"committed as model {summary.model_version} from {_devices(len(summary.devices), summary.synthetic)}, "
        f"{counted(summary.examples, 'example')}{loss}, {_bytes(summary.uplink_bytes)} up, {summary.seconds:.1f} s"
    )


def _scores(metrics: Metrics) -> str:
    if not metrics.tells_classes:
        return f"loss {metrics.loss:.5f}"
    macro = "" if metrics.macro_f1 is None else f", macro-F1 {metrics.macro_f1:.3f}"
    return f"accuracy {metrics.accuracy:.3f}{macro}, loss {metrics.loss:.3f}"


class LiveTable:
    """A row for each round, a bar for the one that is open, and the newest remarks; for a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[int, tuple[RoundSummary, Metrics | None]] = {}
        self._notes: list[str] = []
        self._metrics: Metrics | None = None
        self._title = "federation"
        self._trainers = 0
        self._quorum = 0
        self._away = False
        self._changed = True
        words = TextColumn("{task.description}", markup=False)
        self._phase = Progress(words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
        self._bar = self._phase.add_task("connecting", total=None)
        self._live = Live(self._render(), console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase.update(self._bar, visible=False)
        self.flush()
        self._live.__exit__(kind, error, trace)
        if self._metrics is not None and self._metrics.tells_classes:
            self._console.print(classes_table(self._metrics))

    def __call__(self, event: seen.Observation, /) -> None:
        """Take one event."""
        self._take(event)
        self._changed = True
        if self._remarkable(event) and (line := plain_line(event)):
            self._notes = [*self._notes, printable(line)][-NOTES:]

    def flush(self) -> None:
        """Draw the table anew."""
        if self._changed:
            self._changed = False
            self._live.update(self._render())

    def _take(self, event: seen.Observation) -> None:
        match event:
            case seen.Started(run=run, plan=plan, rounds=rounds):
                self._title = f"{run}   plan {plan}   {counted(rounds, 'round')}"
            case seen.Selecting(round=number, quorum=quorum):
                self._quorum = quorum
                self._phase.reset(self._bar, description=f"round {number}: waiting for devices")
                self._count_trainers()
            case seen.RoundOpened(round=number, task=task, selected=selected, goal=goal):
                self._quorum = 0
                verb = "training" if task == "train" else "evaluating"
                self._phase.reset(self._bar, description=f"round {number}: {verb}", total=goal or selected)
            case seen.FleetSeen(trainers=trainers):
                self._trainers = trainers
                if self._quorum:
                    self._count_trainers()
            case seen.UpdateAccepted(received=received):
                self._phase.update(self._bar, completed=received)
            case seen.RoundClosed(summary=summary) if summary.outcome == "committed":
                self._rows[summary.round] = (summary, None)
            case seen.ModelEvaluated(round=number, metrics=metrics):
                self._metrics = metrics
                if number in self._rows:  # not where it was committed before a restart
                    self._rows[number] = (self._rows[number][0], metrics)
            case _:
                pass

    def _count_trainers(self) -> None:
        self._phase.update(self._bar, completed=self._trainers, total=max(self._trainers, self._quorum))

    def _remarkable(self, event: seen.Observation) -> bool:
        """Whether it is said under the table too."""
        match event:
            case seen.Connected():  # a remark only after an outage
                away, self._away = self._away, False
                return away
            case seen.Disconnected():
                self._away = True
                return True
            case seen.Started(resumed=resumed):
                return resumed
            case seen.RoundClosed(summary=summary):
                return summary.outcome == "abandoned"
            case _:
                return isinstance(event, REMARKS)

    def _render(self) -> Group:
        table = plain_table(self._title, *COLUMNS)
        for number in sorted(self._rows)[-ROWS:]:
            table.add_row(*_row(*self._rows[number]))
        return Group(table, self._phase, *(Text(note, style="yellow") for note in self._notes))


def plain_table(title: str, *columns: str, words: Collection[str] = ()) -> Table:
    """A table that fits 80 columns: numbers to the right, ``words`` to the left, which may go over several lines."""
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0)
    )
    for name in columns:
        table.add_column(
            name,
            justify="left" if name in words else "right",
            no_wrap=name not in words or name in WHOLE,
            overflow="fold" if name in words else "ellipsis",
        )
    return table


def _row(summary: RoundSummary, metrics: Metrics | None) -> tuple[str, ...]:
    return (
        str(summary.round),
        str(summary.model_version),
        str(len(summary.devices)),
        str(summary.examples),
        _number(summary.train_loss),
        _number(metrics.accuracy if metrics and metrics.tells_classes else None),
        _number(metrics.macro_f1 if metrics else None),
        _bytes(summary.uplink_bytes),
        f"{summary.seconds:.1f}",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def classes_table(metrics: Metrics) -> Table:
    """Sensitivity, PPV and F1 of each class that has held-out examples."""
    title = f"newest model, on held-out examples{synthetic_people(metrics.synthetic)}"
    table = plain_table(title, "class", "examples", "sensitivity", "PPV", "F1", words=("class",))
    for each in metrics.classes:
        if each.examples:
            figures = (_number(each.sensitivity), _number(each.ppv), _number(each.f1))
            table.add_row(each.name, str(each.examples), *figures)
    return table
