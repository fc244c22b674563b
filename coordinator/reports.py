"""What the round's state machine says, put into messages: summaries, errors, announcements, receipts. Pure."""

from __future__ import annotations

import math
from typing import Final

from coordinator.events import Announce, Header, Reply, Ticket
from coordinator.round_state import Aggregating, Collecting, State
from schemas import cohort
from schemas.counted import counted
from schemas.messages import Join, Metrics, Outcome, Phase, RoundSummary
from schemas.printable import printable

BACK_WITHIN: Final = 0.1  # of the deadline, in which those sent away come back, each at its own time
LONGEST_S: Final = 3600.0 / (1 + BACK_WITHIN)  # with which all within an hour come back, still each at its own time
# In retained documents, so that they stay within a decoder's and a broker's bounds; the journal has all.
NAMED_DEVICES: Final = 1000
NAMED_DECLINES: Final = 50
QUOTED: Final = 200  # characters of why a device declined
NAMED_CLASSES: Final = 256
CONFUSED_CLASSES: Final = 48  # whose confusion matrix is there
NAMED: Final = 10  # devices that an error names before it only counts
NAMED_MISSING: Final = 5  # devices that a round's reason does, within what a message's text may have
# Between two announcements that say only how many joined and were received, which is for people, and paid by devices:
NEWS_S: Final = 2.0  # at least
NEWS_SHARE: Final = 0.5  # of the time that the attempt had been open at the first of them
NEWS_LONGEST_S: Final = 60.0  # at most


def summarise(state: State, stage: Collecting | None, failure: str = "") -> RoundSummary:
    """How a task ended with what ``stage`` collected: committed as the next version unless for a ``failure``."""
    headers = [] if stage is None else [stage.received[device] for device in sorted(stage.received)]
    losses = [(header.train_loss, header.examples) for header in headers if header.train_loss is not None]
    return RoundSummary(
        run=state.rules.run,
        round=state.round,
        outcome="abandoned" if failure else "committed",
        reason=failure,
        model_version=state.model.number + (state.task == "train" and not failure),
        devices=() if failure else tuple(sorted({header.device for header in headers})),
        synthetic=0 if failure else len(state.view.synthetic.intersection(header.device for header in headers)),
        examples=0 if failure else sum(header.examples for header in headers),
        train_loss=_mean(losses),
        declined={} if stage is None else dict(sorted(stage.declined.items())),
        rejected=dict(state.rejected),
        seconds=0.0 if stage is None else state.now - stage.opened_at,
        uplink_bytes=sum(header.size for header in headers),
    )


def _mean(losses: list[tuple[float, int]]) -> float | None:
    """The mean loss over examples; None where nobody gave one, or where what a device gave is beyond all numbers."""
    total = sum(examples for _, examples in losses)
    mean = sum(loss * (examples / total) for loss, examples in losses) if losses else math.nan
    return mean if math.isfinite(mean) else None


def with_evaluation(training: RoundSummary, evaluation: RoundSummary, metrics: Metrics) -> RoundSummary:
    """A round's summary once its evaluate task has ended too."""
    reasons = training.rejected.keys() | evaluation.rejected.keys()
    return training.model_copy(
        update={
            "metrics": metrics,
            "uplink_bytes": training.uplink_bytes + evaluation.uplink_bytes,
            "rejected": {
                reason: training.rejected.get(reason, 0) + evaluation.rejected.get(reason, 0)
                for reason in sorted(reasons)
            },
        }
    )


def shortened(summary: RoundSummary) -> RoundSummary:
    """A summary as it is retained on the broker."""
    declined = {device: reason[:QUOTED] for device, reason in list(summary.declined.items())[:NAMED_DECLINES]}
    few = {"devices": summary.devices[:NAMED_DEVICES], "declined": declined, "metrics": _concise(summary.metrics)}
    return summary.model_copy(update=few)


def _concise(metrics: Metrics | None) -> Metrics | None:
    """Metrics without what many classes make too long."""
    if metrics is None or len(metrics.classes) <= CONFUSED_CLASSES:
        return metrics
    classes = metrics.classes if len(metrics.classes) <= NAMED_CLASSES else ()
    return metrics.model_copy(update={"classes": classes, "confusion": ()})


