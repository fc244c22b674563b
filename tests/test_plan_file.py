from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from schemas.errors import PlanError, StateError
from schemas.plan_file import PlanFile, bundled, find, read, write
from tests.plan_examples import fields, tiny

STORED = tuple({**parameter, "init": {"kind": "stored"}} for parameter in fields()["parameters"])


def stored() -> PlanFile:
    plan = tiny(parameters=STORED)
    rng = np.random.default_rng(5)
    return PlanFile(plan, {p.name: rng.normal(size=p.shape).astype(np.float32) for p in plan.parameters})


def test_a_seeded_plan_comes_back_and_draws_the_same_values_for_the_same_seed(tmp_path: Path) -> None:
    write(PlanFile(tiny(), {}), tmp_path / "a.plan")
    file = find(str(tmp_path / "a.plan"))
    assert file.plan == tiny()
    assert file.initial(3).equal(PlanFile(tiny(), {}).initial(3))
    assert not file.initial(3).equal(file.initial(4))


def test_drawn_values_keep_their_bounds() -> None:
    arrays = PlanFile(tiny(), {}).initial(0).arrays()
    assert 0.3 < np.abs(arrays["conv.weight"]).max() <= 0.4
    assert not arrays["conv.bias"].any()


def test_stored_values_come_back_bit_for_bit_whatever_the_seed(tmp_path: Path) -> None:
    write(stored(), tmp_path / "a.plan")
    file = find(str(tmp_path / "a.plan"))
    for seed in (0, 1):
        arrays = file.initial(seed).arrays()
        assert all(np.array_equal(arrays[name], values) for name, values in stored().stored.items())


def test_some_values_may_be_stored_and_others_drawn() -> None:
    plan = tiny(parameters=(*fields()["parameters"][:3], STORED[3]))
    bias = np.arange(3, dtype=np.float32)
    assert PlanFile(plan, {"out.bias": bias}).initial(0).arrays()["out.bias"].tolist() == bias.tolist()


def test_the_bundled_plans_are_found_by_name() -> None:
    assert bundled() == ("digits", "ecg-beats", "ecg-masked", "ecg-weak", "watch")
    assert {find(name).plan.name for name in bundled()} == set(bundled())


def test_an_unknown_plan_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        PlanError, match=r"no plan 'nowhere': give a file, or one of digits, ecg-beats, ecg-masked, ecg-weak, watch"
    ):
        find("nowhere")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="can't read"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        save({}),
        save({}, metadata={"other": "x"}),
        save({"a": np.zeros(3, np.float32)}),
    ],
)
def test_what_is_no_plan_file_is_refused_with_the_command_that_makes_one(content: bytes) -> None:
    with pytest.raises(PlanError, match="coordinator plan export"):
        read(content, "x.plan")


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {**stored().stored, "more": np.zeros(1, np.float32)},
        {**stored().stored, "out.bias": np.zeros(4, np.float32)},
        {**stored().stored, "out.bias": np.zeros(3, np.float64)},
        {**stored().stored, "out.bias": np.full(3, np.nan, np.float32)},
    ],
)
def test_values_that_are_not_the_plans_are_refused(
    tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]],
) -> None:
    content = save(tensors, metadata={"plan": stored().plan.to_bytes().decode()})
    with pytest.raises(PlanError, match="export it again"):
        read(content, "x.plan")


@given(st.integers(0, 2500), st.integers(0, 7))
def test_a_file_with_a_flipped_bit_is_a_plan_or_a_plan_error(place: int, bit: int) -> None:
    content = bytearray(save({}, metadata={"plan": tiny().to_bytes().decode()}))
    content[place % len(content)] ^= 1 << bit
    try:
        read(bytes(content), "x.plan")
    except PlanError:
        return


def test_a_place_that_can_not_be_written_is_a_state_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.plan").mkdir()
    with pytest.raises(StateError, match="can't write"):
        write(PlanFile(tiny(), {}), tmp_path / "a.plan")
    assert [path.name for path in tmp_path.iterdir()] == ["a.plan"]
