"""A device's settings, and those of a virtual fleet; what isn't given follows from the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from edge.core.jobs import MAX_TOGETHER, Accelerator
from edge.core.personal_settings import PULL, STEPS, Method, PersonalSettings
from schemas.errors import SettingsError
from schemas.settings import LinkSettings

Seconds = Annotated[float, Field(gt=0, le=86_400)]

# By a machine's memory in MB: for how many seconds its trainer child, some 300 MB with PyTorch, waits for the next job.
# A Pi Zero 2 (512 MB) and a Pi 3 need them back; 2 GB lend them for the pause between two tasks of a round; from 3 GB
# up the child stays from round to round, and no round waits for PyTorch to be imported again.
IDLE_S: Final = ((1000, 5.0), (3000, 30.0))
KEPT_S: Final = 600.0
MOST_THREADS: Final = 4


def fitting_idle_s(memory_mb: float | None) -> float:
    """For how long a trainer child is kept idle on a machine with so much memory; None: it can't tell."""
    return next((seconds for limit, seconds in IDLE_S if memory_mb is None or memory_mb < limit), KEPT_S)


def fitting_threads(cores: int) -> int:
    """Threads of a trainer child on a machine with so many cores: half of them, so that no thread waits for a core.

    PyTorch's threads wait for one another at every operation: on two cores with other work, two of them took ten times
    as long as one.
    """
    return min(MOST_THREADS, max(1, cores // 2))


def memory_mb() -> float | None:
    """What this machine has, in MB; None where it doesn't tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError):
        return None


def _idle_s() -> float:
    return fitting_idle_s(memory_mb())


def _threads() -> int:
    return fitting_threads(len(os.sched_getaffinity(0)))


class DeviceSettings(LinkSettings):
    """What a device of one's own and a virtual one have in common."""

    personal: Literal["off", Method] = Field(
        "off", description="how it makes its owner a model of their own: off, ditto, fine-tune or local-layers"
    )
    local_layers: str = Field("", description="for local-layers: names of layers, or what they begin with, and commas")
    personal_steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(STEPS, description="batches of that training")
    personal_pull: Annotated[float, Field(gt=0, le=1e6)] = Field(
        PULL, description="for ditto: how strongly it is pulled towards the global model"
    )

    def personalisation(self) -> PersonalSettings | None:
        """How the owner's own model is made; None for none. Raises ``SettingsError``."""
        layers = tuple(name.strip() for name in self.local_layers.split(",") if name.strip())
        if self.personal == "off" and not layers:
            return None
        about = {"method": self.personal, "steps": self.personal_steps, "pull": self.personal_pull, "layers": layers}
        try:
            return PersonalSettings.model_validate(about)
        except ValidationError:
            raise SettingsError(
                "--local-layers goes with --personal local-layers, and that with it: name layers such as layers.7, "
                "with commas between, or choose ditto or fine-tune"
            ) from None


class EdgeSettings(DeviceSettings):
    """All of ``edge run``, from flags, environment and ``edge.toml``."""

    device: str = Field("", description="this device's name; the host's name unless given")
    data: str = Field("", description="its recordings: a folder or file")
    held_out: str = Field("0.2", description="'none', the newest fraction kept for evaluation, or 'people:NAME,...'")
    state: Path = Field(Path("state/edge"), description="directory of the outbox and the newest model")
    heartbeat: Seconds = Field(30.0, description="seconds between status messages")
    idle_heartbeat: Seconds = Field(600.0, description="and while no coordinator has work, where that is longer")
    checkpoint: Annotated[float, Field(ge=0, le=86_400)] = Field(
        300.0, description="seconds between two checkpoints of a training; 0 for none"
    )
    outbox_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        7.0, description="days of running for which an update waits for its receipt"
    )
    budget: str = Field("none", description="bytes it may send and receive within a day, such as 50MB/day; or none")
    trainer_idle: Seconds = Field(default_factory=_idle_s, description="seconds a trainer process without work is kept")
    trainer_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        default_factory=_threads, description="threads of the trainer process"
    )
    trainer_nice: Annotated[int, Field(ge=0, le=19)] = Field(10, description="how far the trainer process steps back")
    record: str = Field("", description="what it records while it runs, such as serial:/dev/ttyUSB0?rate=250")
    record_to: Path | None = Field(None, description="directory of its recordings; `recordings` beside the state")
    record_segment: Annotated[float, Field(ge=1, le=86_400)] = Field(1800.0, description="seconds of one recording")
    record_sync: Annotated[float, Field(ge=0.1, le=60)] = Field(
        1.0, description="seconds between two writes: what a power cut costs at most"
    )
    record_keep: str = Field("2GB", description="bytes of recordings that are kept, the newest; or none for all")
    record_days: Annotated[float, Field(gt=0, le=3650)] | None = Field(
        None, description="days of running for which a recording is kept; for good unless given"
    )
    findings: bool = Field(False, description="publish what the newest model finds in its ECG: counts, no signals")
    findings_window: Annotated[float, Field(ge=60, le=86_400)] = Field(
        300.0, description="seconds that are counted together"
    )
    findings_alerts: str = Field("", description="thresholds of alerts that aren't the defaults: v_run=5,s_share=off")


class FleetSettings(DeviceSettings):
    """All of ``edge fleet``."""

    devices: Annotated[int, Field(ge=1, le=10_000)] = Field(8, description="virtual devices that train")
    data: str = Field("", description="recordings they share out: a path, or a word such as 'watch' or 'synthetic-ecg'")
    partition: str = Field("auto", description="auto, owner, even, dirichlet:ALPHA or shards:K")
    held_out: str = Field("auto", description="'auto', 'none', the fraction kept for evaluation, or 'people:NAME,...'")
    state: Path = Field(Path("state/fleet"), description="directory of their outboxes and models")
    seed: Annotated[int, Field(ge=0, le=2**53)] = Field(0, description="of the partition")
    heartbeat: Seconds = Field(30.0, description="seconds between status messages")
    trainers: Annotated[int, Field(ge=1, le=64)] | None = Field(None, description="trainer processes they share")
    together: Annotated[int, Field(ge=1, le=MAX_TOGETHER)] | None = Field(
        None, description="devices a trainer trains at once; 1 for one by one, by the plan's size unless given"
    )
    accelerator: Accelerator = Field("cpu", description="what they train on: cpu, or cuda for an NVIDIA GPU")
    budget: str = Field("none", description="bytes each may send and receive within a day, such as 50MB/day; or none")
    prefix: str = Field("virtual", description="what the devices' names begin with")
