"""What always holds, as far as it is a device's: the numbers that no other file of tests has, or has whole.

9, 10 and 14 wait for privacy and for identity.
"""

from __future__ import annotations

import ast
import builtins
import io
import itertools
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pytest
import torch

from edge.agent import Agent
from edge.core.jobs import read_answer, read_request
from edge.dataspec import DataSpec
from edge.outbox import Outbox
from edge.sources import RECIPES, prepare
from edge.store import Store, claim
from edge.training import checkpoint
from schemas import codec, compression
from schemas.errors import FedbeatError
from schemas.link.link import Inbound
from schemas.link.memory import MemoryLink
from schemas.plan import Plan
from schemas.topics import Kind
from tests.edge_scripts import DEVICE, PLAN_REF, announcement, receipt
from tests.plan_examples import tiny
from tests.test_agent import HEARD, TOPICS, World

ROOT = Path(__file__).parents[1]
YEAR_S = 366 * 86_400.0


# -- 11: a device's disk -----------------------------------------------------------------------------------------------


class Disk:
    """Counts what this process has the disk do: every fsync, and every byte handed to a file opened for writing."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.written = 0
        fsync, opened = os.fsync, io.open

        def count_sync(descriptor: int) -> None:
            self.syncs += 1
            fsync(descriptor)

        def count_writes(path: str | Path, *arguments: Any, **named: Any) -> Any:
            file = opened(path, *arguments, **named)
            if "w" in (arguments[0] if arguments else named.get("mode", "r")):
                write = file.write
                file = Counting(file, lambda raw: self._count(write, raw))
            return file

        patch.setattr(os, "fsync", count_sync)
        patch.setattr(os, "fdatasync", count_sync)
        patch.setattr(io, "open", count_writes)  # which ``Path.open`` calls
        patch.setattr(builtins, "open", count_writes)

    def _count(self, write: Callable[[bytes], int], raw: bytes) -> int:
        self.written += len(raw)
        return write(raw)


class Counting:
    """A file whose writes are counted."""

    def __init__(self, file: Any, write: Callable[[bytes], int]) -> None:
        self._file = file
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, *how: object) -> None:
        self._file.__exit__(*how)


def kernel_written() -> int:
    """Bytes this process has handed to the kernel to write, to whatever it was."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


@pytest.mark.parametrize("residual", [0, 100_000], ids=["", "what it leaves out included"])
def test_invariant_11_a_round_costs_a_device_at_most_3_fsyncs_and_3_times_its_payload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, residual: int
) -> None:
    """The payload is the model down and the update up. Seen to fail with the model, or the settled update's header,
    made durable (4 fsyncs), and with each file written four times."""
    world = World(tmp_path)
    world.trainer.payload = lambda job: bytes(1000) if residual else bytes(60_000) + job.model
    world.trainer.residual = lambda _job: bytes(residual)
    world.desk.begin()
    world.turn()
    disk = Disk(monkeypatch)
    before = kernel_written()
    world.desk.offer(1, size=200_000)
    world.turn()
    about = world.training(2)
    update = len(world.desk.update)
    world.desk.say(Kind.RECEIPT, receipt(about), 2)
    world.turn(2.0)
    assert (world.agent.status.model_version, world.agent.status.last_round) == (1, 2)
    payload = 200_000 + update
    assert disk.syncs <= 3
    assert payload + residual <= disk.written <= 3 * payload
    assert kernel_written() - before <= 3 * payload + 100_000  # and nothing that went around the counting


# -- 12: clocks that jump ----------------------------------------------------------------------------------------------


def everything_said(directory: Path, patch: pytest.MonkeyPatch, clock: Callable[[], float]) -> list[tuple[str, bytes]]:
    """All that a device publishes in two rounds with a power cut, a restart, a silence and a resend in them."""
    said: list[tuple[str, bytes]] = []
    publish = MemoryLink.publish

    def listen(link: MemoryLink, topic: str, payload: bytes, **named: Any) -> int:
        if DEVICE in topic and "/receipt/" not in topic:
            said.append((topic, payload))
        return publish(link, topic, payload, **named)

    patch.setattr(time, "time", clock)
    patch.setattr(MemoryLink, "publish", listen)
    world = World(directory)
    with claim(directory / "claimed", lambda: 5.0) as session:
        world.session = session
        world.desk.begin()
        first = world.training(1)
        world.crash()
        world.agent.stop()
        world.device()
        for _ in range(8):
            world.turn(10.0)
        world.desk.say(Kind.RECEIPT, receipt(first), 1)
        world.desk.offer(1)
        world.desk.say(Kind.RECEIPT, receipt(world.training(2)), 2)
        for _ in range(8):
            world.turn(10.0)
        world.agent.stop()
    return said


