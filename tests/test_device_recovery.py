"""A device that dies in the middle of a training goes on where it was: real processes, on a real broker."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from edge import files
from edge.core import attempt
from edge.core.jobs import Train, Trained
from edge.dataspec import DataSpec
from edge.trainer.child import Trainer
from edge.trainer.inbox import Inbox
from schemas import codec
from schemas.messages import TrainSettings, Update
from tests.device_desk import MODEL_BLOB, PLAN_BLOB, DeviceDesk, recordings
from tests.link_mosquitto import Mosquitto
from tests.running_commands import EDGE, Running
from tests.trainer_ends import unheard
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)  # several processes, each with torch, on a machine that may be busy
LIMIT_S = 100.0
DEVICE = "dev-one"
LONG = TrainSettings(epochs=500, batch_size=1, momentum=0.9)  # 24,000 batches: some seconds on a fast machine too


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What the training gives that nothing interrupts."""
    data = recordings(tmp_path_factory.mktemp("straight"))
    torch.set_num_threads(1)
    trainer = Trainer(Inbox(unheard(), leave=lambda _code: None), threads=1, report=lambda _progressed: None)
    drawn = attempt.seed(DeviceDesk.settings(LONG), 1, DEVICE)
    spec = DataSpec(path=str(data), held_out="0.2")
    job = Train(key="k", plan=PLAN_BLOB, model=MODEL_BLOB, data=spec, settings=LONG, seed=drawn, codec="int8")
    answer = trainer.answer(job)
    assert isinstance(answer, Trained), answer
    return answer


class Device:
    """`edge run` in a process of its own, again and again on the same disk."""

    def __init__(self, home: Path, broker: Mosquitto) -> None:
        self.home = home
        self.state = home / "state"
        self._arguments = ("run", "--broker", broker.address, "--data", str(recordings(home)), "--device", DEVICE)
        self.running: Running | None = None

    def start(self, *more: str) -> Running:
        """Start it, or start it again."""
        self.running = Running(
            *EDGE, *self._arguments, "--state", str(self.state), "--trainer-nice", "0", *more, cwd=self.home
        )
        return self.running

    def end(self) -> str:
        """Wait for its end; what it had to say."""
        assert self.running is not None
        said = self.running.end().err
        self.running = None
        return said

    def trainers(self) -> list[psutil.Process]:
        """Its trainer's process, if it has one."""
        assert self.running is not None
        return list(psutil.Process(self.running.pid).children())

    def kept(self) -> float:
        """How far the checkpoint on disk is."""
        record = files.read(self.state / "checkpoint")
        return 0.0 if record is None else float(record.header["fraction"])


@pytest.fixture
def desk(mosquitto: Mosquitto) -> Iterator[DeviceDesk]:
    desk = DeviceDesk(mosquitto.address, LONG)
    yield desk
    desk.close()


@pytest.fixture
def device(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Device]:
    device = Device(tmp_path, mosquitto)
    yield device
    if device.running is not None:
        device.running.__exit__()


def goes_on_from(running: Running) -> float:
    """The fraction at which the device says that it goes on."""
    line = running.wait_for("goes on from")
    found = re.search(r"goes on from ([\d.]+)%", line)
    assert found is not None, line
    return float(found[1]) / 100


def arrived(desk: DeviceDesk) -> Update:
    until(lambda: desk.update() is not None, "the update", LIMIT_S)
    blob = desk.update()
    assert blob is not None
    return codec.decode_update(blob)


def is_equal(update: Update, straight: Trained) -> bool:
    """The loss travels as a float32."""
    loss = float(np.float32(straight.train_loss))
    return (update.payload, update.train_loss, update.examples) == (straight.payload, loss, straight.examples)


def test_invariant_08_a_killed_agent_goes_on_from_its_checkpoint_to_the_same_bits(
    device: Device, desk: DeviceDesk, straight: Trained
) -> None:
    """Seen to fail with the checkpoint not handed to the trainer (it never says that it goes on)."""
    running = device.start("--checkpoint", "0.2")
    desk.announce()
    until(lambda: device.kept() > 0.1, "a checkpoint", LIMIT_S)
    (trainer,) = device.trainers()
    running.send(signal.SIGKILL)
    device.end()
    trainer.wait(30)
    kept = device.kept()
    assert desk.update() is None
    assert goes_on_from(device.start("--checkpoint", "0.2")) == pytest.approx(kept, abs=0.001)
    assert is_equal(arrived(desk), straight)
    until(lambda: not (device.state / "checkpoint").exists(), "the checkpoint to go", LIMIT_S)


def test_invariant_08_a_killed_trainer_goes_on_from_its_checkpoint_to_the_same_bits(
    device: Device, desk: DeviceDesk, straight: Trained
) -> None:
    """Seen to fail with a crash that starts over."""
    running = device.start("--checkpoint", "0.2")
    desk.announce()
    until(lambda: device.kept() > 0.1, "a checkpoint", LIMIT_S)
    (trainer,) = device.trainers()
    trainer.kill()
    assert goes_on_from(running) > 0.1
    assert is_equal(arrived(desk), straight)


def test_invariant_08_a_device_that_is_told_to_stop_keeps_where_its_training_is(
    device: Device, desk: DeviceDesk, straight: Trained
) -> None:
    """With checkpoints too rare to have one on the way. Seen to fail with a cancel in place of the suspension."""
    running = device.start("--checkpoint", "3600")
    desk.announce()
    until(lambda: desk.progress(DEVICE) > 0, "progress", LIMIT_S)
    assert not (device.state / "checkpoint").exists()
    running.send(signal.SIGTERM)
    device.end()
    kept = device.kept()
    assert 0 < kept < 1
    assert goes_on_from(device.start()) == pytest.approx(kept, abs=0.001)
    assert is_equal(arrived(desk), straight)
