from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge.core.jobs import (
    Answer,
    Cancel,
    Describe,
    Described,
    Done,
    Evaluate,
    Evaluated,
    Failure,
    Merge,
    Merged,
    Progressed,
    Request,
    Together,
    Train,
    Trained,
    Warm,
)
from edge.core.lineage import Lineage
from edge.dataspec import DataSpec
from edge.trainer.child import Recordings, Trainer
from edge.trainer.frames import Frames
from edge.trainer.inbox import Batch, Cancelled, Inbox, explained
from edge.training import feedback
from edge.training.loop import train
from schemas import compression, steps
from schemas.messages import TrainSettings
from schemas.parameters import Parameters
from schemas.plan_file import PlanFile
from tests import trainer_ends
from tests.plan_examples import CLASSES, fields, tiny, windows

ROOT = str(Path(__file__).parents[1])

torch.set_num_threads(1)
MODEL = PlanFile(tiny(), {}).initial(0)


def blob(model: Parameters) -> bytes:
    return compression.encode("float32", model, np.random.default_rng(0))


BLOB = blob(MODEL)


@pytest.fixture
def data(tmp_path: Path) -> DataSpec:
    """Sixty windows on disk, a fifth of them held out."""
    return saved(tmp_path / "windows.npz")


def saved(file: Path, examples: int = 60) -> DataSpec:
    drawn = windows(examples)
    np.savez(file, x=drawn.inputs[0], y=drawn.labels, classes=np.array(CLASSES))
    return DataSpec(path=str(file), held_out="0.2")


@pytest.fixture
def ends() -> tuple[Frames, Frames]:
    return trainer_ends.ends()


@pytest.fixture
def trainer(ends: tuple[Frames, Frames]) -> Trainer:
    return Trainer(Inbox(ends[1], leave=lambda _code: None), threads=1, report=lambda _progressed: None)


def send(agent: Frames, *requests: Request) -> None:
    for request in requests:
        for frame in request.frames():
            agent.send(frame)


def job(data: DataSpec, /, **changes: Any) -> Train:
    about = {"key": "round-1", "plan": tiny().to_bytes(), "model": BLOB, "data": data, "seed": 3, "codec": "float32"}
    return Train.model_validate({**about, "settings": TrainSettings(), **changes})


def test_describing_counts_what_is_there(trainer: Trainer, data: DataSpec) -> None:
    described = trainer.answer(Describe(key="d", data=data, recipe="windows"))
    assert isinstance(described, Described)
    assert (described.examples, described.held_out) == (48, 12)
    assert sum(described.class_counts.values()) == 48


def test_training_answers_the_delta_that_training_gives(trainer: Trainer, data: DataSpec) -> None:
    trained = trainer.answer(job(data))
    assert isinstance(trained, Trained)
    rng, _ = np.random.default_rng(3).spawn(2)
    mine = train(MODEL, windows().take(np.arange(48)), tiny(), TrainSettings(), rng)
    assert compression.decode(trained.payload, MODEL.manifest).equal(mine.delta)
    assert (trained.examples, trained.train_loss) == (48, mine.metrics.loss)


def test_the_same_job_gives_the_same_bytes_in_every_codec(trainer: Trainer, data: DataSpec) -> None:
    for codec in compression.NAMES:
        one, two = trainer.answer(job(data, codec=codec)), trainer.answer(job(data, codec=codec))
        assert isinstance(one, Trained)
        assert isinstance(two, Trained)
        assert one.payload == two.payload
        other = trainer.answer(job(data, codec=codec, seed=4))
        assert isinstance(other, Trained)
        assert other.payload != one.payload


def test_what_an_update_leaves_out_comes_back_and_is_carried_by_the_next(trainer: Trainer, data: DataSpec) -> None:
    """Seen to fail without ``residual`` among the blobs of ``Train``."""
    first = trainer.answer(job(data, codec="topk"))
    assert isinstance(first, Trained)
    manifest = MODEL.manifest
    whole = trainer.answer(job(data))
    assert isinstance(whole, Trained)
    delta = compression.decode(whole.payload, manifest)
    parts = [compression.decode(part, manifest) for part in (first.payload, first.residual)]
    assert parts[0].add(parts[1]).subtract(delta).norm() < 0.01 * delta.norm()
    second = trainer.answer(job(data, codec="topk", residual=first.residual))
    assert isinstance(second, Trained)
    both = compression.decode(second.payload, manifest).add(compression.decode(second.residual, manifest))
    onward = trainer.answer(job(data, model=blob(feedback.start(MODEL, first.residual, feedback.AHEAD["topk"]))))
    assert isinstance(onward, Trained)
    delta = compression.decode(onward.payload, manifest)
    assert both.subtract(delta).subtract(parts[1]).norm() < 0.01 * delta.norm()