def test_invariant_12_a_wall_clock_that_jumps_a_year_either_way_changes_nothing_a_device_says(tmp_path: Path) -> None:
    """Seen to fail with an update's age taken from ``time.time``."""
    steady, looks = time.time(), itertools.count(1)
    clocks: dict[str, Callable[[], float]] = {
        "steady": lambda: steady,
        "a year on at every look": lambda: steady + YEAR_S * next(looks),
        "a year back at every look": lambda: steady - YEAR_S * next(looks),
        "stands at nought": lambda: 0.0,
    }
    said = {}
    for name, clock in clocks.items():
        with pytest.MonkeyPatch.context() as patch:
            said[name] = everything_said(tmp_path / name.replace(" ", "-"), patch, clock)
    assert len(said["steady"]) > 10
    for name in clocks:
        assert said[name] == said["steady"], name


def test_invariant_12_a_device_asks_for_the_wall_clock_for_its_session_and_for_what_people_read_alone() -> None:
    """A session rises also where that clock jumps back; a recording's name and a window's time decide nothing.

    Seen to fail with ``time.time()`` in ``edge/outbox.py``.
    """
    asking = {
        (path.name, node.attr)
        for path, node in nodes("edge")
        if isinstance(node, ast.Attribute)
        and node.attr in {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime"}
        and isinstance(node.value, ast.Name)
        and node.value.id in {"time", "datetime", "date"}
    }
    assert asking == {("store.py", "time"), ("recording.py", "now"), ("finder.py", "now")}


# -- 15: nothing that is loaded can run code ---------------------------------------------------------------------------


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._place}",)


class Snare(NamedTuple):
    """Bytes that run code where they are unpickled, and where that would show."""

    raw: bytes
    sprung: Path


def snares(directory: Path) -> dict[str, Snare]:
    """A plain pickle, one as torch saves it, one inside an exported program's archive, and arrays of objects."""
    made: dict[str, Snare] = {}
    for name in ("pickle", "torch", "pt2", "npz", "npy"):
        place = directory / f"sprung-by-{name}"
        out = io.BytesIO()
        match name:
            case "pickle":
                pickle.dump(Trap(place), out)
            case "torch":
                torch.save({"weight": Trap(place)}, out)
            case "pt2":
                with zipfile.ZipFile(out, "w") as archive:
                    for entry in (
                        "archive_format",
                        "version",
                        "models/model.json",
                        "data/weights/model.pt",
                        "data.pkl",
                    ):
                        archive.writestr(entry, pickle.dumps(Trap(place)))
            case "npz":
                trap = np.array([Trap(place)], dtype=object)
                np.savez(out, x=trap, y=trap, owner=trap, classes=trap)
            case _:
                np.save(out, np.array([Trap(place)], dtype=object), allow_pickle=True)
        made[name] = Snare(out.getvalue(), place)
    return made


def test_a_snare_springs_where_it_is_unpickled(tmp_path: Path) -> None:
    for name, snare in snares(tmp_path).items():
        if name in {"pickle", "npy"}:
            pickle.loads(snare.raw) if name == "pickle" else np.load(io.BytesIO(snare.raw), allow_pickle=True)  # noqa: S301 - that is the point
            assert snare.sprung.exists()


def loaders(directory: Path, raw: bytes) -> dict[str, Callable[[], object]]:
    """Everything in a device that reads bytes from outside its own memory."""
    data = directory / "data"
    data.mkdir(parents=True)
    for ending in ("npz", "csv", "npy", "pt2", "pkl", "hea", "dat", "atr", "idx"):
        (data / f"100.{ending}").write_bytes(raw)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "watch_dataset.npy"):
        (data / name).write_bytes(raw)
    state = directory / "state"
    (state / "outbox").mkdir(parents=True)
    for name in ("session", "plan", "model", "checkpoint", "pace", "age", "lock", "outbox/run-one.1.train.update"):
        (state / name).write_bytes(raw)
    manifest = tiny().manifest()
    made: dict[str, Callable[[], object]] = {f"decode {kind}": decoding(kind, raw) for kind in Kind}
    made |= {
        "a part": lambda: codec.decode_part(raw),
        "an update": lambda: codec.decode_update(raw),
        "a plan": lambda: Plan.from_bytes(raw),
        "parameters": lambda: compression.decode(raw, manifest),
        "a checkpoint": lambda: checkpoint.decode(raw, "a" * 64),
        "a job": lambda: read_request(lambda _most: raw),
        "an answer": lambda: read_answer(lambda _most: raw),
        "a session": lambda: claim(state, lambda: 5.0, lambda _text: None).__enter__(),
        "the outbox": lambda: Outbox(state / "outbox", lambda _text: None).contents(),
    }
    store = Store(state, lambda _text: None)
    made |= {
        "the model on disk": store.model,
        "the plan on disk": lambda: store.plan(PLAN_REF.digest),
        "what is kept": store.kept,
        "the pace": store.pace,
        "the age": store.running_s,
    }
    for recipe in RECIPES:
        for path in (data, *sorted(data.iterdir())):
            made[f"{recipe} from {path.name}"] = preparing(path, recipe)
    return made


