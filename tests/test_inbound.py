"""What a device hears, as events of its core."""

from __future__ import annotations

import pytest

from edge.core import events as ev
from edge.core.events import Event
from edge.core.jobs import Failure, Progressed
from edge.inbound import event_of, happening
from schemas.errors import Reject, WireError
from schemas.messages import Command, DeviceState, DeviceStatus, Message
from schemas.topics import Address, Kind
from tests.edge_scripts import DEVICE, announcement, coordinator, described, evaluated, pointer, receipt, run, trained

KEY = "run-one/1/train"


def test_a_job_that_failed_is_told_from_one_that_is_done() -> None:
    """Seen to fail with a failure handed on as a result, which a device would wait for ever to make sense of."""
    failure = Failure(key=KEY, kind="crash", message="the trainer died")
    assert happening(failure) == ev.JobFailed(failure)
    for result in (described(KEY), trained(KEY), evaluated(KEY)):
        assert happening(result) == ev.JobDone(result)


@pytest.mark.parametrize("checkpoint", [b"", b"so far"])
def test_how_far_a_training_is_comes_with_what_to_go_on_from(checkpoint: bytes) -> None:
    """Seen to fail with the share done, or the checkpoint, left out."""
    told = happening(Progressed(key=KEY, fraction=0.25, checkpoint=checkpoint))
    assert told == ev.JobProgressed(KEY, 0.25, checkpoint)


ASKED = announcement(1)
HEARD: list[tuple[Address, Message, Event]] = [
    (Address(Kind.COORDINATOR), coordinator(), ev.CoordinatorSeen(coordinator())),
    (Address(Kind.RUN), run(), ev.RunSeen(run())),
    (Address(Kind.MODEL), pointer(1), ev.ModelSeen(pointer(1))),
    (Address(Kind.ROUND), ASKED, ev.RoundSeen(ASKED)),
    (Address(Kind.RECEIPT, number=1, device=DEVICE), receipt(ASKED), ev.ReceiptSeen(receipt(ASKED))),
    (Address(Kind.COMMAND, device=DEVICE), Command(command="pause"), ev.CommandSeen(Command(command="pause"))),
]


@pytest.mark.parametrize(("address", "message", "event"), HEARD, ids=[each[0].kind.name for each in HEARD])
def test_each_message_is_its_event(address: Address, message: Message, event: Event) -> None:
    assert event_of(address, message, DEVICE) == event


def test_a_receipt_on_another_topic_and_what_no_device_follows_are_refused() -> None:
    status = DeviceStatus(device=DEVICE, session=1, state=DeviceState.IDLE)
    wrong: list[tuple[Address, Message]] = [
        (Address(Kind.RECEIPT, number=2, device=DEVICE), receipt(ASKED)),
        (Address(Kind.RECEIPT, number=1, device=DEVICE), receipt(ASKED, device="dev-two")),
        (Address(Kind.DEVICE, device=DEVICE), status),
    ]
    for address, message in wrong:
        with pytest.raises(WireError) as caught:
            event_of(address, message, DEVICE)
        assert caught.value.reason is Reject.WRONG_SENDER
