"""What the coordinator publishes stays within what a decoder takes, and comes in an order that serves its devices."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from coordinator.journal import Journal
from coordinator.reports import NAMED_DECLINES, shortened
from coordinator.service import CoordinatorService
from schemas import codec
from schemas.messages import (
    MAX_CLASSES,
    ClassMetrics,
    Counts,
    Metrics,
    ModelPointer,
    PlanRef,
    RoundAnnouncement,
    RoundSummary,
)
from schemas.parameters import Parameters
from schemas.parts import describe
from schemas.plan import Plan
from schemas.topics import Address, Kind
from tests import scripted_device
from tests.running_coordinator import RunningCoordinator
from tests.scripted_device import Script, ScriptedDevice
from tests.test_service import TOPICS, Home, run_settings


def plan_of(classes: int) -> Plan:
    names = tuple(f"class-{number}" for number in range(classes))
    return Plan.build(
        name="wide",
        data="windows",
        inputs=({"name": "x", "shape": (4,)},),
        classes=names,
        report=names[:2],
        parameters=({"name": "weight", "shape": (classes, 4), "init": {"kind": "uniform", "bound": 0.5}},),
        operations=(
            {"out": "logits", "op": "linear", "args": ("%x", "%weight")},
            {"out": "loss", "op": "mean.dim", "args": ("%logits",)},
        ),
        loss="loss",
        logits="logits",
    )


def test_a_plan_of_many_classes_is_evaluated_and_the_run_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand classes make two megabytes of confusion matrix, and a document has 64 kB.

    Seen to fail with all of the metrics in the model's pointer: that run ended there at this start and every later one.
    """
    plan = plan_of(MAX_CLASSES)
    model = Parameters(plan.manifest(), np.zeros(plan.manifest().size, np.float32))
    right = tuple(tuple(int(i == j) for j in range(MAX_CLASSES)) for i in range(MAX_CLASSES))
    counts = Counts(examples=MAX_CLASSES, loss_sum=1.0, confusion=right)
    monkeypatch.setattr(scripted_device, "counts_of", lambda _device, _held_out: counts)
    blob = describe(plan.to_bytes(), 100_000)
    settings = run_settings(rounds=1, quorum=1, goal=1, part_size=100_000, plan=PlanRef(name="wide", blob=blob))
    home = Home(tmp_path / "state")
    script = Script(held_out=MAX_CLASSES, part_size=100_000)
    ScriptedDevice("dev-0", TOPICS, plan.manifest(), home.link, script).start()
    for _ in range(2):
        link = partial(home.link, "coordinator")
        assert CoordinatorService(link, TOPICS, settings, plan, model, home.directory).run().version == 1
        pointer = codec.decode(Kind.MODEL, home.retained(Address(Kind.MODEL)))
        assert isinstance(pointer, ModelPointer)
        assert pointer.metrics is not None
        assert (pointer.metrics.accuracy, pointer.metrics.classes, pointer.metrics.confusion) == (1.0, (), ())
    with Journal(home.directory / "journal.db") as journal:
        (summary,) = journal.history(settings.run)
    assert summary.metrics is not None
    assert summary.metrics.confusion == right


@pytest.mark.parametrize("classes", [2, 48, 49, 256, 257, MAX_CLASSES])
def test_whatever_metrics_and_declines_there_are_the_documents_fit(classes: int) -> None:
    """At the longest names, numbers and words there can be. Seen to fail with declines quoted in full."""
    most, third = 2**53, 0.12345678901234568
    metrics = Metrics(
        examples=most,
        loss=third,
        accuracy=third,
        macro_f1=third,
        classes=tuple(
            ClassMetrics(name=f"{number:_>64}".replace("_", "x"), examples=most, sensitivity=third, ppv=third, f1=third)
            for number in range(classes)
        ),
        confusion=((most,) * classes,) * classes,
    )
    devices = tuple(f"{number:063}" for number in range(10_000))
    summary = RoundSummary(
        run="r" * 63,
        round=1,
        outcome="committed",
        model_version=1,
        devices=devices,
        examples=most,
        train_loss=third,
        declined=dict.fromkeys(devices, "\0" * 500),
        metrics=metrics,
    )
    short = shortened(summary)
    assert len(codec.encode(short)) <= codec.MAX_LONG_JSON
    assert len(short.declined) == NAMED_DECLINES
    assert short.metrics is not None
    assert (len(short.metrics.classes), len(short.metrics.confusion)) == (
        classes if classes <= 256 else 0,
        classes if classes <= 48 else 0,
    )
    blob = describe(b"x", 1)
    pointer = ModelPointer(
        run="r" * 63, version=1, digest="0" * 64, previous="0" * 64, blob=blob, metrics=short.metrics
    )
    assert len(codec.encode(pointer)) <= codec.MAX_JSON


def test_an_old_model_is_cleared_after_the_next_round_is_announced(tmp_path: Path) -> None:
    """Devices wait for that announcement, and nobody for an old model's end, which is a publication a part.

    Seen to fail with the clearing where the new model is published.
    """
    running = RunningCoordinator(tmp_path / "state", rounds=3, quorum=1, goal=1, evaluate=False)
    device = running.device("dev-0")
    with running:
        for number in (1, 2, 3):
            asked = running.opened(number)
            device.send(device.update(asked, 10))
        running.result()
    log = [(said.kind, said.topic, said.payload) for said in running.log]
    opening: dict[int, int] = {}
    for at, (kind, _, payload) in enumerate(log):
        if kind is Kind.ROUND:
            announcement = codec.decode(kind, payload)
            assert isinstance(announcement, RoundAnnouncement)
            opening.setdefault(announcement.round, at)
    parts = [(at, topic) for at, (kind, topic, full) in enumerate(log) if kind is Kind.MODEL_PART and not full]
    cleared = {int(topic.split("/")[-2]): at for at, topic in reversed(parts)}
    assert set(cleared) == {0, 1}, "the newest two stay, and the last round's clearing comes too"
    assert cleared[0] > opening[3]


def test_an_old_model_and_its_step_are_cleared_from_the_last_part_to_the_first(tmp_path: Path) -> None:
    """By the first one a start hears of what a kill left of it. Seen to fail in the order in which they came."""
    running = RunningCoordinator(tmp_path / "state", quorum=1, goal=1, evaluate=False, downlink="int8")
    device = running.device("dev-0")
    with running:
        for number in (1, 2, 3):
            device.send(device.update(running.opened(number), 10))
        running.result()
    for kind, least in ((Kind.MODEL_PART, 6), (Kind.DELTA_PART, 2)):
        cleared = [said.topic for said in running.log if said.kind is kind and not said.payload and "/1/" in said.topic]
        parts = [int(topic.split("/")[-1]) for topic in cleared]
        assert len(parts) >= least
        assert parts == sorted(parts, reverse=True), kind