def headline(metrics: Metrics | None) -> Metrics | None:
    """Of metrics what the model's pointer says, which goes to every device; the round's summary has the rest.

    The one class of a reconstruction stays, so that it is known for that.
    """
    if metrics is None:
        return None
    macro_f1 = None if metrics.macro_f1 is None else _brief(metrics.macro_f1)
    return Metrics(
        examples=metrics.examples,
        loss=_brief(metrics.loss),
        accuracy=_brief(metrics.accuracy),
        macro_f1=macro_f1,
        confusion=() if metrics.tells_classes else metrics.confusion,
        synthetic=metrics.synthetic,
    )


def _brief(value: float) -> float:
    """To the six digits that mean something."""
    return float(f"{value:.6g}")


def nobody_came(state: State) -> str:
    """The error of a run that no device ever came to."""
    return _quoting_devices(
        state,
        f"no device came within {state.rules.deadline_s:g} s: start `edge run` on one against this broker and this "
        "federation, and compare what it prints",
    )


def failed_often(state: State, reason: str) -> str:
    """The error of a run whose round was abandoned once too often, the last time for ``reason``."""
    return _quoting_devices(
        state,
        f"round {state.round} failed {state.failures} times in a row, the last time because {reason}: see to the "
        "devices (`coordinator status` shows how each is), start more of them, or lower --devices-min",
    )


def too_late(stage: Collecting) -> str:
    """Why an attempt is abandoned at its deadline, and who it waited for in vain."""
    text = f"{len(stage.received)} of at least {counted(stage.quorum, 'update')} came by the deadline"
    missing = sorted(stage.awaited)
    if not missing:
        return text
    more = f" and {len(missing) - NAMED_MISSING} more" if len(missing) > NAMED_MISSING else ""
    return f"{text}, none from {', '.join(missing[:NAMED_MISSING])}{more}"


def _quoting_devices(state: State, error: str) -> str:
    """``error`` and why devices say that they didn't take part, in their own words."""
    said = {**state.view.complaints, **state.said}
    if not said:
        return error
    named = "; ".join(f"{device}: {printable(said[device])}" for device in sorted(said)[:NAMED])
    return f"{error}. Devices said: {named}" + (f"; and {len(said) - NAMED} more" if len(said) > NAMED else "")


def announce(state: State, phase: Phase) -> Announce:
    """The round as it stands, in ``phase``."""
    stage, rules = state.stage, state.rules
    if isinstance(stage, Aggregating):
        stage = stage.collected
    if not isinstance(stage, Collecting):
        return Announce(
            state.ticket, phase, state.model, state.now, rules.deadline_s, 0.0, state.goal or 0, state.quorum
        )
    asked = stage.involved
    return Announce(
        ticket=stage.ticket,
        phase=phase,
        model=state.model,
        opened_at=stage.opened_at,
        deadline_s=rules.deadline_s,
        cohort=stage.cohort,
        goal=asked if stage.goal is None else stage.goal,
        quorum=stage.quorum,
        selected=asked,
        joined=len(stage.joined),
        received=len(stage.received),
    )


def news_at(stage: Collecting) -> float:
    """When the next news of the attempt may be told: the longer it is open, the less a second matters to anybody."""
    spacing = NEWS_SHARE * (stage.told_at - stage.opened_at)
    return stage.told_at + min(max(NEWS_S, spacing), NEWS_LONGEST_S)


def come_back(state: State, stage: Collecting, device: str, most: float = LONGEST_S) -> float:
    """Seconds before which a device that takes no part in this attempt has nothing to do here.

    Jittered by the device's draw, so that those who were sent away together don't come back together; and, but for that
    jitter, no more than ``most``, which is the hour that a device rests at most.
    """
    left = max(0.0, stage.opened_at + state.rules.deadline_s - state.now)
    within = BACK_WITHIN * min(state.rules.deadline_s, most)
    return min(left, most) + within * cohort.draw(f"{stage.ticket.nonce}/back", device)


def reply(
    device: str,
    ticket: Ticket | Header | Join,
    outcome: Outcome,
    reason: str = "",
    back_in: float = 0.0,
    missing: tuple[int, ...] = (),
) -> Reply:
    """A receipt for whatever carries ``ticket``'s round, task and nonce; ``back_in`` seconds."""
    return Reply(device, ticket.round, ticket.task, ticket.nonce, outcome, reason, missing, back_in)


def receipt(answer: Header | Join, outcome: Outcome, reason: str = "", back_in: float = 0.0) -> Reply:
    """A receipt for what a device answered."""
    return reply(answer.device, answer, outcome, reason, back_in)