def decoding(kind: Kind, raw: bytes) -> Callable[[], object]:
    return lambda: codec.decode(kind, raw)


def preparing(path: Path, recipe: str) -> Callable[[], object]:
    return lambda: prepare(DataSpec(path=str(path), held_out="0.2"), recipe)


@pytest.mark.parametrize("name", ["pickle", "torch", "pt2", "npz", "npy"])
def test_invariant_15_nothing_that_a_device_loads_can_run_code(tmp_path: Path, name: str) -> None:
    """Every reader a device has refuses it, and none springs it. Seen to fail with ``allow_pickle=True`` in
    ``edge/sources/windows.py``, and with ``torch.load`` in ``checkpoint.decode``."""
    snare = snares(tmp_path)[name]
    for what, load in loaders(tmp_path / "home", snare.raw).items():
        try:
            load()
        except FedbeatError:
            pass
        except LookupError:  # a kind that has no decoder
            if not what.startswith("decode "):
                raise
        assert not snare.sprung.exists(), what


@pytest.mark.parametrize("name", ["pickle", "torch", "pt2"])
def test_invariant_15_what_comes_over_the_broker_is_not_run_either(tmp_path: Path, name: str) -> None:
    snare = snares(tmp_path)[name]
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    for below in (*HEARD, "model/1/0", f"plan/{PLAN_REF.digest}/0"):
        world.agent.handle(Inbound(TOPICS.prefix + below, snare.raw), 0.0)
    assert isinstance(world.agent, Agent)
    assert not snare.sprung.exists()


def test_invariant_15_no_line_of_a_device_calls_a_loader_that_could() -> None:
    """Seen to fail with ``torch.load`` anywhere in ``edge``, and with ``allow_pickle=True``."""
    loaders_of_code = {"eval", "exec", "compile", "__import__"}
    methods = {"load", "loads", "Unpickler", "load_module", "run_path", "load_state_dict"}
    found = set()
    for path, node in (*nodes("edge"), *nodes("schemas")):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        pickled = any(one.arg == "allow_pickle" and ast.unparse(one.value) != "False" for one in node.keywords)
        if pickled or name in loaders_of_code or name.rpartition(".")[2] in methods:
            found.add((path.relative_to(ROOT).as_posix(), name))
    assert found == {
        ("edge/model_file.py", "load"),  # safetensors.numpy.load
        ("edge/files.py", "json.loads"),
        ("edge/findings/finder.py", "json.loads"),
        ("edge/record/recording.py", "json.loads"),
        ("edge/kept_child.py", "json.loads"),
        ("edge/cli.py", "load"),  # schemas.settings.load
        ("edge/bench.py", "json.loads"),
        ("schemas/plan_file.py", "json.loads"),
        ("schemas/plan_file.py", "load"),  # safetensors.numpy.load
        ("schemas/settings.py", "json.loads"),
        ("edge/sources/watch.py", "_ArraysOnly(file, encoding='latin1').load"),  # arrays alone, after the file's digest
        ("edge/sources/windows.py", "np.load"),  # allow_pickle=False
        ("schemas/codec.py", "json.loads"),
        ("schemas/settings.py", "tomllib.loads"),
    }


def nodes(package: str) -> list[tuple[Path, ast.AST]]:
    files = (path for path in sorted((ROOT / package).rglob("*.py")) if not path.name.endswith("_pb2.py"))
    return [(path, node) for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


# -- 7 and 8 over what no message can do -------------------------------------------------------------------------------


def test_invariant_07_an_expired_announcement_that_comes_late_from_the_broker_trains_nobody(tmp_path: Path) -> None:
    """Its time is counted from when the device hears of it, and a coordinator repeats it with what is left.

    Seen to fail without the comparison with ``until`` in ``participation._is_asked``.
    """
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    world.desk.announce(announcement(1, remaining_s=0.0))
    world.turn()
    world.turn(1.0)
    assert world.trainer.trainings() == []
    assert world.desk.joins == []
