"""A converter of Linux's Industrial I/O, on a tree of files like the kernel's."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from edge.live.iio import Iio
from edge.live.setting import Scale
from edge.live.source import Lead, Signal, SourceLost
from schemas.errors import SettingsError
from tests.live_reading import gather, opened, values


@pytest.fixture
def root(tmp_path: Path) -> Path:
    device = tmp_path / "sys/bus/iio/devices/iio:device1"
    device.mkdir(parents=True)
    for name, text in {
        "name": "ads1015",
        "in_voltage0_raw": "1000",
        "in_voltage0_scale": "2.0",
        "in_voltage1_raw": "-200",
        "in_voltage_scale": "0.5",
        "in_voltage1_offset": "100",
        "in_voltage0-voltage1_raw": "7",
        "in_voltage-voltage_scale": "3",
        "sampling_frequency": "1600",
    }.items():
        (device / name).write_text(f"{text}\n")
    return tmp_path


@pytest.mark.parametrize("place", ["device1", "ads1015"])
def test_a_device_is_found_by_number_and_name_and_gives_mv(root: Path, place: str) -> None:
    setting = f"iio:{place}?channel=voltage0,voltage1,voltage0-voltage1&rate=200&scale=0.01&zero=1650&root={root}"
    with opened(setting) as source:
        assert source.signal.rate == 200
        assert [lead.name for lead in source.signal.leads] == ["ecg1", "ecg2", "ecg3"]
        chunks = gather(source, 5)
    assert values(chunks)[0] == pytest.approx((1000 * 2.0 - 1650) * 0.01)
    assert values(chunks, 1)[0] == pytest.approx((-100 * 0.5 - 1650) * 0.01)
    assert values(chunks, 2)[0] == pytest.approx((7 * 3 - 1650) * 0.01)


def test_each_sample_is_read_anew(root: Path) -> None:
    raw = root / "sys/bus/iio/devices/iio:device1/in_voltage0_raw"
    with opened(f"iio:device1?rate=100&root={root}") as source:
        first = values(gather(source, 3))
        with raw.open("r+") as file:  # as the kernel has it: the same file, another number
            file.write("1500")
        gather(source, 12)
        assert (first[-1], values(gather(source, 1))[-1]) == (2000.0, 3000.0)


class Clockwork:
    """A clock and a ``sleep`` that make time; a sleep of these numbers takes longer than asked."""

    def __init__(self, late: dict[int, float]) -> None:
        self.now = 0.0
        self._late = late
        self._count = itertools.count()

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self._late.get(next(self._count), 0.0)


@pytest.mark.parametrize(("late", "missing"), [({}, 0), ({7: 0.004}, 0), ({7: 0.035}, 3), ({0: 0.025, 20: 0.011}, 3)])
def test_a_poll_that_comes_too_late_has_lost_its_samples_and_time_goes_on_evenly(
    root: Path, monkeypatch: pytest.MonkeyPatch, late: dict[int, float], missing: int
) -> None:
    clock = Clockwork(late)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    with (root / "sys/bus/iio/devices/iio:device1/in_voltage0_raw").open() as file:
        signal = Signal((Lead("ecg"),), 100.0)
        source = Iio("a device", [file.fileno()], [(Scale(0, 1), Scale(0, 1))], signal, lambda: clock.now)
        chunks = [chunk for _ in range(10) if (chunk := source.read(1.0)) is not None]
    assert sum(chunk.lost for chunk in chunks) == missing
    count = 0
    for chunk in chunks:
        count += chunk.lost + len(chunk.samples[0])
        assert chunk.at == pytest.approx((count - 1) / 100.0)


def test_a_bus_that_fails_now_and_then_costs_a_sample_and_one_that_is_gone_is_told(root: Path) -> None:
    raw = root / "sys/bus/iio/devices/iio:device1/in_voltage0_raw"
    with opened(f"iio:device1?rate=200&root={root}") as source:
        gather(source, 2)
        with raw.open("r+") as file:
            file.truncate()  # what reads as no number
        with pytest.raises(SourceLost, match="iio:device1 can't be read any more"):
            gather(source, 1000)


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        ("iio:device9", SourceLost, r"no converter device9 in .*; there is: device1 \(ads1015\)"),
        (
            "iio:device1?channel=voltage7",
            SourceLost,
            r"can't read channel voltage7 .*it has: voltage0, volt",
        ),
        ("iio:device1?rate=2000", SettingsError, r"converts 1600 times a second: rate=1600"),
        ("iio:device1?channel=../x", SettingsError, "channel= is to name channels such as"),
        ("iio:device1?chanel=voltage0", SettingsError, "'chanel' is no option of it; these are: channel"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(root: Path, setting: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words), opened(f"{setting}{'&' if '?' in setting else '?'}root={root}"):
        pass