def test_training_begins_ahead_of_the_model_and_is_pulled_back_to_it(trainer: Trainer, data: DataSpec) -> None:
    """Nothing is learned here but the way back (FedProx). Seen to fail where it was pulled to where it had begun."""
    ahead = np.full(MODEL.manifest.size, 0.5, np.float32)
    residual = blob(Parameters(MODEL.manifest, ahead))
    still = TrainSettings(learning_rate=1e-3, proximal=900.0, local_steps=20)
    back = trainer.answer(job(data, codec="topk", residual=residual, settings=still))
    assert isinstance(back, Trained)
    sent, left = (compression.decode(part, MODEL.manifest) for part in (back.payload, back.residual))
    np.testing.assert_allclose(sent.add(left).flat, (1 - feedback.AHEAD["topk"]) * ahead, atol=0.02)


def test_a_checkpoint_of_a_training_that_began_elsewhere_is_not_gone_on_with(
    ends: tuple[Frames, Frames], data: DataSpec
) -> None:
    """The update before was refused meanwhile, say. Seen to fail where checkpoints named the model alone."""
    kept: list[Answer] = []
    trainer = Trainer(Inbox(ends[1], leave=lambda _code: None), 1, kept.extend)
    trainer.answer(job(data, codec="topk", residual=blob(MODEL), checkpoint_s=1e-9))
    checkpoint = next(one.checkpoint for one in kept if isinstance(one, Progressed) and one.checkpoint)
    straight = trainer.answer(job(data, codec="topk"))
    assert timeless(trainer.answer(job(data, codec="topk", checkpoint=checkpoint))) == timeless(straight)


def test_a_residual_that_is_damaged_costs_no_round(trainer: Trainer, data: DataSpec) -> None:
    without = trainer.answer(job(data, codec="topk"))
    assert timeless(trainer.answer(job(data, codec="topk", residual=b"x"))) == timeless(without)


def test_invariant_08_a_training_resumed_from_any_checkpoint_gives_the_same_update_and_residual(
    ends: tuple[Frames, Frames], data: DataSpec
) -> None:
    kept: list[Answer] = []
    trainer = Trainer(Inbox(ends[1], leave=lambda _code: None), 1, kept.extend)
    first = trainer.answer(job(data, codec="topk"))
    assert isinstance(first, Trained)
    again = job(data, codec="topk", seed=4, residual=first.residual, checkpoint_s=1e-9)
    straight = trainer.answer(again)
    checkpoints = [one.checkpoint for one in kept if isinstance(one, Progressed) and one.checkpoint]
    assert len(checkpoints) > 1
    for one in checkpoints:
        assert timeless(trainer.answer(again.model_copy(update={"checkpoint": one}))) == timeless(straight)


def fractions(answers: list[Answer]) -> list[float]:
    return [one.fraction for one in answers if isinstance(one, Progressed)]


def test_invariant_08_a_checkpoint_made_with_other_threads_is_not_gone_on_with(
    ends: tuple[Frames, Frames], data: DataSpec
) -> None:
    """They add up to other bits. Seen to fail without ``get_num_threads`` in ``engine``."""
    told: list[Answer] = []
    inbox = Inbox(ends[1], leave=lambda _code: None)
    try:
        Trainer(inbox, 2, told.extend).answer(job(data, checkpoint_s=1e-9))
        kept = next(one.checkpoint for one in told if isinstance(one, Progressed) and one.checkpoint)
        told.clear()
        for threads, first in ((2, False), (1, True)):
            Trainer(inbox, threads, told.extend).answer(job(data, checkpoint=kept))
            assert (fractions(told)[0] == 0) == first
            told.clear()
    finally:
        torch.set_num_threads(1)


