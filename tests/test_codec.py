import json
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.errors import Reject, WireError
from schemas.findings import Alert, Findings
from schemas.messages import (
    MAX_CLASSES,
    TAG,
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
    Outcome,
    Part,
    Phase,
    PlanRef,
    Receipt,
    RoundAnnouncement,
    RoundSummary,
    RunSettings,
    StrategySettings,
    TrainSettings,
    Update,
)
from schemas.proto import federation_pb2 as pb
from schemas.topics import RULES, Kind

DIGEST, OTHER, NONCE = "0a" * 32, "b1" * 32, "c2" * 8
BLOB = BlobRef(digest=DIGEST, size=1000, parts=3)
METRICS = Metrics(
    examples=3,
    loss=0.5,
    accuracy=0.75,
    macro_f1=0.25,
    classes=(ClassMetrics(name="N", examples=3, sensitivity=1.0, ppv=None, f1=0.5),),
    confusion=((3,),),
)

# One message of each kind with no field at its default, so that a field a codec forgets is missed.
JSON_SAMPLES: dict[Kind, Message] = {
    Kind.COORDINATOR: CoordinatorStatus(
        state=CoordinatorState.RUNNING,
        session=7,
        instance="0123456789abcdef",
        run="run-1",
        round=2,
        rounds=5,
        phase="collecting",
        model_version=1,
        software="fedbeat 0.1",
        heartbeat_s=10.0,
        since="2026-01-01T00:00:00Z",
        said="2026-01-01T00:00:01Z",
        detail="fine ♥",
    ),
    Kind.RUN: RunSettings(
        run="run-1",
        rounds=5,
        plan=PlanRef(name="ecg-beats", blob=BLOB),
        codec="int8",
        downlink="int4",
        train=TrainSettings(
            optimizer="adam",
            learning_rate=0.01,
            momentum=0.5,
            weight_decay=0.1,
            proximal=0.2,
            epochs=3,
            local_steps=10,
            batch_size=8,
            class_weights=(1.0, 2.0),
            max_examples=100,
        ),
        strategy=StrategySettings(
            name="fedadam", weighting="equal", learning_rate=0.1, momentum=0.8, beta2=0.9, tau=0.01
        ),
        evaluate=False,
        goal=4,
        quorum=2,
        deadline_s=60.0,
        max_staleness=4,
        max_weight=10,
        part_size=2048,
        seed=3,
    ),
    Kind.MODEL: ModelPointer(
        run="run-1", version=1, digest=DIGEST, previous=OTHER, blob=BLOB, step=BLOB, metrics=METRICS
    ),
    Kind.ROUND: RoundAnnouncement(
        run="run-1",
        round=2,
        task="evaluate",
        phase=Phase.COLLECTING,
        attempt=1,
        nonce=NONCE,
        model_version=1,
        model_digest=DIGEST,
        opened="2026-01-01T00:00:00Z",
        deadline_s=60.0,
        remaining_s=30.5,
        cohort=0.5,
        goal=4,
        quorum=2,
        selected=4,
        joined=3,
        received=1,
    ),
    Kind.SUMMARY: RoundSummary(
        run="run-1",
        round=2,
        outcome="abandoned",
        reason="one device",
        model_version=1,
        devices=("dev-1", "dev-2"),
        synthetic=1,
        examples=20,
        train_loss=0.5,
        declined={"dev-3": "the battery is low"},
        rejected={"malformed": 2},
        seconds=1.5,
        uplink_bytes=1234,
        metrics=METRICS,
    ),
    Kind.JOIN: Join(
        run="run-1", round=2, task="train", nonce=NONCE, device="dev-1", accepts=False, reason="busy", examples=20
    ),
    Kind.RECEIPT: Receipt(
        run="run-1",
        round=2,
        task="train",
        nonce=NONCE,
        device="dev-1",
        outcome=Outcome.INCOMPLETE,
        reason="parts are missing",
        missing=(0, 2),
        come_back_after_s=5.0,
    ),
    Kind.DEVICE: DeviceStatus(
        device="dev-1",
        session=9,
        state=DeviceState.TROUBLE,
        examples=20,
        held_out=5,
        synthetic=True,
        model_version=1,
        last_round=1,
        software="fedbeat 0.1",
        health=Health(
            temperature_c=71.5, throttled=True, memory_available_mb=100.0, disk_free_mb=900.0, load=1.5, uptime_s=60.0
        ),
        heartbeat_s=10.0,
        progress=0.5,
        codec="topk",
        budget_left=0.25,
        detail="hot",
    ),
    Kind.COMMAND: Command(command="pause", reason="maintenance"),
    Kind.FINDINGS: Findings(
        device="dev-1",
        began="2026-11-28T20:00:00+00:00",
        ended="2026-11-28T20:05:00+00:00",
        signal_s=299.5,
        quality=0.98,
        beats={"N": 340, "V": 3},
        rate=69.0,
        alerts=(Alert(rule="v_run", value=3.0, limit=3.0),),
        run="run-1",
        model_version=7,
        personal=True,
        software="fedbeat 0.1",
    ),
}
PART = Part(blob=BLOB, index=1, payload=b"\x00\xffpayload")
TRAINED = Update(
    round=2,
    task="train",
    nonce=NONCE,
    device="dev-1",
    model_version=1,
    model_tag=DIGEST[:TAG],
    examples=20,
    payload=b"\x00delta",
    train_loss=0.5,
)
EVALUATED = Update(
    round=2,
    task="evaluate",
    nonce=NONCE,
    device="dev-1",
    model_version=1,
    model_tag=DIGEST[:TAG],
    examples=6,
    counts=Counts(examples=6, loss_sum=1.5, confusion=((1, 2), (0, 3))),
)

