"""Every decoder under fuzzed and structure-aware mutated input, in a process whose memory is limited.

A short run of what ``make fuzz`` does for as long as one wants; see ``tests/hostile/fuzz.py``. What it found once has a
test of its own beside the decoder's others.
"""

from __future__ import annotations

import ast
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

from edge.core.jobs import Answer, Request
from tests.hostile import fuzz
from tests.hostile.chance import draw
from tests.hostile.target import Target
from tests.hostile.wire_targets import ANSWERS, REQUESTS

INPUTS = {"wire": 1500, "tensors": 200, "files": 400, "recordings": 500}


@pytest.mark.parametrize("group", fuzz.GROUPS)
def test_invariant_13_no_input_takes_a_decoder_anywhere_but_to_its_documented_error(group: str) -> None:
    """Under a memory limit, and within two seconds of one processor each.

    Seen to fail with ``codec.decode`` without ``ValueError`` (a number of 5000 digits) and without its limit of bytes,
    ``entropy.unpack`` without its look at the frame's header (memory), ``Plan.from_bytes`` without ``PlanError`` around
    pydantic's, ``files.read`` without ``Damaged`` around JSON's, and ``windows`` without ``_unpack`` around NumPy's.
    """
    report = fuzz.run(group, "test", inputs=INPUTS[group])
    assert report.findings == []
    assert report.inputs == INPUTS[group]
    reached = {name.partition(":")[0] for name in report.outcomes}
    assert reached == {target.name for target in fuzz.targets(group)}


def test_a_target_that_misbehaves_in_any_way_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a quiet fuzzer means something."""

    def spin(_: bytes) -> None:
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass

    def miss(_: bytes) -> None:
        raise KeyError

    monkeypatch.setattr(fuzz, "CPU_S", 0.05)
    for read, expected in (
        (lambda _: int("x"), "!ValueError"),
        (lambda _: bytearray(2**62), "!MemoryError"),
        (lambda _: sys.exit(), "!SystemExit"),
        (spin, "!0."),
    ):
        outcome, _ = fuzz.one(Target("bad", lambda rng: rng.randbytes(3), read, (KeyError,)), "seed", 1)
        assert outcome.startswith(expected)
    fine, _ = fuzz.one(Target("good", lambda rng: rng.randbytes(3), miss, (KeyError,)), "seed", 1)
    assert fine == "KeyError"


def test_an_input_is_made_again_from_its_seed_name_and_number_whatever_was_made_before() -> None:
    """Seen to fail without the copy in ``tensor_targets._add_steps``: what one input changed was in the next."""
    for group in fuzz.GROUPS:
        for target in fuzz.targets(group):
            first, second = ([target.make(draw("seed", target.name, at)) for at in range(40)] for _ in range(2))
            assert first == second, target.name


def test_every_module_that_parses_bytes_from_outside_is_fuzzed() -> None:
    """A new decoder must be among the targets. Seen to fail with a module of ``json.loads`` added to ``edge``."""
    root = Path(__file__).parents[1]
    parsers = {"loads", "model_validate_json", "validate_json", "ParseFromString", "frombuffer", "safe_open", "np.load"}
    found = set()
    for package in ("edge", "coordinator", "schemas"):
        for path in (root / package).rglob("*.py"):
            calls = (node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
            names = {ast.unparse(call).rpartition(".")[2] for call in calls}
            if names & parsers:
                found.add(str(path.relative_to(root)))
    assert found == {
        "coordinator/models.py",
        "coordinator/rows.py",
        "edge/bench.py",  # of its own child
        "edge/training/checkpoint.py",
        "edge/fetcher.py",
        "edge/files.py",
        "edge/findings/finder.py",  # of its own parent
        "edge/core/jobs.py",
        "edge/kept_child.py",  # of its own child
        "edge/core/lineage.py",
        "edge/record/recording.py",  # of its own parent
        "edge/findings/segment_tail.py",  # samples: any 16 bits are one
        "edge/sources/idx.py",
        "edge/sources/watch.py",
        "schemas/codec.py",
        "schemas/compression/eden.py",
        "schemas/compression/grid.py",
        "schemas/compression/int4.py",
        "schemas/compression/int8.py",
        "schemas/compression/nearest.py",
        "schemas/compression/nibbles.py",
        "schemas/compression/planes.py",
        "schemas/compression/sign.py",
        "schemas/compression/topk.py",
        "schemas/plan.py",
        "schemas/plan_file.py",
        "schemas/settings.py",
    }


def test_every_kind_of_frame_between_agent_and_trainer_is_among_the_inputs() -> None:
    assert {type(one) for one in REQUESTS} == set(get_args(Request))
    assert {type(one) for one in ANSWERS} == set(get_args(Answer))
