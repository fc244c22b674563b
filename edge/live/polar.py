"""The ECG of a Polar H10 chest strap, over Bluetooth Low Energy: one lead, 130 Hz.

By bleakheart over bleak (the extra ``fedbeat[polar]``). A frame carries the strap's own time of its last sample, so
that frames lost on the air are counted exactly; the strap's clock is used for nothing else.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from functools import partial
from typing import Any, Final

from edge.live.setting import Kind, Opener, Options, Surroundings
from edge.live.source import Chunk, Clock, Lead, Signal, SourceLost
from schemas.errors import SettingsError

_FORM: Final = "polar:A0:9E:1A:12:34:56?leads=ecg (the strap's Bluetooth address: bluetoothctl scan le)"
_RATE: Final = 130.0  # Hz, the only one the H10 has
_MV: Final = 1e-3  # in which a strap's microvolts come
_CONNECT_S: Final = 30.0
_SILENT_S: Final = 20.0  # without a frame, on a connection that is said to be there
_BELIEVED_S: Final = 3600.0  # a longer gap is the strap's clock being set, not frames that were lost

_Frame = tuple[float, int, list[int]]  # when it came, the strap's time in ns of its last sample, microvolts


class Polar:
    """One strap. Bluetooth has a thread of its own, with asyncio's loop."""

    def __init__(self, address: str, lead: str, clock: Clock) -> None:
        """Connect and start the ECG. Raises ``SourceLost``, ``SettingsError`` where the extra isn't installed."""
        import asyncio  # noqa: PLC0415 - for who opens it: the agent only reads its setting

        try:
            import bleak  # noqa: PLC0415 - Bluetooth, for who has a strap
            import bleakheart  # noqa: PLC0415
        except ImportError:
            raise SettingsError("Bluetooth isn't installed: pip install 'fedbeat[polar]'") from None
        self.signal = Signal((Lead(lead),), _RATE)
        self._bleak: Any = bleak
        self._heart: Any = bleakheart
        self._address = address
        self._clock = clock
        self._frames: queue.SimpleQueue[_Frame | Exception] = queue.SimpleQueue()
        self._before: int | None = None  # ns, of the last sample of the frame before
        self._heard_at = clock()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="polar", daemon=True)
        self._thread.start()
        self._started.wait()
        with contextlib.suppress(queue.Empty):
            if isinstance(first := self._frames.get_nowait(), Exception):
                self.close()
                raise self._lost(first)
            self._frames.put(first)

    def read(self, wait_s: float) -> Chunk | None:
        """A frame, half a second of samples; see ``LiveSource``."""
        try:
            frame = self._frames.get(timeout=wait_s)
        except queue.Empty:
            if self._clock() - self._heard_at > _SILENT_S:
                raise self._lost(f"nothing came for {_SILENT_S:.0f} s") from None
            return None
        if isinstance(frame, Exception):
            raise self._lost(frame)
        at, stamp, microvolts = frame
        self._heard_at = at
        missed = 0
        if self._before is not None:
            missed = round((stamp - self._before) * 1e-9 * _RATE) - len(microvolts)
        self._before = stamp
        lost = missed if 0 < missed < _BELIEVED_S * _RATE else 0
        return Chunk(at, ([value * _MV for value in microvolts],), lost)

    def close(self) -> None:
        """Disconnect."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(_CONNECT_S)

    def _lost(self, why: object) -> SourceLost:
        told = str(why) or type(why).__name__
        if isinstance(why, FileNotFoundError | self._bleak.exc.BleakBluetoothNotAvailableError):
            told = "nothing answers on D-Bus" if isinstance(why, FileNotFoundError) else str(why.args[0])
            return SourceLost(f"no Bluetooth here ({told}): sudo apt install bluez, and bluetoothctl power on")
        return SourceLost(f"the strap {self._address} can't be heard ({told}): wear it with wet electrodes, near by")

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._hear())
        except Exception as error:  # noqa: BLE001 - whatever Bluetooth has to say; the reader hears of it
            self._frames.put(error)
        finally:
            self._started.set()
            self._loop.close()

    async def _hear(self) -> None:
        import asyncio  # noqa: PLC0415 - likewise

        def gone(_: object) -> None:
            self._frames.put(ConnectionError("it has disconnected"))
            self._over.set()

        async with asyncio.timeout(_CONNECT_S):
            client = self._bleak.BleakClient(self._address, disconnected_callback=gone)
            await client.connect()
        try:
            heart = self._heart.PolarMeasurementData(client, callback=self._take)
            code, text, *_ = await heart.start_streaming("ECG")
            if code:
                raise ConnectionError(f"it gives no ECG: {text.lower()}")
            self._started.set()
            await self._over.wait()
            with contextlib.suppress(Exception):
                await heart.stop_streaming("ECG")
        finally:
            with contextlib.suppress(Exception):
                await client.disconnect()

    def _take(self, frame: tuple[str, int, list[int]]) -> None:
        kind, stamp, microvolts = frame
        if kind == "ECG" and microvolts:
            self._frames.put((self._clock(), stamp, microvolts))


def _read(options: Options, surroundings: Surroundings) -> Opener:
    (lead,) = options.leads(1)
    options.done()
    return partial(Polar, options.place, lead.name, surroundings.clock)


KIND = Kind(_FORM, "a Polar H10 chest strap over Bluetooth (needs fedbeat[polar])", "polar:A0:9E:1A:12:34:56", _read)
