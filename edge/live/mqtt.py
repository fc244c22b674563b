"""Lines of numbers from an MQTT topic: each message holds one sample's line or many.

Subscribed at QoS 0: what comes late or twice is worse than a gap that is seen. Retained messages are old, and ignored.
"""

from __future__ import annotations

import os
import queue
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

from edge.live.lines import OPTIONS, Lines, lines_of
from edge.live.setting import Kind, Opener, Options, Surroundings
from edge.live.source import Chunk, Clock, Signal, SourceLost
from schemas.link.link import Disconnected, Event, Inbound

if TYPE_CHECKING:
    from schemas.link.mqtt_settings import MqttSettings

_FORM: Final = f"mqtt:TOPIC?{OPTIONS}&broker=mqtt://USER:PASSWORD@HOST (the device's own broker unless given)"
_MOST_WAITING: Final = 4096  # messages


class Subscription:
    """A topic on a broker, connected to for this alone."""

    def __init__(self, settings: MqttSettings, topic: str, lines: Lines, clock: Clock) -> None:
        """Connect. The link comes back by itself; only a broker that will never take us ends it."""
        from schemas.link.mqtt import MqttLink  # noqa: PLC0415 - paho, for who listens to MQTT

        self._lines = lines
        self._clock = clock
        self._waiting: queue.Queue[tuple[float, bytes] | Exception] = queue.Queue(_MOST_WAITING)
        self._link = MqttLink(settings, self._sink)
        try:
            self._link.subscribe(topic, qos=0)
        except ValueError:
            self._link.close()
            raise
        self._link.open()

    @property
    def signal(self) -> Signal:
        """What it gives."""
        return self._lines.signal

    @property
    def off(self) -> bool:
        """Whether its electrode is off, as it says."""
        return self._lines.off

    def read(self, wait_s: float) -> Chunk | None:
        """Samples that came; see ``LiveSource``."""
        if (chunk := self._lines.take()) is not None:
            return chunk
        try:
            came = self._waiting.get(timeout=wait_s)
        except queue.Empty:
            return None
        if isinstance(came, Exception):
            raise SourceLost(str(came))
        at, payload = came
        self._lines.feed(payload + b"\n", at)
        return self._lines.take()

    def close(self) -> None:
        """Disconnect."""
        self._link.close()

    def _sink(self, event: Event) -> None:
        came: tuple[float, bytes] | Exception
        match event:
            case Inbound(payload=payload, retained=False):
                came = self._clock(), payload
            case Disconnected(error=Exception() as error, fatal=True):
                came = error
            case _:
                return
        try:
            self._waiting.put_nowait(came)
        except queue.Full:  # the disk is that slow: what is lost is seen as a gap
            return


def _read(options: Options, surroundings: Surroundings) -> Opener:
    lines = lines_of(options)
    broker = options.text("broker")
    options.done()
    from schemas.link.address import BrokerAddress  # noqa: PLC0415 - likewise, ssl and urllib
    from schemas.link.filters import check_filter  # noqa: PLC0415 - likewise
    from schemas.link.mqtt_settings import MqttSettings  # noqa: PLC0415 - likewise

    name = f"record-{socket.gethostname()}-{os.getpid()}"
    if broker:
        settings = MqttSettings(BrokerAddress.parse(broker), name)
    elif surroundings.mqtt is not None:
        settings = surroundings.mqtt(name)
    else:
        raise options.wrong("no broker is given: add broker=")
    try:
        check_filter(options.place)
    except ValueError as error:
        raise options.wrong(str(error)) from None
    return partial(Subscription, settings, options.place, lines, surroundings.clock)


KIND = Kind(_FORM, "lines of numbers from an MQTT topic", "mqtt:sensors/ecg?rate=250", _read)