names = st.from_regex(r"[a-z0-9][a-z0-9-]{2,62}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
numbers = st.integers(0, 999_999_999)
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    width = draw(st.integers(0, 6))
    rows = tuple(tuple(draw(st.integers(0, 2**40)) for _ in range(width)) for _ in range(width))
    return Counts(examples=sum(map(sum, rows)), loss_sum=draw(st.floats(0, 1e9)), confusion=rows)


@st.composite
def updates(draw: st.DrawFn) -> Update:
    task = draw(st.sampled_from(["train", "evaluate"]))
    return Update(
        round=draw(numbers),
        task="train" if task == "train" else "evaluate",
        nonce=draw(st.binary(min_size=8, max_size=8)).hex(),
        device=draw(names),
        model_version=draw(numbers),
        model_tag=draw(digests)[:TAG],
        examples=draw(st.integers(1, 2**31)),
        payload=draw(st.binary(min_size=1, max_size=200)) if task == "train" else b"",
        train_loss=draw(st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32)),
        counts=draw(counts() if task == "evaluate" else st.none() | counts()),
    )


@st.composite
def parts(draw: st.DrawFn) -> Part:
    blob = BlobRef(digest=draw(digests), size=draw(st.integers(1, 2**33)), parts=draw(st.integers(1, 100_000)))
    return Part(blob=blob, index=draw(st.integers(0, 99_999)), payload=draw(st.binary(max_size=200)))


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """``valid`` with bits flipped, cut short, extended, or with a piece of it repeated or overwritten."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["flip", "cut", "insert", "repeat", "overwrite"])):
            case "flip" if data:
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[place:]
            case "insert":
                data[place:place] = draw(st.binary(max_size=20))
            case "repeat":
                data[place:place] = data[: draw(st.integers(0, 40))]
            case _:
                piece = draw(st.binary(max_size=8))
                data[place : place + len(piece)] = piece
    return bytes(data)


def _reason(kind: Kind, payload: bytes) -> Reject:
    with pytest.raises(WireError) as caught:
        codec.decode(kind, payload)
    return caught.value.reason


def _changed(kind: Kind, **fields: object) -> bytes:
    return json.dumps(json.loads(codec.encode(JSON_SAMPLES[kind])) | fields).encode()


def test_every_topic_of_json_has_a_model_and_a_sample_here() -> None:
    kinds = {kind for kind, rule in RULES.items() if rule.form == "json"}
    assert set(codec.MODELS) == kinds == set(JSON_SAMPLES)


@pytest.mark.parametrize("message", [*JSON_SAMPLES.values(), PART, TRAINED], ids=lambda m: type(m).__name__)
def test_the_samples_here_leave_no_field_at_its_default(message: Message) -> None:
    task_bound = {"counts"} if isinstance(message, Update) else set()
    for name, field in type(message).model_fields.items():
        assert name in task_bound or getattr(message, name) != field.get_default(call_default_factory=True), name


@pytest.mark.parametrize("kind", list(JSON_SAMPLES), ids=lambda k: k.name)
def test_a_json_message_comes_back_as_it_left(kind: Kind) -> None:
    assert codec.decode(kind, codec.encode(JSON_SAMPLES[kind])) == JSON_SAMPLES[kind]


def test_a_device_s_status_has_nothing_in_it_that_the_device_cant_tell() -> None:
    """It goes out day and night. Seen to fail with ``exclude_none`` left out of ``encode``."""
    status = DeviceStatus(device="dev-1", session=1, state=DeviceState.IDLE, health=Health(load=0.5))
    payload = codec.encode(status)
    assert b"null" not in payload
    assert codec.decode(Kind.DEVICE, payload) == status


@pytest.mark.parametrize("kind", [Kind.MODEL, Kind.ROUND, Kind.JOIN, Kind.RECEIPT], ids=lambda k: k.name)
def test_what_each_round_says_to_every_device_leaves_out_what_its_reader_adds(kind: Kind) -> None:
    """Seen to fail with ``exclude_defaults`` left out of ``encode``, and with a field left out that has no default."""
    sample = JSON_SAMPLES[kind]
    needed = {name for name, field in type(sample).model_fields.items() if field.is_required()}
    bare = type(sample).model_validate({name: getattr(sample, name) for name in needed})
    payload = codec.encode(bare)
    assert json.loads(payload).keys() == needed
    assert codec.decode(kind, payload) == bare


def test_the_model_no_other_came_before_says_so() -> None:
    """``previous`` has no default. Seen to fail with ``exclude_none`` for pointers."""
    first = JSON_SAMPLES[Kind.MODEL].model_copy(update={"previous": None})
    assert codec.decode(Kind.MODEL, codec.encode(first)) == first


@given(updates())
def test_an_update_comes_back_as_it_left(update: Update) -> None:
    assert codec.decode_update(codec.encode_update(update)) == update


@given(parts())
def test_a_part_comes_back_as_it_left(part: Part) -> None:
    assert codec.decode_part(codec.encode_part(part)) == part


def test_the_schema_has_a_field_for_each_of_a_part_and_an_update() -> None:
    for model, wire in ((BlobRef, pb.Blob), (Part, pb.Part), (Counts, pb.Counts), (Update, pb.Update)):
        assert set(model.model_fields) == set(wire.DESCRIPTOR.fields_by_name)


def test_parts_and_updates_do_not_travel_as_json() -> None:
    with pytest.raises(TypeError, match="Part"):
        codec.encode(PART)
    assert _reason(Kind.MODEL_PART, b"{}") is Reject.UNEXPECTED


@pytest.mark.parametrize("kind", list(JSON_SAMPLES), ids=lambda k: k.name)
def test_a_field_from_a_newer_peer_is_ignored_in_json(kind: Kind) -> None:
    assert codec.decode(kind, _changed(kind, later={"x": [1, None]})) == JSON_SAMPLES[kind]


def test_a_field_from_a_newer_peer_is_ignored_in_protobuf() -> None:
    unknown = b"\xfa\x07\x03abc" + b"\xf8\x07\x05"  # field 127, length-delimited and then a number
    assert codec.decode_part(codec.encode_part(PART) + unknown) == PART
    assert codec.decode_update(codec.encode_update(TRAINED) + unknown) == TRAINED


def test_a_field_an_older_peer_leaves_out_takes_its_default() -> None:
    assert codec.decode(Kind.COMMAND, b'{"command":"query"}') == Command(command="query")


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        (Kind.DEVICE, {"examples": -1}, Reject.OUT_OF_RANGE),
        (Kind.DEVICE, {"examples": 2**53 + 1}, Reject.OUT_OF_RANGE),
        (Kind.DEVICE, {"examples": 10**100}, Reject.OUT_OF_RANGE),
        (Kind.DEVICE, {"examples": "20"}, Reject.MALFORMED),
        (Kind.DEVICE, {"examples": True}, Reject.MALFORMED),
        (Kind.DEVICE, {"examples": 20.5}, Reject.MALFORMED),
        (Kind.DEVICE, {"examples": None}, Reject.MALFORMED),
        (Kind.DEVICE, {"device": "dev/1"}, Reject.MALFORMED),
        (Kind.DEVICE, {"device": "dev-1\n"}, Reject.MALFORMED),
        (Kind.DEVICE, {"detail": "x" * 501}, Reject.OUT_OF_RANGE),
        (Kind.DEVICE, {"state": "dancing"}, Reject.MALFORMED),
        (Kind.DEVICE, {"heartbeat_s": float("nan")}, Reject.NOT_FINITE),
        (Kind.DEVICE, {"heartbeat_s": float("inf")}, Reject.NOT_FINITE),
        (Kind.RECEIPT, {"missing": [-1]}, Reject.OUT_OF_RANGE),
        (Kind.RECEIPT, {"missing": [0] * 1001}, Reject.OUT_OF_RANGE),
        (Kind.RECEIPT, {"nonce": "0" * 15}, Reject.MALFORMED),
        (Kind.ROUND, {"cohort": 1.01}, Reject.OUT_OF_RANGE),
        (Kind.RUN, {"part_size": 2**30}, Reject.OUT_OF_RANGE),
        (Kind.MODEL, {"blob": {"digest": DIGEST, "size": 0, "parts": 1}}, Reject.OUT_OF_RANGE),
    ],
)
def test_a_value_outside_its_range_is_refused_with_the_reason(
    kind: Kind, fields: dict[str, object], reason: Reject
) -> None:
    assert _reason(kind, _changed(kind, **fields)) is reason


@pytest.mark.parametrize(
    "payload",
    [
        b'{"command":"pause","command":"pause"}',
        b'{"command":"pause","later":{"x":1,"x":1}}',
        b'{"command" :"pause","command" :"pause"}',
        b'{"command":"pause","reason":"a","reason":"b"}',
        b'{"command":"pause","later":NaN}',
        b'{"command":"pause","later":-Infinity}',
        b'{"command":"pause","later":' + b"9" * 5000 + b"}",
        b'{"command":"pause","reason":"\\ud800"}',
        b'{"command":"pause","reason":"\xff"}',
        b'{"command":"pause"',
        b'{"command":"pause"} {}',
        b'{"command":"pause",}',
        b'\xef\xbb\xbf{"command":"pause"}',
        '{"command":"pause"}'.encode("utf-16"),
        b"[" * 60_000,
        b'{"command":"pause","later":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        b"null",
        b"[]",
        b'"pause"',
    ],
    ids=lambda payload: ascii(payload[:40]),
)
def test_loose_or_broken_json_is_refused(payload: bytes) -> None:
    assert _reason(Kind.COMMAND, payload) is Reject.MALFORMED


def test_an_empty_payload_is_refused_everywhere() -> None:
    for kind in JSON_SAMPLES:
        assert _reason(kind, b"") is Reject.TRUNCATED
    for decode in (codec.decode_part, codec.decode_update):
        with pytest.raises(WireError, match="truncated"):
            decode(b"")


@pytest.mark.parametrize("kind", list(JSON_SAMPLES), ids=lambda k: k.name)
def test_json_over_its_size_is_refused_and_up_to_it_taken(kind: Kind) -> None:
    limit = 256 * 1024 if kind in {Kind.RUN, Kind.SUMMARY} else 64 * 1024
    payload = codec.encode(JSON_SAMPLES[kind])
    padded = payload + b" " * (limit - len(payload))
    assert codec.decode(kind, padded) == JSON_SAMPLES[kind]
    assert _reason(kind, padded + b" ") is Reject.TOO_LARGE


def test_a_message_longer_than_a_decoder_takes_is_not_sent() -> None:
    devices = tuple(f"device-with-a-long-name-{number:06d}" for number in range(10_000))
    with pytest.raises(WireError, match="too-large"):
        codec.encode(RoundSummary(run="run-1", round=1, outcome="committed", model_version=1, devices=devices))


def test_a_part_over_its_size_is_refused_before_it_is_read() -> None:
    with pytest.raises(WireError, match="too-large"):
        codec.decode_part(bytes(codec.MAX_PART + 1))


@pytest.mark.parametrize("field", ["blob", "index", "payload"])
def test_a_part_without_one_of_its_fields_is_refused(field: str) -> None:
    wire = pb.Part.FromString(codec.encode_part(PART))
    wire.ClearField(field)
    with pytest.raises(WireError, match=f"malformed: Part: {field} is missing"):
        codec.decode_part(wire.SerializeToString())


@pytest.mark.parametrize("field", ["digest", "size", "parts"])
def test_a_part_without_one_of_its_blobs_fields_is_refused(field: str) -> None:
    wire = pb.Part.FromString(codec.encode_part(PART))
    wire.blob.ClearField(field)
    with pytest.raises(WireError, match=f"malformed: Blob: {field} is missing"):
        codec.decode_part(wire.SerializeToString())


@pytest.mark.parametrize("field", [name for name, info in Update.model_fields.items() if info.is_required()])
def test_an_update_without_one_of_its_fields_is_refused(field: str) -> None:
    wire = pb.Update.FromString(codec.encode_update(TRAINED))
    wire.ClearField(field)
    with pytest.raises(WireError, match=f"malformed: Update: {field} is missing"):
        codec.decode_update(wire.SerializeToString())


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("device", "UPPER", Reject.MALFORMED),
        ("device", "x" * 1000, Reject.TOO_LARGE),
        ("device", "dev-1\n", Reject.MALFORMED),
        ("round", 2**32 - 1, Reject.OUT_OF_RANGE),
        ("task", pb.TASK_UNSPECIFIED, Reject.MALFORMED),
        ("task", 77, Reject.MALFORMED),
        ("nonce", b"short", Reject.MALFORMED),
        ("model_tag", bytes(1000), Reject.TOO_LARGE),
        ("examples", 0, Reject.OUT_OF_RANGE),
        ("examples", 2**64 - 1, Reject.OUT_OF_RANGE),
        ("payload", b"", Reject.MALFORMED),
        ("train_loss", float("nan"), Reject.NOT_FINITE),
        ("train_loss", float("-inf"), Reject.NOT_FINITE),
        ("counts", b"\xff", Reject.MALFORMED),
    ],
)
def test_an_update_with_a_value_outside_its_range_is_refused(field: str, value: object, reason: Reject) -> None:
    wire = pb.Update.FromString(codec.encode_update(TRAINED))
    setattr(wire, field, value)
    with pytest.raises(WireError) as caught:
        codec.decode_update(wire.SerializeToString())
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("confusion", "examples", "loss_sum", "reason"),
    [
        ([6, 0], 6, 1.0, Reject.MALFORMED),  # no square
        ([1, 2, 3, 4], 6, 1.0, Reject.MALFORMED),  # doesn't add up
        ([6], 6, -1.0, Reject.OUT_OF_RANGE),
        ([6], 6, float("inf"), Reject.NOT_FINITE),
        ([2**63], 2**63, 1.0, Reject.OUT_OF_RANGE),
        ([0] * (MAX_CLASSES + 1) ** 2, 0, 1.0, Reject.TOO_LARGE),
    ],
)
def test_an_update_with_impossible_counts_is_refused(
    confusion: list[int], examples: int, loss_sum: float, reason: Reject
) -> None:
    wire = pb.Update.FromString(codec.encode_update(EVALUATED))
    wire.counts = pb.Counts(examples=examples, loss_sum=loss_sum, confusion=confusion).SerializeToString()
    with pytest.raises(WireError) as caught:
        codec.decode_update(wire.SerializeToString())
    assert caught.value.reason is reason


@pytest.mark.parametrize("field", ["examples", "loss_sum"])
def test_counts_without_one_of_their_fields_are_refused(field: str) -> None:
    """A 0 that nobody said is no count. Seen to fail without the look at the fields: the loss was 0."""
    wire, counts = pb.Update.FromString(codec.encode_update(EVALUATED)), pb.Counts()
    counts.ParseFromString(wire.counts)
    counts.ClearField(field)
    wire.counts = counts.SerializeToString()
    with pytest.raises(WireError, match=f"malformed: Counts: {field} is missing"):
        codec.decode_update(wire.SerializeToString())


def test_counts_longer_than_any_model_has_are_refused_before_they_are_read() -> None:
    """A packed number of one byte becomes eight when parsed, and more as a Python number."""
    wire = pb.Update.FromString(codec.encode_update(EVALUATED))
    wire.counts = b"\x1a\xff\xff\xff\x07" + bytes(codec.MAX_COUNTS)
    with pytest.raises(WireError, match="too-large: Counts"):
        codec.decode_update(wire.SerializeToString())


def test_counts_of_more_numbers_than_there_are_classes_are_refused_before_they_are_parsed() -> None:
    """Ten MB of them would take 400. Seen to fail without the count of bytes in ``_decode_counts``."""
    wire = pb.Update.FromString(codec.encode_update(EVALUATED))
    wire.counts = pb.Counts(examples=1, loss_sum=0.0, confusion=[300] * (MAX_CLASSES**2 + 2000)).SerializeToString()
    assert len(wire.counts) < codec.MAX_COUNTS
    with pytest.raises(WireError, match="too-large: Counts"):
        codec.decode_update(wire.SerializeToString())


def test_an_evaluation_of_the_largest_confusion_matrix_fits() -> None:
    row = (2**30,) * MAX_CLASSES
    counted = Counts(examples=2**30 * MAX_CLASSES**2, loss_sum=1.0, confusion=(row,) * MAX_CLASSES)
    update = EVALUATED.model_copy(update={"counts": counted})
    assert codec.decode_update(codec.encode_update(update)) == update


def test_the_text_of_an_error_is_short_and_printable_whatever_the_bytes_were() -> None:
    hostile = _changed(Kind.SUMMARY, declined={"\x1b[2J\n" + "♥" * 5000: "x"})
    with pytest.raises(WireError) as caught:
        codec.decode(Kind.SUMMARY, hostile)
    assert len(caught.value.detail) <= 200
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()


def test_a_message_of_nothing_but_faults_takes_little_memory() -> None:
    """pydantic lists each fault with its place and text: of 80 000 in 240 kB, more than 30 MB."""
    hostile = b'{"train":{"class_weights":[' + b"-1," * 80_000 + b"-1]}}"
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match=r"malformed: RunSettings: 80\d\d\d faults"):
            codec.decode(Kind.RUN, hostile)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


@settings(max_examples=300)
@given(st.sampled_from(Kind), st.binary(max_size=300))
def test_no_bytes_make_a_json_decoder_fail_otherwise(kind: Kind, payload: bytes) -> None:
    with pytest.raises(WireError):  # no message is that lucky
        codec.decode(kind, payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=400)
@given(st.data())
def test_any_value_in_any_field_makes_a_message_or_a_wire_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(JSON_SAMPLES)))
    field = data.draw(st.sampled_from(sorted(type(JSON_SAMPLES[kind]).model_fields)))
    payload = _changed(kind, **{field: data.draw(json_values)})
    try:
        message = codec.decode(kind, payload)
    except WireError:
        return
    assert codec.decode(kind, codec.encode(message)) == message


@settings(max_examples=400)
@given(st.data())
def test_a_damaged_json_message_makes_a_message_or_a_wire_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(JSON_SAMPLES)))
    payload = data.draw(damaged(codec.encode(JSON_SAMPLES[kind])))
    try:
        message = codec.decode(kind, payload)
    except WireError:
        return
    assert isinstance(message, codec.MODELS[kind])


@settings(max_examples=400)
@given(st.binary(max_size=300) | damaged(codec.encode_part(PART)))
def test_any_bytes_make_a_part_or_a_wire_error(payload: bytes) -> None:
    try:
        part = codec.decode_part(payload)
    except WireError:
        return
    assert codec.decode_part(codec.encode_part(part)) == part


@settings(max_examples=600)
@given(
    st.binary(max_size=300) | damaged(codec.encode_update(TRAINED)) | damaged(codec.encode_update(EVALUATED)),
)
def test_any_bytes_make_an_update_or_a_wire_error(payload: bytes) -> None:
    try:
        update = codec.decode_update(payload)
    except WireError:
        return
    assert codec.decode_update(codec.encode_update(update)) == update


@given(updates(), st.integers(0, 600))
def test_the_start_of_an_update_is_enough_for_its_heading(update: Update, length: int) -> None:
    whole = codec.encode_update(update)
    heading = codec.decode_heading(whole[:length])
    if length >= 210:  # the longest names and numbers there are
        assert heading is not None
    if heading is not None:
        assert all(getattr(heading, field) == getattr(update, field) for field in codec.Heading.model_fields)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("nonce", b"short", Reject.MALFORMED),
        ("nonce", b"", Reject.MALFORMED),
        ("model_tag", bytes(9), Reject.MALFORMED),
        ("device", "dev/1", Reject.MALFORMED),
        ("round", 2**32 - 1, Reject.OUT_OF_RANGE),
        ("examples", 0, Reject.OUT_OF_RANGE),
    ],
)
def test_a_heading_with_a_value_outside_its_range_is_refused(field: str, value: object, reason: Reject) -> None:
    """Its receipt could not be made otherwise. Seen to fail with ``Heading`` a class without checks."""
    wire = pb.Update.FromString(codec.encode_update(TRAINED))
    setattr(wire, field, value)
    with pytest.raises(WireError) as caught:
        codec.decode_heading(wire.SerializeToString())
    assert caught.value.reason is reason


def test_a_heading_is_looked_for_at_the_start_alone() -> None:
    """Walking over the small fields of a whole part takes seconds of a core."""
    unknown = b"\xf8\x07\x05"
    for fillers, found in ((300, True), (350, False)):
        assert (codec.decode_heading(unknown * fillers + codec.encode_update(TRAINED)) is not None) is found


@settings(max_examples=400)
@given(st.binary(max_size=300) | damaged(codec.encode_update(TRAINED)))
def test_any_bytes_make_a_heading_or_none_or_a_wire_error(payload: bytes) -> None:
    try:
        heading = codec.decode_heading(payload)
    except WireError:
        return
    assert heading is None or isinstance(heading, codec.Heading)


def test_a_delta_protobuf_can_not_carry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_UPDATE", codec.MAX_COUNTS + 2000)
    with pytest.raises(WireError, match="too-large: a delta of 5000 bytes"):
        codec.encode_update(TRAINED.model_copy(update={"payload": bytes(5000)}))


def test_the_codec_needs_neither_numpy_nor_grpc() -> None:
    """An idle device decodes messages all day, and has no other use for them."""
    script = (
        "import sys, schemas.codec, schemas.parts;"
        "print({name.split('.')[0] for name in sys.modules} & {'numpy', 'grpc', 'grpc_tools', 'torch', 'zstandard'})"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
