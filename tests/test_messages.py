import pytest
from pydantic import ValidationError

from schemas import findings, messages
from schemas.messages import (
    BlobRef,
    ClassMetrics,
    Command,
    CoordinatorState,
    CoordinatorStatus,
    Counts,
    DeviceState,
    DeviceStatus,
    Health,
    Join,
    Message,
    Metrics,
    ModelPointer,
    Part,
    PlanRef,
    Receipt,
    RoundSummary,
    RunSettings,
    StrategySettings,
    TrainSettings,
    Update,
)

DIGEST, NONCE = "0" * 64, "0" * 16
BLOB = BlobRef(digest=DIGEST, size=10, parts=1)


def _update(**changes: object) -> Update:
    fields = {
        "round": 1,
        "task": "train",
        "nonce": NONCE,
        "device": "dev-1",
        "model_version": 0,
        "model_tag": DIGEST[:16],
        "examples": 5,
        "payload": b"delta",
    }
    return Update.model_validate(fields | changes)


def _all_messages() -> list[type[Message]]:
    found = {**vars(messages), **vars(findings)}.values()
    return [value for value in found if isinstance(value, type) and issubclass(value, Message)]


@pytest.mark.parametrize("model", _all_messages(), ids=lambda model: model.__name__)
def test_every_message_is_frozen_finite_and_open_to_newer_peers(model: type[Message]) -> None:
    assert model.model_config.get("frozen") is True
    assert model.model_config.get("allow_inf_nan") is False
    assert model.model_config.get("extra") == "ignore"
    assert model is Message or model.__doc__ != Message.__doc__


def test_a_message_can_not_be_changed() -> None:
    command = Command(command="pause")
    with pytest.raises(ValidationError, match="frozen"):
        command.reason = "later"  # type: ignore[misc]  # the point


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        (BlobRef, "digest", "0" * 63),
        (BlobRef, "digest", "0" * 63 + "A"),
        (BlobRef, "digest", "0" * 64 + "\n"),
        (BlobRef, "size", 0),
        (BlobRef, "size", 2**33 + 1),
        (BlobRef, "parts", 0),
        (BlobRef, "parts", 100_001),
        (TrainSettings, "learning_rate", 0.0),
        (TrainSettings, "learning_rate", float("inf")),
        (TrainSettings, "momentum", 1.0),
        (TrainSettings, "epochs", 0),
        (TrainSettings, "local_steps", 0),
        (TrainSettings, "batch_size", 65_537),
        (TrainSettings, "optimizer", "lbfgs"),
        (TrainSettings, "class_weights", "some"),
        (TrainSettings, "class_weights", (1.0, 0.0)),
        (TrainSettings, "class_weights", (1.0,) * 1001),
        (StrategySettings, "name", "fed/avg"),
        (StrategySettings, "beta2", 1.0),
        (StrategySettings, "weighting", "loss"),
        (Health, "load", float("nan")),
        (Command, "command", "reboot"),
    ],
)
def test_a_value_outside_its_range_makes_no_message(model: type[Message], field: str, value: object) -> None:
    required = {"digest": DIGEST, "size": 10, "parts": 1} if model is BlobRef else {"command": "pause"}
    model.model_validate(required)
    with pytest.raises(ValidationError, match=field):
        model.model_validate(required | {field: value})


@pytest.mark.parametrize("name", ["ab", "a" * 64, "-abc", "Abc", "a/b", "a+b", "abc ", "abc\n", "äbc"])
def test_a_device_name_that_can_not_stand_in_a_topic_makes_no_message(name: str) -> None:
    with pytest.raises(ValidationError):
        DeviceStatus(device=name, session=1, state=DeviceState.IDLE)


