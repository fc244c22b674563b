"""What a device says in its log, whatever is said to it.

Each docstring ends with how the test was seen to fail.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edge.device_log import MOST, DeviceLog
from schemas.messages import Command
from schemas.restraint import WINDOW_S
from schemas.topics import Kind
from tests.test_agent import World


@pytest.mark.parametrize("command", ["resume", "pause", "evict"])
def test_a_flood_of_commands_takes_a_bounded_number_of_lines_and_how_much_was_left_out_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    """The last of them holds all the same. Seen to fail without ``lets``: 3000 commands were 3000 lines."""
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    world.turn(WINDOW_S)
    with caplog.at_level(logging.INFO):
        for number in range(3000):
            told = Command.model_validate({"command": command, "reason": f"reason {number}"})
            world.desk.say(Kind.COMMAND, told)
        world.turn()
        level = logging.WARNING if command == "evict" else logging.INFO
        assert len(caplog.records) == MOST[level]
        assert ("reason 2999" in world.agent.status.detail) == (command != "resume")
        caplog.clear()
        world.turn(WINDOW_S)
        (line,) = (record.getMessage() for record in caplog.records if "left out" in record.getMessage())
        count = 3000 - MOST[level]
        assert (
            line == f"{world.agent.name}: {count} more lines were left out of the log: more than 100 came in a minute"
        )


def test_a_flood_of_remarks_hides_no_warning_and_is_owned_up_to_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Seen to fail with one bound for all levels, and without ``ends``."""
    told = DeviceLog("dev-one", lambda: 0.0)
    with caplog.at_level(logging.INFO):
        for _ in range(101):
            told.say("resumed by the operator")
        told.warn("the disk is full")
        told.own_up(ends=True)
    assert [record.getMessage() for record in caplog.records][100:] == [
        "dev-one: the disk is full",
        "dev-one: 1 more line was left out of the log: more than 100 came in a minute",
    ]
