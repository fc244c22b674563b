"""A Polar H10, as bleakheart hears it; instead of Bluetooth there is a client that speaks as the strap does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import bleak
import pytest
from bleakheart import PolarMeasurementData

from edge.live.source import SourceLost
from schemas.errors import SettingsError
from tests.live_reading import gather, opened, values
from tests.waiting import until

START, STOP, ECG = 0x02, 0x03, 0x00
STEP_NS = round(1e9 / 130)
REAL = bleak.BleakClient
STRAP = "polar:A0:9E:1A:00:00:01"
Handler = Callable[[object, bytearray], Awaitable[None]]


class Strap:
    """What stands for ``bleak.BleakClient``: a strap that answers its control point and sends what it is told to."""

    worn: Strap | None = None
    refusal = 0
    reachable = True
    away: Exception | None = None

    def __init__(self, address: str, disconnected_callback: Callable[[object], None]) -> None:
        self.address = address
        self.gone = disconnected_callback
        self.handlers: dict[str, Handler] = {}
        self.asked: list[bytes] = []
        self.streaming = threading.Event()
        self.connected = False
        self.loop = asyncio.get_running_loop()
        Strap.worn = self

    async def connect(self) -> None:
        if not self.reachable:
            away = f"Device with address {self.address} was not found."
            raise self.away or bleak.exc.BleakDeviceNotFoundError(self.address, away)
        self.connected = True

    async def disconnect(self) -> None:
        self.connected = False

    async def start_notify(self, characteristic: str, handler: Handler) -> None:
        self.handlers[characteristic] = handler

    async def write_gatt_char(self, characteristic: str, request: bytearray) -> None:
        self.asked.append(bytes(request))
        answer = bytearray([0xF0, request[0], request[1], self.refusal, 0x00])
        await self.handlers[characteristic](None, answer)
        if request[0] == START and not self.refusal:
            self.streaming.set()

    def send(self, stamp: int, microvolts: list[int]) -> None:
        """An ECG frame: kind, the time of its last sample, frame type, and 24 bits a sample."""
        frame = bytearray([ECG]) + stamp.to_bytes(8, "little") + b"\0"
        for value in microvolts:
            frame += value.to_bytes(3, "little", signed=True)
        handler: Any = self.handlers[PolarMeasurementData.PMDDATAMTU]
        asyncio.run_coroutine_threadsafe(handler(None, frame), self.loop).result(10)

    def leave(self) -> None:
        self.loop.call_soon_threadsafe(self.gone, self)


@pytest.fixture(autouse=True)
def air(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bleak, "BleakClient", Strap)
    monkeypatch.setattr(Strap, "refusal", 0)
    monkeypatch.setattr(Strap, "reachable", True)
    monkeypatch.setattr(Strap, "worn", None)


def worn() -> Strap:
    assert Strap.worn is not None
    return Strap.worn


def test_frames_come_as_mv_at_130_hz_and_what_was_lost_on_the_air_is_counted() -> None:
    with opened("polar:A0:9E:1A:00:00:01?leads=chest") as source:
        assert (source.signal.rate, source.signal.leads[0].name) == (130.0, "chest")
        strap = worn()
        assert strap.address == "A0:9E:1A:00:00:01"
        assert strap.asked == [bytes([START, ECG, 0x00, 0x01, 130, 0, 0x01, 0x01, 14, 0])]
        strap.send(10**18, [1000, -500, 0])
        strap.send(10**18 + 3 * STEP_NS, [1, 2, 3])
        strap.send(10**18 + 80 * STEP_NS, [4, 5])
        strap.send(10**12, [6])  # its clock was set
        chunks = gather(source, 9 + 75)
    assert values(chunks) == pytest.approx([1.0, -0.5, 0.0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006])
    assert [chunk.lost for chunk in chunks] == [0, 0, 75, 0]
    assert strap.asked[-1] == bytes([STOP, ECG])
    assert not strap.connected


def test_a_strap_that_leaves_is_lost() -> None:
    with opened(STRAP) as source:
        worn().leave()
        with pytest.raises(SourceLost, match=r"can't be heard \(it has disconnected\): wear it with wet electrodes"):
            until(lambda: source.read(0.1), "its leaving")


def test_a_strap_that_falls_silent_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.live.polar._SILENT_S", 0.1)
    with opened(STRAP) as source, pytest.raises(SourceLost, match="nothing came for 0 s"):
        until(lambda: source.read(0.05), "the silence")


def test_a_strap_that_is_not_there_or_gives_no_ecg_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strap, "reachable", False)
    with pytest.raises(SourceLost, match=r":01 can't be heard \(.* was not found"), opened(STRAP):
        pass
    monkeypatch.setattr(Strap, "reachable", True)
    monkeypatch.setattr(Strap, "refusal", 13)
    with pytest.raises(SourceLost, match=r"it gives no ECG: device in charger"), opened(STRAP):
        pass
    assert not worn().connected


def test_a_machine_without_bluetooth_is_told_from_a_strap_that_is_not_worn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Seen to fail: it asked for wet electrodes."""
    monkeypatch.setattr(bleak, "BleakClient", REAL)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    with (
        pytest.raises(SourceLost, match=r"no Bluetooth here \(nothing answers on D-Bus\): sudo apt install bluez"),
        opened(STRAP),
    ):
        pass


def test_a_radio_that_is_switched_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail: it asked for wet electrodes, beside a tuple."""
    off = bleak.exc.BleakBluetoothNotAvailableError(
        "No powered Bluetooth adapters found.", bleak.exc.BleakBluetoothNotAvailableReason.POWERED_OFF
    )
    monkeypatch.setattr(Strap, "reachable", False)
    monkeypatch.setattr(Strap, "away", off)
    with pytest.raises(SourceLost, match=r"no Bluetooth here \(No powered .* found\.\): "), opened(STRAP):
        pass


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bleakheart", None)
    with pytest.raises(SettingsError, match=r"pip install 'fedbeat\[polar\]'"), opened(STRAP):
        pass
