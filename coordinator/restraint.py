"""How many observations of a kind are told within a minute, where anybody can cause them without end."""

from __future__ import annotations

from typing import Final

from coordinator import observers as seen
from schemas.messages import MAX_DEVICES

MOST: Final[dict[type[seen.Observation], int]] = {  # an honest fleet rarely comes near
    seen.MessageRejected: 100,
    seen.DeviceTroubled: 100,
    seen.DeviceDeclined: 1000,
    seen.DeviceJoined: MAX_DEVICES,
}
