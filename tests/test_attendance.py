"""What the reactor is told of its fleet; who is ready, and for how long, is in test_fleet."""

from __future__ import annotations

from coordinator import observers as seen
from coordinator.attendance import ASK_S, LONGEST_S, Attendance
from schemas.errors import Reject
from schemas.messages import DeviceState, DeviceStatus


def status(device: str, **changes: object) -> DeviceStatus:
    values: dict[str, object] = {"device": device, "session": 1, "state": DeviceState.IDLE, "examples": 5, **changes}
    return DeviceStatus.model_validate(values)


def heard(attendance: Attendance, *statuses: DeviceStatus) -> list[Reject | None]:
    answers = [attendance.hear(one, 0.0, topic="t", retained=False) for one in statuses]
    return [None if answer is None else answer.reason for answer in answers]


def test_a_look_tells_what_has_changed_since_the_last_one() -> None:
    attendance = Attendance()
    heard(attendance, status("dev-a"), status("dev-b", held_out=2))
    looked = attendance.look(0.0)
    assert looked is not None
    view, sight = looked
    assert view.ready == {"dev-a", "dev-b"}
    assert sight == seen.FleetSeen(2, 2, 1)
    assert attendance.look(0.0) is None
    attendance.forget("dev-a")
    assert attendance.look(0.0) is not None


def test_only_a_new_session_or_stock_is_for_the_journal() -> None:
    attendance = Attendance()
    heard(attendance, status("dev-a"))
    attendance.met.clear()
    heard(attendance, status("dev-a", state=DeviceState.TRAINING))
    assert not attendance.met
    heard(attendance, status("dev-a", examples=6))
    assert attendance.met["dev-a"].examples == 6


def test_what_is_retained_is_asked_for_ever_less_often_while_the_run_waits_for_devices() -> None:
    """A fleet may be large. Seen to fail where it is asked for as often as at first, and where each wait goes on from
    the one before.
    """
    attendance = Attendance()
    asked = [now for now in range(3000) if attendance.asks(float(now), waiting=True)]
    assert asked[:3] == [ASK_S, 3 * ASK_S, 7 * ASK_S]
    assert asked[-1] - asked[-2] == LONGEST_S
    assert not attendance.asks(3000.0, waiting=False)
    assert not attendance.asks(9000.0, waiting=True)
    assert attendance.asks(9000.0 + ASK_S, waiting=True)


def test_a_device_for_which_there_is_no_room_is_rejected() -> None:
    attendance = Attendance()
    attendance.fleet.limit = 1
    assert heard(attendance, status("dev-a"), status("dev-b")) == [None, Reject.UNKNOWN_DEVICE]
    assert set(attendance.met) == {"dev-a"}


def test_that_people_are_made_up_is_told_once_of_the_first_devices() -> None:
    attendance = Attendance()
    heard(attendance, status("dev-a"))
    attendance.look(0.0)
    assert attendance.made_up() is None
    heard(attendance, *(status(f"dev-{n}", synthetic=True) for n in range(3)))
    looked = attendance.look(0.0)
    assert looked is not None
    assert looked[0].synthetic == {"dev-0", "dev-1", "dev-2"}
    assert attendance.made_up() == seen.DataMadeUp("dev-0", 2)
    heard(attendance, status("dev-3", synthetic=True))
    attendance.look(0.0)
    assert attendance.made_up() is None


def test_a_complaint_of_many_is_told_once() -> None:
    attendance = Attendance()
    heard(attendance, *(status(f"dev-{n}", state=DeviceState.TROUBLE, detail="no data") for n in range(3)))
    attendance.look(0.0)
    assert list(attendance.troubles()) == [seen.DeviceTroubled("dev-0", "no data", 2)]
    assert not list(attendance.troubles())
