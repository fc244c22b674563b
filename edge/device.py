"""What one device is told by its owner, of which its agent is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.core.participation_state import OUTBOX_S
from edge.core.personal_settings import PersonalSettings
from edge.dataspec import DataSpec


@dataclass(frozen=True, slots=True)
class Device:
    """What one device is told: its name, its data, where it may write. ``session`` rises with each start."""

    name: str
    session: int
    data: DataSpec
    state: Path
    heartbeat_s: float = 30.0
    software: str = ""
    durable: bool = True  # an update, and what was moved of the budget, survive a power cut
    checkpoint_s: float = 0.0  # between two checkpoints of a training; none where 0
    outbox_s: float = OUTBOX_S  # how long an update waits for its receipt, while the device runs
    idle_heartbeat_s: float = 0.0  # instead of a shorter ``heartbeat_s`` while no coordinator has work
    budget: int | None = None  # bytes of payload it may move within a day of running
    personal: PersonalSettings | None = None  # how its owner's own model is made, if there is to be one
