from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from edge.dataspec import EVALUATOR, DataSpec, parse_held_out, parse_partition, parse_people


def test_a_real_device_owns_everything_at_its_path() -> None:
    spec = DataSpec(path="recordings")
    assert (spec.devices, spec.index, spec.partition, spec.held_out) == (1, 0, "auto", "auto")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ("auto", 0.0)),
        ("owner", ("owner", 0.0)),
        ("even", ("even", 0.0)),
        ("dirichlet:0.5", ("dirichlet", 0.5)),
        ("shards:2", ("shards", 2.0)),
    ],
)
def test_partition_rules_are_a_name_and_a_number(text: str, expected: tuple[str, float]) -> None:
    assert parse_partition(text) == expected
    assert DataSpec(path="x", partition=text).partition == text


@pytest.mark.parametrize(
    "text",
    ["", "owner:1", "dirichlet", "dirichlet:0", "dirichlet:nan", "dirichlet:inf", "shards:0", "shards:1.5", "shards:x"],
)
def test_an_unknown_partition_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValidationError, match="use 'auto', 'owner', 'even'"):
        DataSpec(path="x", partition=text)


def test_held_out_is_a_rule_nothing_or_a_fraction() -> None:
    assert parse_held_out("auto") is None
    assert parse_held_out("none") == 0.0
    assert parse_held_out("0.2") == 0.2
    assert parse_held_out("people:anna, ben") is None
    assert parse_people("people:anna, ben,anna") == ("anna", "ben")
    assert parse_people("0.2") == parse_people("auto") == ()


@pytest.mark.parametrize("text", ["", "0", "1", "-0.1", "nan", "some", "people:", "people: , "])
def test_an_unknown_held_out_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValidationError, match="use 'auto', 'none', or a fraction"):
        DataSpec(path="x", held_out=text)


@pytest.mark.parametrize("index", [-2, 3, 4])
def test_an_index_outside_the_devices_is_refused(index: int) -> None:
    with pytest.raises(ValidationError):
        DataSpec(path="x", devices=3, index=index)


def test_the_evaluator_has_an_index_of_its_own() -> None:
    assert DataSpec(path="x", devices=3, index=EVALUATOR).index == -1


def test_a_spec_survives_json() -> None:
    spec = DataSpec(path="watch", partition="dirichlet:0.3", devices=8, index=-1, seed=7, held_out="0.1")
    assert DataSpec.model_validate_json(spec.model_dump_json()) == spec


def test_the_agent_can_use_it_without_loading_numpy() -> None:
    code = "import sys, edge.dataspec; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