def test_a_checkpoint_outlives_the_merging_of_its_models_steps(ends: tuple[Frames, Frames], data: DataSpec) -> None:
    """They are the same parameters. Seen to fail where the model's bytes were compared."""
    step = steps.encode("int4", MODEL, Parameters(MODEL.manifest, MODEL.flat + np.float32(0.01)))
    newer = steps.apply(MODEL, step)
    apart = Lineage(BLOB, ((newer.digest(), step),)).pack()
    told: list[Answer] = []
    trainer = Trainer(Inbox(ends[1], leave=lambda _code: None), 1, told.extend)
    trainer.answer(job(data, model=apart, checkpoint_s=1e-9))
    kept = next(one.checkpoint for one in told if isinstance(one, Progressed) and one.checkpoint)
    told.clear()
    merged = trainer.answer(Merge(key="merge", plan=tiny().to_bytes(), model=apart))
    assert isinstance(merged, Merged)
    trainer.answer(job(data, model=merged.model, checkpoint=kept))
    assert fractions(told)[0] > 0


def timeless(answer: Answer) -> Answer:
    """What it holds but for the time and the memory it took."""
    assert isinstance(answer, Trained)
    return answer.model_copy(update={"seconds": 0.0, "peak_mb": None})


def test_evaluating_counts_the_held_out_examples(trainer: Trainer, data: DataSpec) -> None:
    evaluated = trainer.answer(Evaluate(key="e", plan=tiny().to_bytes(), model=BLOB, data=data))
    assert isinstance(evaluated, Evaluated)
    assert evaluated.counts.examples == 12


def test_warming_answers_that_it_is_done(trainer: Trainer) -> None:
    assert trainer.answer(Warm(key="w")) == Done(key="w")


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"plan": b"{}"}, "plan", "not a training plan"),
        ({"plan": tiny(inputs=({"name": "window", "shape": (2, 9)},)).to_bytes()}, "plan", "takes examples of 2x9"),
        ({"plan": tiny(classes=("a", "b", "c"), report=("a",)).to_bytes()}, "plan", "class brisk, calm, wild"),
        ({"settings": TrainSettings(class_weights=(1.0,))}, "plan", "1 class weight for 3 classes"),
        ({"model": b"nothing"}, "training", "header"),
        ({"codec": "zip"}, "training", "'zip'"),
        ({"settings": TrainSettings(learning_rate=1e9, epochs=50)}, "training", "lower the learning rate"),
        ({"data": DataSpec(path="/nowhere/at/all")}, "data", "nothing at /nowhere/at/all"),
    ],
)
def test_what_is_wrong_comes_back_as_a_failure_of_its_kind(
    trainer: Trainer, data: DataSpec, changes: dict[str, Any], kind: str, says: str
) -> None:
    failure = trainer.answer(job(data, **changes))
    assert isinstance(failure, Failure)
    assert failure.kind == kind
    assert says in failure.message


def test_recordings_that_the_disk_refuses_on_the_way_are_a_failure_of_the_data() -> None:
    """Not the child's end. Seen to fail without ``OSError`` in ``explained``."""
    answer = explained("describe", OSError(errno.EIO, "Input/output error", "mine.npz"))
    assert isinstance(answer, Failure)
    assert (answer.kind, answer.message) == (
        "data",
        "can't read mine.npz: Input/output error; see to its permissions, and to the disk",
    )
    with pytest.raises(BrokenPipeError):  # that is the agent's end
        explained("describe", BrokenPipeError())


def test_a_plan_over_this_devices_limits_is_declined_before_it_runs(trainer: Trainer, data: DataSpec) -> None:
    steps = [{"out": "wide0", "op": "cat", "args": (("%window", "%window"), 2)}]
    steps += [{"out": f"wide{n}", "op": "cat", "args": ((f"%wide{n - 1}",) * 2, 2)} for n in range(1, 25)]
    failure = trainer.answer(job(data, plan=tiny(operations=(*steps, *fields()["operations"])).to_bytes()))
    assert isinstance(failure, Failure)
    assert (failure.kind, "MiB" in failure.message) == ("plan", True)


def test_a_merge_keeps_to_this_devices_limits_too(trainer: Trainer) -> None:
    """Some kB of steps would else take 900 MB. Seen to fail without ``check`` in the merge."""
    shapes = (10**7, 2, 3), (10**7,), (3, 10**7), (3,)
    wide = [{**one, "shape": shape} for one, shape in zip(fields()["parameters"], shapes, strict=True)]
    failure = trainer.answer(Merge(key="merge", plan=tiny(parameters=tuple(wide)).to_bytes(), model=BLOB))
    assert isinstance(failure, Failure)
    assert (failure.kind, "MiB" in failure.message) == ("plan", True)