def test_a_plan_that_is_read_with_its_defaults_trains_sensibly() -> None:
    run = RunSettings(run="run-1", rounds=3, plan=PlanRef(name="watch", blob=BLOB))
    assert (run.codec, run.evaluate, run.goal, run.quorum) == ("float32", True, None, 1)
    assert run.train == TrainSettings(optimizer="sgd", epochs=1, local_steps=None, class_weights="none")
    assert run.strategy == StrategySettings(name="fedavg", weighting="examples")
    assert run.part_size < 128_000  # what the strictest hosted brokers take


def test_counts_are_a_square_that_adds_up() -> None:
    counts = Counts(examples=6, loss_sum=0.5, confusion=((1, 2), (0, 3)))
    assert counts.confusion == ((1, 2), (0, 3))
    assert Counts(examples=0, loss_sum=0.0, confusion=()).examples == 0
    with pytest.raises(ValidationError, match="square"):
        Counts(examples=6, loss_sum=0.5, confusion=((1, 2, 0), (0, 3, 0)))
    with pytest.raises(ValidationError, match="add up"):
        Counts(examples=7, loss_sum=0.5, confusion=((1, 2), (0, 3)))
    with pytest.raises(ValidationError):
        Counts(examples=0, loss_sum=0.5, confusion=((1, -1), (0, 0)))


def test_an_update_carries_what_its_task_asks_for_and_nothing_else() -> None:
    counts = Counts(examples=5, loss_sum=0.5, confusion=((5,),))
    assert _update().payload == b"delta"
    assert _update(task="evaluate", payload=b"", counts=counts).counts == counts
    with pytest.raises(ValidationError, match="carries a delta"):
        _update(payload=b"")
    with pytest.raises(ValidationError, match="carries counts"):
        _update(task="evaluate", payload=b"")
    with pytest.raises(ValidationError, match="carries counts"):
        _update(task="evaluate", counts=counts)


def test_an_update_weighs_at_least_one_example() -> None:
    for examples in (0, -1, 2**31 + 1):
        with pytest.raises(ValidationError, match="examples"):
            _update(examples=examples)


def test_what_is_missing_in_a_receipt_is_a_part_that_can_be() -> None:
    fields = {"run": "run-1", "round": 1, "task": "train", "nonce": NONCE, "device": "dev-1", "outcome": "incomplete"}
    assert Receipt.model_validate(fields | {"missing": (0, 99_999)}).missing == (0, 99_999)
    for missing in ((-1,), (100_000,), tuple(range(1001))):
        with pytest.raises(ValidationError, match="missing"):
            Receipt.model_validate(fields | {"missing": missing})


def test_a_summary_names_only_devices_that_can_be() -> None:
    summary = RoundSummary(run="run-1", round=1, outcome="committed", model_version=1)
    with pytest.raises(ValidationError, match="declined"):
        RoundSummary.model_validate(summary.model_dump() | {"declined": {"no/device": "x"}})


def test_metrics_may_leave_out_what_can_not_be_said() -> None:
    absent = ClassMetrics(name="Q", examples=0, sensitivity=None, ppv=None, f1=None)
    metrics = Metrics(examples=0, loss=0.0, accuracy=0.0, macro_f1=None, classes=(absent,))
    pointer = ModelPointer(run="run-1", version=0, digest=DIGEST, previous=None, blob=BLOB, metrics=metrics)
    assert ModelPointer.model_validate_json(pointer.model_dump_json()) == pointer


def test_a_last_will_and_a_birth_share_a_session() -> None:
    will = CoordinatorStatus(state=CoordinatorState.OFFLINE, session=4)
    assert (will.session, will.run, will.phase) == (4, None, "")


def test_a_join_that_declines_may_say_why() -> None:
    join = Join(run="run-1", round=1, task="train", nonce=NONCE, device="dev-1", accepts=False, reason="x" * 500)
    assert not join.accepts
    with pytest.raises(ValidationError, match="reason"):
        Join.model_validate(join.model_dump() | {"reason": "x" * 501})


def test_a_parts_bytes_are_kept_as_they_are_and_not_copied() -> None:
    payload = bytes(1000)
    assert Part(blob=BLOB, index=0, payload=payload).payload is payload
