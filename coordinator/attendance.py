"""What the reactor knows of its fleet: who is there, what of it the round and the observers were told, who is new.

Time is an argument, and nothing is written or published here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from coordinator import observers as seen
from coordinator.events import Rejected
from coordinator.fleet import Fleet, View
from coordinator.round_state import Collecting
from schemas.errors import Reject
from schemas.messages import DeviceStatus

ASK_S: Final = 10.0  # that too few are there, until all that is retained of devices is asked for once more
LONGEST_S: Final = 600.0  # until that is done again; each time after twice as long


class Attendance:
    """The fleet, the view of it that was taken last, and statuses for the journal."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.met: dict[str, DeviceStatus] = {}  # for the next commit
        self._view = View()
        self._told: Mapping[str, str] = {}  # complaints that were let be seen
        self._synthetic = False  # whether made-up people were let be seen
        self._slow = False
        self._ask: tuple[float, float] | None = None  # when, and how long that is after the time before

    def hear(self, status: DeviceStatus, now: float, *, topic: str, retained: bool) -> Rejected | None:
        """Take a status; one for which there is no room is rejected."""
        known = self.fleet.members.get(status.device)
        if self.fleet.hear(status, now, retained=retained) is None:
            text = f"{len(self.fleet.members)} devices are known and ready, and no more are taken"
            return Rejected(Reject.UNKNOWN_DEVICE, text, topic, status.device)
        if known is None or (known.session, known.examples) != (status.session, status.examples):
            self.met[status.device] = status
            if len(self.met) > self.fleet.limit:
                del self.met[next(iter(self.met))]
        return None

    def paced(self, now: float, *, slow: bool) -> None:
        """Our own status comes seldom (``slow``) or often. Where it begins to come often, devices say how they are."""
        if self._slow and not slow:
            self.fleet.rouse(now)
        self._slow = slow

    def asks(self, now: float, *, waiting: bool) -> bool:
        """Whether the broker is to repeat what it retains of all devices: as the run waits for them.

        It may have thrown a status away on its way to us, and a device says its own again when a heartbeat is due.
        """
        if not waiting:
            self._ask = None
        elif self._ask is None:
            self._ask = now + ASK_S, ASK_S
        elif now >= self._ask[0]:
            patience_s = min(2 * self._ask[1], LONGEST_S)
            self._ask = now + patience_s, patience_s
            return True
        return False

    def expired(self, stage: Collecting, now: float) -> None:
        """An attempt ended at its deadline: who has not answered it is no longer believed to be there for long."""
        self.fleet.rouse(now, stage.silent)

    def forget(self, device: str) -> None:
        """Its status was cleared."""
        self.fleet.forget(device)

    def look(self, now: float) -> tuple[View, seen.FleetSeen | None] | None:
        """Who is ready now, and what there is to see in that; None where nothing has changed since the last look."""
        view, before = self.fleet.view(now), self._view
        if view == before:
            return None
        self._view = view
        old, new = ((len(v.ready), len(v.trainers), len(v.evaluators)) for v in (before, view))
        return view, seen.FleetSeen(*new) if old != new else None

    def made_up(self) -> seen.DataMadeUp | None:
        """That there are devices with made-up people, once."""
        devices = self._view.synthetic.intersection(self.fleet.members)
        if self._synthetic or not devices:
            return None
        self._synthetic = True
        return seen.DataMadeUp(min(devices), len(devices) - 1)

    def troubles(self) -> Iterator[seen.DeviceTroubled]:
        """New complaints, all of one kind at once: a whole fleet may have the same."""
        told, self._told = self._told, self._view.complaints
        complaining: dict[str, list[str]] = {}
        for device, reason in self._told.items():
            if told.get(device) != reason:
                complaining.setdefault(reason, []).append(device)
        for reason, devices in complaining.items():
            yield seen.DeviceTroubled(min(devices), reason, len(devices) - 1)
