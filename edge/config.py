"""A device's settings, and those of a virtual fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from schemas.settings import LinkSettings

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class EdgeSettings(LinkSettings):
    """All of ``edge run``, from flags, environment and ``edge.toml``."""

    device: str = Field("", description="this device's name; the host's name unless given")
    data: str = Field("", description="its recordings: a folder or file")
    held_out: str = Field("0.2", description="'none', or the newest fraction of its examples kept for evaluation")
    state: Path = Field(Path("state/edge"), description="directory of the outbox and the newest model")
    heartbeat: Seconds = Field(30.0, description="seconds between status messages")
    checkpoint: Annotated[float, Field(ge=0, le=86_400)] = Field(
        300.0, description="seconds between two checkpoints of a training; 0 for none"
    )
    outbox_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        7.0, description="days of running for which an update waits for its receipt"
    )
    idle: Seconds = Field(30.0, description="seconds an idle trainer process is kept")
    threads: Annotated[int, Field(ge=1, le=64)] = Field(1, description="threads of the trainer process")
    nice: Annotated[int, Field(ge=0, le=19)] = Field(10, description="how far the trainer process steps back")


class FleetSettings(LinkSettings):
    """All of ``edge fleet``."""

    devices: Annotated[int, Field(ge=1, le=10_000)] = Field(8, description="virtual devices that train")
    data: str = Field("", description="recordings they share out: a path, 'watch' or 'sklearn-digits'")
    partition: str = Field("auto", description="auto, owner, even, dirichlet:ALPHA or shards:K")
    held_out: str = Field("auto", description="'auto', 'none', or the fraction of examples kept for evaluation")
    state: Path = Field(Path("state/fleet"), description="directory of their outboxes and models")
    seed: Annotated[int, Field(ge=0, le=2**53)] = Field(0, description="of the partition")
    heartbeat: Seconds = Field(30.0, description="seconds between status messages")
    trainers: Annotated[int, Field(ge=1, le=64)] | None = Field(None, description="trainer processes they share")
    prefix: str = Field("virtual", description="what the devices' names begin with")
