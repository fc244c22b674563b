"""What a coordinator puts on the broker where versions go out by steps too."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from coordinator.models import ModelStore
from schemas import codec, steps
from schemas.messages import ModelPointer
from schemas.topics import Address, Kind
from tests.running_coordinator import RunningCoordinator
from tests.scripted_device import Script
from tests.test_service import TOPICS


@pytest.mark.parametrize("downlink", steps.CODECS)
def test_must_34_each_version_is_the_one_before_and_its_step_which_stands_beside_it(
    tmp_path: Path, downlink: str
) -> None:
    """The step of the version before last is cleared. Seen to fail with the rule's own model published instead."""
    running = RunningCoordinator(tmp_path / "state", rounds=4, evaluate=False, downlink=downlink)
    for number in range(3):
        running.device(f"dev-{number}", Script())
    with running:
        result = running.result()
    kept = running.broker.retained
    pointer = codec.decode(Kind.MODEL, kept[TOPICS.topic(Address(Kind.MODEL))])
    assert isinstance(pointer, ModelPointer)
    assert pointer.step is not None
    parts = [Address(Kind.DELTA_PART, number=pointer.version, part=index) for index in range(pointer.step.parts)]
    step = b"".join(codec.decode_part(kept[TOPICS.topic(part)]).payload for part in parts)
    assert (hashlib.sha256(step).hexdigest(), len(step)) == (pointer.step.digest, pointer.step.size)
    before = ModelStore(tmp_path / "state" / "models").load(pointer.version - 1)
    assert before.parameters.digest() == pointer.previous
    assert steps.apply(before.parameters, step).digest() == pointer.digest == result.digest
    numbers = {address.number for topic in kept if (address := TOPICS.parse(topic)) and address.kind is Kind.DELTA_PART}
    assert numbers == {pointer.version - 1, pointer.version}
