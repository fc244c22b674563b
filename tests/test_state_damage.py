"""Whatever has become of a file of a device's state, the device starts, says what is wrong, and works."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import files
from edge.core.events import Ticket
from edge.core.pace import Pace
from edge.core.participation_state import Kept
from edge.device_log import DeviceLog
from edge.outbox import Outbox
from edge.store import Store, claim
from schemas import codec
from schemas.messages import DeviceState
from schemas.topics import Kind
from tests.edge_scripts import announcement, digest, receipt
from tests.test_agent import World
from tests.test_outbox import put

FILES = ("session", "plan", "model", "checkpoint", "pace", "age", "lock", "outbox", "a receipt", "an update")


def a_lived_in_state(directory: Path) -> Path:
    """Every file that a device ever keeps: two rounds done, one without a receipt, a training half done."""
    world = World(directory)
    with claim(world.state / "device", lambda: 1000.0):
        world.desk.begin()
        world.desk.say(Kind.RECEIPT, receipt(world.training(1)), 1)
        world.turn()
        world.desk.offer(1)
        world.training(2)
        store = Store(world.state / "device", print)
        store.keep_checkpoint(Kept("job", 0.5), "a" * 64, "b" * 64, b"so far" * 50)
        store.keep_pace(Pace().learn(digest("plan"), 400.0))
        store.keep_running_s(5.0)
    return world.state / "device"


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_lived_in_state(tmp_path_factory.mktemp("lived"))


def find(state: Path, name: str) -> Path:
    updates = {
        "a receipt": "run-one.1.train.receipt",
        "an update": "run-one.2.train.update",
    }
    return state / "outbox" / updates[name] if name in updates else state / name


def truncated(path: Path, where: int) -> None:
    path.write_bytes(path.read_bytes()[:where])


def flipped(path: Path, where: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[where % len(raw)] ^= 1 + where % 255
    path.write_bytes(raw)


def emptied(path: Path, _where: int) -> None:
    path.write_bytes(b"")


def garbage(path: Path, where: int) -> None:
    path.write_bytes(bytes([where % 256, 0, 255, 10]) * (1 + where % 2000))


def other_json(path: Path, where: int) -> None:
    """Whole, with the right digests, and nothing that we ever wrote."""
    headers: list[dict[str, Any]] = [{"session": "x"}, {"session": -1}, {"digest": 5}, {}, {"seconds": [["a", "b"]]}]
    files.write(path, headers[where % len(headers)], b"x", durable=False)


def a_list(path: Path, _where: int) -> None:
    files.write(path, [1, 2], b"", durable=False)  # type: ignore[arg-type]  # on purpose


def no_json(path: Path, _where: int) -> None:
    line = b"{" * 2000 + b"\n"
    path.write_bytes(f"{hashlib.sha256(line).hexdigest()}{hashlib.sha256(b'').hexdigest()}\n".encode() + line)


def a_directory(path: Path, _where: int) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def missing(path: Path, _where: int) -> None:
    path.unlink()


HARMS: tuple[Callable[[Path, int], None], ...] = (
    truncated,
    flipped,
    emptied,
    garbage,
    other_json,
    a_list,
    no_json,
    a_directory,
    missing,
)


def harmed(state: Path, name: str, harm: Callable[[Path, int], None], where: int) -> None:
    path = find(state, name)
    if name == "outbox":  # a directory by rights
        shutil.rmtree(path)
        if harm is not missing:
            path.write_bytes(bytes([where % 256]) * (where % 100))
    elif name == "lock" and harm in {truncated, flipped}:
        emptied(path, where)  # it holds nothing
    else:
        harm(path, where)


@settings(max_examples=250, deadline=None)
@given(
    harms=st.lists(
        st.tuples(st.sampled_from(FILES), st.sampled_from(HARMS), st.integers(0, 5000)),
        min_size=1,
        max_size=4,
        unique_by=lambda one: one[0],
    )
)
def test_whatever_is_damaged_the_device_starts_says_so_and_works(
    lived_in: Path,
    tmp_path_factory: pytest.TempPathFactory,
    harms: list[tuple[str, Callable[[Path, int], None], int]],
) -> None:
    """Seen to fail with a directory counted as a file that can't be read, with a header that is no JSON let through,
    with a header of other fields let through, and with a lock or an outbox of the wrong kind left where it is."""
    state = tmp_path_factory.mktemp("harmed") / "device"
    shutil.copytree(lived_in, state)
    for name, harm, where in sorted(harms, key=lambda one: one[0] == "outbox"):
        harmed(state, name, harm, where)
    said: list[str] = []
    with claim(state, lambda: 2000.0, said.append) as session, pytest.MonkeyPatch.context() as patch:
        assert session >= 1000
        patch.setattr(DeviceLog, "warn", lambda _log, text: said.append(text))
        works(state)
    gone = {"a receipt", "an update"} if any(name == "outbox" for name, _, _ in harms) else set()
    assert bool(said) >= any(is_noticed(harm, name) for name, harm, _ in harms if name not in gone)


def is_noticed(harm: Callable[[Path, int], None], name: str) -> bool:
    """Whether there is something to say: a file that is gone was never there, a lock holds nothing."""
    if name in {"lock", "outbox"}:
        return (name == "outbox" and harm is not missing) or harm is a_directory
    return harm in {garbage, a_list, no_json, a_directory, emptied}


def works(state: Path) -> None:
    """It takes part in a round, to the receipt, and resends what it had or knows nothing of it."""
    world = World(state.parent)
    world.desk.begin()
    world.desk.offer(5)
    world.turn(1.0)
    assert world.agent.status.model_version == 5
    about = world.desk.announce(announcement(6))
    world.turn()
    update = codec.decode_update(world.desk.update)
    assert (update.round, update.nonce) == (6, about.nonce)
    world.desk.say(Kind.RECEIPT, receipt(about), 6)
    world.turn(2.0)
    assert world.agent.status.last_round == 6
    assert world.agent.status.state in {DeviceState.IDLE, DeviceState.SENDING}
    world.crash()
    assert world.agent.status.last_round == 6


def test_an_update_that_was_not_damaged_is_sent_whatever_else_was(lived_in: Path, tmp_path: Path) -> None:
    state = tmp_path / "device"
    shutil.copytree(lived_in, state)
    for name in FILES:
        if name not in {"an update", "outbox"}:
            harmed(state, name, garbage, 7)
    world = World(tmp_path)
    world.desk.begin()
    world.turn(1.0)
    assert {ref for _, ref in world.desk.parts_seen}


def test_invariant_11_damaged_and_half_written_files_do_not_pile_up(tmp_path: Path) -> None:
    """Seen to fail without ``files.sweep``."""
    for number in range(20):
        outbox = Outbox(tmp_path, lambda _text: None)
        put(outbox, Ticket("run-one", number, "train", f"{number:016x}"))
        next(tmp_path.glob("*.update")).write_bytes(b"garbage")
        (tmp_path / f"run-one.{number}.train.update.new").write_bytes(b"half")
    (tmp_path / "a.new").mkdir()
    Outbox(tmp_path, lambda _text: None)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name for name in names if name.endswith(".new")] == []
    assert len(names) <= files.ASIDE + 1
    assert "run-one.19.train.update.damaged" in names


def test_nothing_of_a_state_directory_is_readable_by_code_that_runs(lived_in: Path) -> None:
    """Every file is digests, JSON and raw numbers: no pickle opcodes at the start of any."""
    for path in (path for path in lived_in.rglob("*") if path.is_file() and path.name != "lock"):
        assert all(byte in b"0123456789abcdef" for byte in path.read_bytes()[:128])
