"""What is told of rounds goes to every device, which pays for it: nothing is said twice, nor what is over at once."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from coordinator import observers as seen
from coordinator import pause, run_store
from schemas import codec
from schemas.link.link import Will
from schemas.messages import Phase, RoundAnnouncement, Task
from schemas.topics import Address, Kind
from tests.full_disks import Disk, full
from tests.link_bench import Ear
from tests.scripted_device import Script
from tests.test_service import TOPICS, Home, run_settings


def announced(home: Home, **settings: object) -> list[tuple[int, Task, Phase]]:
    """What three devices are told on ``rounds/current`` in a run, but for how many have joined and answered."""
    for number in range(3):
        home.device(f"dev-{number}", Script(held_out=2))
    ear = Ear()
    link = home.link("ear", ear, Will("ear", b""))
    link.subscribe(TOPICS.topic(Address(Kind.ROUND)))
    link.open()
    home.service(run_settings(**settings)).run()
    told = [codec.decode(Kind.ROUND, payload) for payload in ear.payloads()]
    link.close()
    messages = [one for one in told if isinstance(one, RoundAnnouncement)]
    return [phase for phase, _ in groupby((one.round, one.task, one.phase) for one in messages)]


def test_what_the_next_announcement_says_too_is_not_announced(tmp_path: Path) -> None:
    """A round that begins tells that the one before is over. Seen to fail with each phase announced: 5 a round."""
    rounds = announced(Home(tmp_path / "state"), rounds=3)
    assert [one for one in rounds if one[2] is not Phase.SELECTING] == [
        (1, "train", Phase.COLLECTING),
        (1, "evaluate", Phase.COLLECTING),
        (2, "train", Phase.COLLECTING),
        (2, "evaluate", Phase.COLLECTING),
        (3, "train", Phase.COLLECTING),
        (3, "evaluate", Phase.COLLECTING),
        (3, "evaluate", Phase.COMMITTED),
    ]


def test_who_still_trains_is_told_at_once_that_a_large_model_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows may be minutes away. Seen to fail without ``takes_long``."""
    monkeypatch.setattr(run_store, "LARGE", 0)
    rounds = announced(Home(tmp_path / "state"), rounds=2)
    tasks: list[tuple[int, Task]] = [(1, "train"), (1, "evaluate"), (2, "train"), (2, "evaluate")]
    phases = (Phase.COLLECTING, Phase.AGGREGATING)
    each = [(number, task, phase) for number, task in tasks for phase in phases]
    assert [one for one in rounds if one[2] is not Phase.SELECTING] == [*each, (2, "evaluate", Phase.COMMITTED)]


def test_who_still_trains_is_told_that_a_round_is_over_whose_model_the_disk_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be full for days. Seen to fail without ``announce`` in ``Reactor._hold_on``."""
    monkeypatch.setattr(pause, "RETRY_S", 0.001)
    settings = {"rounds": 1, "evaluate": False}
    with Disk() as to_count:
        announced(Home(tmp_path / "undisturbed"), **settings)
    commit = to_count.operations.index("sqlite UPDATE rounds SET")
    home = Home(tmp_path / "state")
    with Disk(commit, full, times=3):
        rounds = announced(home, **settings)
    assert home.watch.of(seen.Paused)
    assert [phase for _, _, phase in rounds if phase is not Phase.SELECTING] == [
        Phase.COLLECTING,
        Phase.AGGREGATING,
        Phase.COMMITTED,
    ]
