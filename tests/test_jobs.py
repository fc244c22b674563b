from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.jobs import (
    MAX_BLOB,
    MAX_HEADER,
    Answer,
    Cancel,
    Describe,
    Described,
    Done,
    Evaluate,
    Evaluated,
    Failure,
    Personalise,
    Personalised,
    Progressed,
    Request,
    Train,
    Trained,
    Warm,
    read_answer,
    read_request,
)
from edge.core.personal_settings import PersonalSettings, Verdict
from edge.dataspec import DataSpec
from schemas.errors import WireError
from schemas.messages import MAX_CLASSES, Counts, TrainSettings

DATA = DataSpec(path="/srv/ecg", devices=3, index=1)
REQUESTS: tuple[Request, ...] = (
    Describe(key="a", data=DATA, recipe="ecg-beats"),
    Train(
        key="b",
        plan=b"{}",
        model=bytes(range(256)),
        data=DATA,
        settings=TrainSettings(class_weights=(1.0, 2.0)),
        seed=2**53,
        codec="int8",
        checkpoint=b"so far",
        checkpoint_s=300.0,
        residual=b"left over",
        own=b"the owner's",
        local=("head",),
    ),
    Evaluate(key="c", plan=b"{}", model=b"\x00", data=DATA),
    Personalise(
        key="e",
        plan=b"{}",
        model=b"\x00",
        data=DATA,
        settings=TrainSettings(),
        how=PersonalSettings(method="local-layers", layers=("head",)),
        seed=3,
    ),
    Warm(key="d"),
    Cancel(key="b", keep=True),
)
ANSWERS: tuple[Answer, ...] = (
    Progressed(key="b", fraction=0.5, checkpoint=b"so far"),
    Described(key="a", examples=5, held_out=2, class_counts={"N": 5}, notes=("x",), rejected={"too near": 1}),
    Trained(key="b", payload=b"\x00\xff", examples=5, train_loss=0.5, seconds=1.5, residual=b"left"),
    Evaluated(key="c", counts=Counts(examples=3, loss_sum=1.5, confusion=((1, 0), (1, 1))), seconds=0.1),
    Personalised(
        key="e",
        model=b"\x00",
        verdict=Verdict(examples=8, personal_loss=1, global_loss=2, personal_f1=1, global_f1=0.5),
        seconds=0.1,
    ),
    Failure(key="c", kind="plan", message="it doesn't fit"),
    Done(key="d"),
)


def feed(*frames: bytes) -> Callable[[int], bytes]:
    """A receiver of these frames that keeps to the bound it is given."""
    rest = list(frames)

    def receive(most: int) -> bytes:
        assert most in {MAX_HEADER, MAX_BLOB}
        return rest.pop(0)

    return receive


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_comes_back_from_its_frames(request_: Request) -> None:
    assert read_request(feed(*request_.frames())) == request_


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_comes_back_from_its_frames(answer: Answer) -> None:
    assert read_answer(feed(*answer.frames())) == answer


def test_blobs_travel_beside_the_json_and_not_in_it() -> None:
    header, *blobs = REQUESTS[1].frames()
    assert blobs == [b"{}", bytes(range(256)), b"so far", b"left over", b"the owner's"]
    assert b"model" not in header


@given(st.binary(max_size=100))
def test_other_bytes_are_a_wire_error(frame: bytes) -> None:
    for read in (read_request, read_answer):
        with pytest.raises(WireError):
            read(feed(frame))


def test_counts_of_as_many_classes_as_a_plan_may_have_fit_a_frame() -> None:
    """Seen to fail from 724 classes on with frames of 1 MiB, however few examples there were."""
    rows = ((10**6,) * MAX_CLASSES,) * MAX_CLASSES
    counts = Counts(examples=10**6 * MAX_CLASSES**2, loss_sum=0.0, confusion=rows)
    assert len(Evaluated(key="c", counts=counts, seconds=1.0).frames()[0]) <= MAX_HEADER


def test_an_answer_is_no_request() -> None:
    with pytest.raises(WireError):
        read_request(feed(*ANSWERS[0].frames()))


def test_the_agent_imports_the_jobs_without_numpy() -> None:
    """Its process keeps what it imports in memory all day."""
    code = "import sys, edge.core.jobs, edge.trainer.pool; print({'numpy', 'torch', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
