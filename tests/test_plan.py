from __future__ import annotations

import hashlib
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import PlanError
from schemas.plan import MAX_BYTES, MAX_ELEMENTS, Plan
from tests.plan_examples import CLASSES, fields, tiny, with_step


def test_bytes_give_back_the_same_plan() -> None:
    plan = tiny(train={"learning_rate": 0.1}, strategy={"weighting": "equal"})
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert Plan.from_bytes(plan.to_bytes()).train.learning_rate == 0.1


def test_bytes_are_canonical_and_the_digest_is_theirs() -> None:
    payload = tiny().to_bytes()
    assert payload == json.dumps(json.loads(payload), sort_keys=True, separators=(",", ":")).encode()
    assert tiny().digest == hashlib.sha256(payload).hexdigest()


def test_the_same_plan_in_other_bytes_is_refused() -> None:
    """Else one plan had many digests."""
    spaced = json.dumps(json.loads(tiny().to_bytes()), sort_keys=True).encode()
    with pytest.raises(PlanError, match="canonical"):
        Plan.from_bytes(spaced)


def test_what_a_plan_learns_leaves_the_digests_of_older_plans_as_they_were() -> None:
    assert b"learns" not in tiny().to_bytes()
    assert tiny(learns="reconstruction", classes=("calm",), report=("calm",)).learns == "reconstruction"


def test_an_unknown_field_is_refused() -> None:
    """A message may have one; a plan has no meaning with a part of it left out."""
    with pytest.raises(PlanError, match="gradient_clip"):
        tiny(gradient_clip=1.0)


def test_the_manifest_names_the_parameters_in_order() -> None:
    manifest = tiny().manifest()
    assert [tensor.name for tensor in manifest.tensors] == ["conv.weight", "conv.bias", "out.weight", "out.bias"]
    assert manifest.size == 24 + 4 + 12 + 3


def test_an_operation_outside_the_list_is_named_with_its_layer_and_advice() -> None:
    with pytest.raises(PlanError, match=r"step 2 \(system in layer act \(Evil\)\).*not allowed.*GroupNorm"):
        Plan.build(**with_step(1, op="system", layer="act (Evil)"))


@pytest.mark.parametrize("name", ["batch_norm", "_native_batch_norm_legit", "native_batch_norm"])
def test_batch_norm_is_refused_with_the_advice_to_use_group_norm(name: str) -> None:
    with pytest.raises(PlanError, match="use GroupNorm instead of BatchNorm"):
        Plan.build(**with_step(1, op=name))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (with_step(1, args=("%nowhere",)), "uses 'nowhere', which isn't defined before it"),
        (with_step(1, args=("%logits",)), "uses 'logits', which isn't defined before it"),
        (with_step(1, out="relu", args=("%relu",)), "uses 'relu'"),
        (with_step(1, out="window"), "defines 'window' a second time"),
        (with_step(1, args=("rm -rf",)), "has the argument 'rm -rf'"),
        (with_step(2, args=("%relu", ("%nowhere",))), "uses 'nowhere'"),
        (with_step(1, kwargs={"out": "%nowhere"}), "uses 'nowhere'"),
        (fields(loss="gone"), "doesn't compute its loss 'gone'"),
        (fields(logits="window"), "logits 'window'"),
        (fields(classes=("a", "a", "b")), "names a class twice"),
        (fields(report=("absent",)), "reports absent"),
        (fields(classes=("calm",), report=("calm",)), "learns classes and has 1 class"),
        (fields(learns="reconstruction"), "learns reconstruction and has 3 classes"),
        (fields(learns="everything"), "learns"),
        (fields(inputs=({"name": "labels", "shape": (2, 8)},)), "names of their own"),
        (fields(inputs=({"name": "conv.bias", "shape": (2, 8)},)), "names of their own"),
        (fields(inputs=()), "inputs"),
        (fields(name="../x"), "name"),
        (with_step(1, args=(float("nan"),)), "operations"),
        (with_step(1, args=({"a": 1},)), "operations"),
        (with_step(1, args=tuple(range(17))), "operations"),
        (with_step(2, args=("%relu", tuple(range(65)))), "operations"),
        (fields(parameters=[{"name": "w", "shape": (2**23, 2**5), "init": {"kind": "stored"}}]), "values; at most"),
        (fields(parameters=[{"name": "w", "shape": (0,), "init": {"kind": "stored"}}]), "parameters"),
    ],
)
def test_a_wrong_plan_is_refused_saying_what_is_wrong(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says.replace("(", r"\(")):
        Plan.build(**wrong)


def test_the_bounds_on_size_hold() -> None:
    assert MAX_ELEMENTS < 2**23 * 2**5
    with pytest.raises(PlanError, match=f"at most {MAX_BYTES}"):
        Plan.from_bytes(b"{" + b" " * MAX_BYTES)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(PlanError):
        Plan.from_bytes(b'{"operations":' + b"[" * 100_000)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_plan_error(payload: bytes) -> None:
    with pytest.raises(PlanError):
        Plan.from_bytes(payload)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["%relu", "%", "float32", "", *CLASSES]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "op", "name"]), inner),
    max_leaves=6,
)


@given(st.data())
def test_a_plan_with_any_field_replaced_is_a_plan_or_a_plan_error(data: st.DataObject) -> None:
    document = json.loads(tiny().to_bytes())
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    payload = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    try:
        plan = Plan.from_bytes(payload)
    except PlanError:
        return
    assert plan.to_bytes() == payload


@pytest.mark.parametrize(
    "hostile",
    [
        b'{"operations":[' + b"0," * 500_000 + b"0]}",
        b'{"operations":[' + b"[]," * 60_000 + b"0]}",
        b'{"inputs":[{"name":"x","shape":[' + b"0," * 60_000 + b"0]}]}",
        b"{" + b",".join(b'"%x":0' % number for number in range(60_000)) + b"}",
    ],
    ids=["long", "operations", "sizes", "fields"],
)
def test_a_plan_of_nothing_but_faults_takes_little_memory(hostile: bytes) -> None:
    """One MB took 900. Seen to fail without ``fail_fast``, the bound on entries and the count of faults together."""
    tracemalloc.start()
    try:
        with pytest.raises(PlanError):
            Plan.from_bytes(hostile)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
