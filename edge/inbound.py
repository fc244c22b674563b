"""What comes to an agent from outside, as events of its core. Pure."""

from __future__ import annotations

from edge.core import events as ev
from edge.core.events import Event
from edge.core.jobs import Failure, Progressed, Result
from schemas.errors import Reject, WireError
from schemas.messages import (
    Command,
    CoordinatorStatus,
    Message,
    ModelPointer,
    Receipt,
    RoundAnnouncement,
    RunSettings,
)
from schemas.topics import Address


def happening(result: Progressed | Result | Failure) -> ev.JobDone | ev.JobFailed | ev.JobProgressed:
    """What the trainer's answer is to the core."""
    match result:
        case Failure():
            return ev.JobFailed(result)
        case Progressed():
            return ev.JobProgressed(result.key, result.fraction, result.checkpoint)
        case _:
            return ev.JobDone(result)


def event_of(address: Address, message: Message, device: str) -> Event:
    """What a message is to the core. Raises ``WireError`` where it stands on another topic than it names."""
    match message:
        case CoordinatorStatus():
            return ev.CoordinatorSeen(message)
        case RunSettings():
            return ev.RunSeen(message)
        case ModelPointer():
            return ev.ModelSeen(message)
        case RoundAnnouncement():
            return ev.RoundSeen(message)
        case Receipt() if message.device == device and message.round == address.number:
            return ev.ReceiptSeen(message)
        case Command():
            return ev.CommandSeen(message)
        case _:
            raise WireError(Reject.WRONG_SENDER, "the message names another device or round than its topic")
