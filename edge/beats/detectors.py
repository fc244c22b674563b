"""Where the beats of a recorded lead are: by the device's own detector, or by SleepECG's (Hofer and Brunner 2023).

SleepECG's is another of the family of Pan and Tompkins (1985). It filters a lead forwards and backwards and goes back
in it to look for beats that were missed, so it needs the whole of it: in pieces, as a signal comes, the same lead would
have other beats. So it is for recordings alone, and not for what a device trains on, whose models then hear live beats.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.errors import SettingsError

Detector = Literal["own", "sleepecg"]
Peaks = Callable[[NDArray[np.float64], float], NDArray[np.int64]]  # of a gapless lead in mV, and its rate in Hz

_LEARNING_S: Final = 2.0  # SleepECG reads so much of a lead however short it is, past its end too


def peaks_by(name: Detector) -> Peaks | None:
    """What finds the R peaks of a whole lead, by their samples in order; None for the device's own detector.

    Raises ``SettingsError`` where its package isn't installed.
    """
    if name == "own":
        return None
    if find_spec("sleepecg") is None:
        raise SettingsError("SleepECG isn't installed: pip install 'fedbeat[sleepecg]', or leave --detector out")
    return sleepecg_peaks


def sleepecg_peaks(signal: NDArray[np.float64], rate: float) -> NDArray[np.int64]:
    """The R peaks (k,) that SleepECG finds in a lead (samples,) without gaps, at 76 Hz or more."""
    from sleepecg.heartbeats import detect_heartbeats  # noqa: PLC0415 - an extra, and two seconds of imports

    changes = np.flatnonzero(signal != signal[:1])
    flat = int(changes[0]) if len(changes) else len(signal)  # it begins where a lead first changes
    if len(signal) - flat <= _LEARNING_S * rate:
        return np.empty(0, np.int64)
    return np.asarray(detect_heartbeats(np.ascontiguousarray(signal, np.float64), rate), np.int64)
