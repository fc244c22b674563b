"""What a live source gives: chunks of samples in mV, as they are taken, with the time of the last one.

A source is read by one thread, and keeps no samples back: what it has when ``read`` is called comes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from schemas.errors import DataError

GAIN: Final = 1000.0  # stored steps a mV unless a source says otherwise: 1 uV, and 32.767 mV to either side

Clock = Callable[[], float]  # monotonic, in seconds


class SourceLost(DataError):
    """The source is gone or never was there: unplugged, switched off, cut off. It may come back."""


class EndOfSignal(Exception):
    """There is no more, and never will be: no failure, as a recording that is replayed has an end."""


@dataclass(frozen=True, slots=True)
class Lead:
    """One lead, and how it is stored: ``round(mV * gain) + baseline`` in 16 bits."""

    name: str
    gain: float = GAIN  # steps a mV
    baseline: int = 0  # the step of 0 mV


@dataclass(frozen=True, slots=True)
class Signal:
    """What all chunks of a source have in common."""

    leads: tuple[Lead, ...]
    rate: float  # samples a second of each lead, as the source says


@dataclass(frozen=True, slots=True)
class Chunk:
    """Samples that follow one another without a gap.

    ``samples`` has for each lead as many values in mV, NaN where that lead alone has none. ``lost`` samples, as far as
    the source can tell, are missing between the chunk before and this one; ``marked`` where it said of some of them
    that its electrode was off.
    """

    at: float  # when the last one was taken, in monotonic seconds
    samples: tuple[Sequence[float], ...]
    lost: int = 0
    marked: bool = False


class LiveSource(Protocol):
    """An open source. For one thread."""

    @property
    def signal(self) -> Signal:
        """What it gives."""

    def read(self, wait_s: float) -> Chunk | None:
        """What there is, or the next that comes within ``wait_s``; None where nothing does.

        Raises ``SourceLost`` where it is gone, ``EndOfSignal`` where there is no more.
        """

    def close(self) -> None:
        """Let go of it. The second time nothing happens."""


@runtime_checkable
class TellsOff(Protocol):
    """What a source has beside that, where it can tell that its electrode is off."""

    @property
    def off(self) -> bool:
        """Whether it is, by the newest that came."""
