"""Updates on their way: onto the disk whole, then to the broker in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge.core import effects as fx
from edge.core import events as ev
from edge.core.events import Event, Parcel
from edge.device_log import DeviceLog
from edge.meter import Meter
from edge.outbox import Outbox
from edge.residuals import Left
from edge.store import Store
from schemas import codec, parts
from schemas.errors import StateError, WireError
from schemas.topics import Address, Kind

ENVELOPE: Final = 1024  # bytes around the payload of a part


class Uploads:
    """Those of one device. Used from one thread."""

    def __init__(
        self,
        device: str,
        outbox: Outbox,
        store: Store,
        publish: Callable[[Address, bytes], int],
        meter: Meter,
        log: DeviceLog,
    ) -> None:
        """``publish`` gives the token by which the link tells that the broker has it."""
        self.limit: int | None = None  # bytes of a payload the broker takes
        self._device = device
        self._outbox = outbox
        self._store = store
        self._publish = publish
        self._meter = meter
        self._log = log

    def keep(self, effect: fx.StoreUpdate, running_s: float) -> Event:
        """Put an update on disk, cut up for this broker, after so many seconds of running."""
        size = effect.part_size if self.limit is None else min(effect.part_size, max(1, self.limit - ENVELOPE))
        try:
            blob = codec.encode_update(effect.update)
            parcel = Parcel(effect.ticket, parts.describe(blob, size))
            self._put(parcel, blob, Left(effect.plan, effect.residual), running_s)
        except (StateError, WireError) as error:
            return ev.StoreFailed(effect.ticket, str(error))
        return ev.UpdateStored(parcel)

    def send(self, parcel: Parcel, indices: tuple[int, ...] | None, now: float) -> tuple[Event, ...]:
        """Publish these parts of it, or all. Raises ``PayloadTooLarge``."""
        try:
            blob = self._outbox.blob(parcel.ticket)
        except StateError as error:  # it is tried again when it is due
            self._log.warn(str(error))
            return ()
        if blob is None:
            return (ev.UpdateLost(parcel.ticket),)
        size = 0
        for index in range(parcel.ref.parts) if indices is None else indices:
            address = Address(Kind.UPDATE_PART, number=parcel.ticket.round, device=self._device, part=index)
            payload = codec.encode_part(parts.cut(blob, parcel.ref, index))
            size += len(payload)
            token = self._publish(address, payload)
        most = 2 * size > len(blob)  # of a part or two what counts is how far the broker is
        self._meter.uploading(token, parcel if most else None, size, now)
        return ()

    def _put(self, parcel: Parcel, blob: bytes, left: Left, running_s: float) -> None:
        try:
            self._outbox.put(parcel, blob, running_s, left)
        except StateError:  # on a full disk the update may have the room of the checkpoint it makes useless
            self._store.drop_checkpoint()
            self._outbox.put(parcel, blob, running_s, left)