def test_what_only_torch_can_see_is_a_failure_too() -> None:
    """The dry run knows shapes, kinds and costs; how much memory the machine has left it doesn't."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    failure = explained("round-1", caught.value)
    assert isinstance(failure, Failure)
    assert failure.kind == "training"
    assert "torch can't run the plan here: " in failure.message


def test_a_cancelled_job_ends_at_the_next_batch_without_a_result(
    ends: tuple[Frames, Frames], trainer: Trainer, data: DataSpec
) -> None:
    send(ends[0], Cancel(key="round-1"))
    assert trainer.answer(job(data, settings=TrainSettings(epochs=1000, batch_size=1))) == Done(key="round-1")


def test_a_child_keeps_no_cancel_of_a_job_it_has_answered(ends: tuple[Frames, Frames], data: DataSpec) -> None:
    """A fleet whose rounds close early cancels as long as it runs."""
    inbox, answers = Inbox(ends[1], leave=lambda _code: None), list[Answer]()
    trainer = Trainer(inbox, threads=1, report=answers.extend)
    endless = job(data, settings=TrainSettings(epochs=1000, batch_size=1))
    more = [endless.model_copy(update={"key": key}) for key in ("round-1", "round-2")]
    send(ends[0], *(Cancel(key=each.key) for each in more), Warm(key="behind"))
    assert inbox.next() == Warm(key="behind")
    assert trainer.answer(endless) == Done(key="round-1")
    assert inbox.cancelled("round-1") is None
    about = Together(key="round", plan=endless.plan, model=endless.model, jobs=1)
    trainer.answer_together(Batch(about, (more[1],)))
    assert answers == [Done(key="round-2")]
    assert inbox.cancelled("round-2") is None


def test_a_cancel_that_comes_too_late_does_not_hit_the_next_job_of_that_key(
    ends: tuple[Frames, Frames],
) -> None:
    agent, child = ends
    inbox = Inbox(child, leave=lambda _code: None)
    send(agent, Cancel(key="w"), Warm(key="w"))
    assert inbox.next() == Warm(key="w")
    inbox.check("w")
    send(agent, Cancel(key="w"), Warm(key="next"))
    assert inbox.next() == Warm(key="next")
    with pytest.raises(Cancelled):
        inbox.check("w")


@pytest.mark.parametrize("devices", [1, 2])
def test_recordings_are_read_once_and_again_when_their_files_have_changed(
    data: DataSpec, tmp_path: Path, devices: int
) -> None:
    """Seen to fail, in a child that is kept warm, without the footprints in ``_kept`` and ``_shared``."""
    shared = data.model_copy(update={"devices": devices})
    recordings = Recordings()
    first = recordings.get(shared, "windows")
    assert recordings.get(shared, "windows") is first
    saved(tmp_path / "windows.npz", examples=10)
    assert len(recordings.get(shared, "windows").train) == 8 // devices
    assert len(recordings.get(shared, "windows").train) == 8 // devices


def test_the_least_recently_used_recordings_go_when_memory_is_full(
    data: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [saved(tmp_path / f"{name}.npz") for name in "ab"]
    recordings = Recordings()
    kept = recordings.get(data, "windows")
    gone = recordings.get(others[0], "windows")
    assert recordings.get(data, "windows") is kept
    monkeypatch.setattr("edge.trainer.child.MAX_CACHED", 60 * (2 * 8 * 4 + 8 + 4 * len("windows")) * 5 // 2)
    recordings.get(others[1], "windows")
    assert recordings.get(data, "windows") is kept
    assert recordings.get(others[0], "windows") is not gone


def test_the_model_is_not_changed_by_training(trainer: Trainer, data: DataSpec) -> None:
    before = compression.decode(BLOB, MODEL.manifest).flat.copy()
    trainer.answer(job(data))
    assert np.array_equal(before, compression.decode(BLOB, MODEL.manifest).flat)
    assert Parameters(MODEL.manifest, before).equal(MODEL)


def test_a_child_whose_agent_was_killed_before_it_could_connect_ends_without_a_word(tmp_path: Path) -> None:
    """Seen to fail with the refused connection's traceback, which came out in the log of an agent that was gone."""
    address = str(tmp_path / "gone")
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(address)  # the file stays, as it does after a kill -9
    child = [sys.executable, "-m", "edge.trainer.child", address, "1", "0"]
    ended = subprocess.run(child, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ROOT})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
