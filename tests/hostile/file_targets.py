"""Every loader of what is on disk: models, plan files, a device's records, the journal, settings."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sqlite3
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from coordinator.config import CoordinatorSettings
from coordinator.journal import Journal, ModelVersion
from coordinator.models import Checkpoint, ModelStore
from edge import files
from edge.config import EdgeSettings
from edge.outbox import Outbox
from edge.store import Store, claim
from schemas import codec, plan_file
from schemas.errors import PlanError, SettingsError, StateError
from schemas.messages import DeviceState, DeviceStatus, RoundAnnouncement, RoundSummary, RunSettings
from schemas.parameters import Parameters
from schemas.settings import load
from schemas.topics import Kind
from tests.edge_scripts import model_blob, pointer
from tests.hostile import json_text
from tests.hostile.payloads import MANIFEST
from tests.hostile.raw import damage
from tests.hostile.target import Target
from tests.hostile.tensor_targets import plan
from tests.test_codec import DIGEST, JSON_SAMPLES, NONCE, TRAINED

_BLOB: Final = pointer(1).blob.model_dump()
_TOML: Final = (
    b'broker = "mqtt://localhost"\nfederation = "home"\nrounds = 3\n[train]\nepochs = 2\nlearning_rate = 0.1\n'
)


@cache
def _folder() -> Path:
    """Where inputs stand while they are read: in memory, so that the disk isn't what is tested."""
    place = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)  # noqa: S108 - a folder of our own
    return Path(place)


# -- safetensors -------------------------------------------------------------------------------------------------------


@cache
def _model() -> bytes:
    store = ModelStore(_folder() / "valid")
    flat = np.arange(MANIFEST.size, dtype=np.float32)
    store.save(Checkpoint("run-1", 1, DIGEST, Parameters(MANIFEST, flat), {"momentum": flat}))
    return store.path(1).read_bytes()


def safetensors(rng: random.Random, valid: bytes, header: bytes | None = None) -> bytes:
    """A safetensors file whose header, or what is behind it, was changed."""
    length = int.from_bytes(valid[:8], "little")
    header, body = header or valid[8 : 8 + length], valid[8 + length :]
    if rng.random() < 0.7:
        header = json_text.render(_tensor_header(rng, json_text.parse(header)))
    said = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1)) if rng.random() < 0.05 else len(header)
    data = said.to_bytes(8, "little") + header + rng.choice((body, body, body, body[:-4], body + b"\0", b""))
    return damage(rng, data, valid) if rng.random() < 0.2 else data


def _tensor_header(rng: random.Random, document: Any) -> Any:
    """A header with another type, shape or place of a tensor, or changed anyhow."""
    if rng.random() < 0.5:
        return json_text.mutate(rng, document)
    _, tensor = rng.choice([pair for pair in document.pairs if pair[0] != "__metadata__"] or document.pairs)
    hostile = {
        "dtype": ("BF16", "F8_E4M3", "F8_E8M0", "F4", "F64", "I64", "BOOL", "C64", "U16", "X", "", 7),
        "shape": ([], [0], [2**63], [2**32, 2**32], [-1], [1.5], [300, 1], [2**31, 0], "x", [1] * 5000),
        "data_offsets": ([0, 0], [0, 2**63], [8, 4], [-4, 0], [0], [4, 1204], [0, 2**64]),
    }
    key = rng.choice(tuple(hostile))
    if isinstance(tensor, json_text.Object):
        tensor.pairs = [(name, rng.choice(hostile[key]) if name == key else value) for name, value in tensor.pairs]
    return document


def _load_model(data: bytes) -> object:
    store = ModelStore(_folder() / "models")
    store.path(1).write_bytes(data)
    return store.load(1)


def _plan_file(rng: random.Random) -> bytes:
    valid = (plan_file.BUNDLED / "watch.plan").read_bytes()
    text = plan(rng).decode("utf-8", "replace")
    header = json.dumps({"__metadata__": {"plan": text}}).encode() if rng.random() < 0.5 else None
    return safetensors(rng, valid, header)


# -- a device's records ------------------------------------------------------------------------------------------------


def _record(rng: random.Random) -> bytes:
    """A record whose digests are right, whatever it says, unless it is damaged after that."""
    headers = (
        pointer(1).model_dump_json(),
        '{"session":3}',
        json.dumps({"digest": DIGEST}),
        json.dumps({"key": "job", "plan": DIGEST, "model": DIGEST, "fraction": 0.5}),
        json.dumps({"seconds": [[DIGEST, 400.5]]}),
        '{"running_s":86400.25}',
        '{"running_s":86400.25,"hours":[[23,1000],[24,5]]}',
        '{"speed":1500.5}',
        json.dumps({"update": DIGEST, "plan": DIGEST}),
        json.dumps({"sequence": 1, "run": "run-one", "round": 1, "task": "train", "nonce": NONCE, "blob": _BLOB}),
    )
    line = json_text.render(json_text.mutate(rng, json_text.parse(rng.choice(headers).encode()))) + b"\n"
    payload = model_blob(1)
    digests = "".join(hashlib.sha256(piece).hexdigest() for piece in (line, payload)) + "\n"
    data = digests.encode() + line + payload
    return damage(rng, data) if rng.random() < 0.3 else data


def _read_record(data: bytes) -> object:
    """The record as every reader of one reads it."""
    folder, said = _folder() / "device", list[str]()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "outbox").mkdir(parents=True)
    kept = ("model", "plan", "session", "checkpoint", "pace", "age", "budget", "link")
    names = ("record", *kept, "outbox/run-one.1.train.update", "outbox/run-one.1.train.residual")
    for name in names:
        (folder / name).write_bytes(data)
    with claim(folder):
        store, outbox = Store(folder, said.append), Outbox(folder / "outbox", said.append)
        found = store.model(), store.plan("x"), outbox.contents()
        store.kept(), store.checkpoint("job", DIGEST, DIGEST), store.pace(), store.running_s()
        store.budget(1000).moved(5.0, 7).wait_s(9.0, 1000), store.speed()
    for parcel in outbox.contents().parcels:
        outbox.blob(parcel.ticket)
        outbox.residual(replace(parcel.ticket, round=parcel.ticket.round + 1), DIGEST)
    assert all(found) or said or found[1] is None
    return files.read(folder / "record")


# -- the journal -------------------------------------------------------------------------------------------------------


@cache
def _journal() -> bytes:
    path = _folder() / "valid.db"
    settings, announced = JSON_SAMPLES[Kind.RUN], JSON_SAMPLES[Kind.ROUND]
    assert isinstance(settings, RunSettings)
    assert isinstance(announced, RoundAnnouncement)
    first = announced.model_copy(update={"round": 1, "task": "train", "model_version": 0, "attempt": 0})
    summary = RoundSummary(run="run-1", round=1, outcome="committed", model_version=1, devices=("dev-1",))
    blob = codec.encode_update(TRAINED)
    with Journal(path) as journal:
        journal.start_run(settings, DIGEST, "now")
        journal.open_round(first)
        journal.add_update("run-1", TRAINED.model_copy(update={"round": 1}), blob, hashlib.sha256(blob).hexdigest())
        journal.commit_round(first.nonce, summary, ModelVersion("run-1", 1, "b" * 64, DIGEST), "now")
        journal.open_round(first.model_copy(update={"nonce": "d" * 16, "round": 2, "model_version": 1}))
        journal.add_update(
            "run-1", TRAINED.model_copy(update={"nonce": "d" * 16}), blob, hashlib.sha256(blob).hexdigest()
        )
        journal.roster.add(DeviceStatus(device="dev-1", session=1, state=DeviceState.IDLE), "now")
        journal.roster.add_rejections("run-1", 1, {"malformed": 2})
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("VACUUM")
    connection.close()
    return path.read_bytes()


_COLUMNS: Final = (
    *(("runs", "settings"), ("rounds", "announcement"), ("rounds", "summary"), ("devices", "status")),
    *(("updates", "digest"), ("updates", "blob"), ("updates", "examples"), ("models", "digest"), ("rounds", "reason")),
)


def _database(rng: random.Random) -> bytes:
    """The journal with a row's JSON changed by somebody, or with damaged pages."""
    if rng.random() < 0.4:
        data = bytearray(_journal())
        for _ in range(rng.choice((1, 3, 50))):
            data[rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(400)] = rng.randrange(256)
        return bytes(data[: rng.choice((len(data), len(data), 40_000, 100))])
    path = _folder() / "changed.db"
    path.write_bytes(_journal())
    table, column = rng.choice(_COLUMNS)
    with sqlite3.connect(path, isolation_level=None) as connection:
        (old,) = connection.execute(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL").fetchone() or ("{}",)  # noqa: S608 - our own names
        text = old.encode() if isinstance(old, str) else bytes(str(old), "ascii") if not isinstance(old, bytes) else old
        new = json_text.render(json_text.mutate(rng, json_text.parse(text))) if text[:1] == b"{" else damage(rng, text)
        connection.execute("DROP TRIGGER models_stay")
        try:
            connection.execute(f"UPDATE {table} SET {column} = CAST(? AS TEXT) WHERE {column} IS NOT NULL", (new,))  # noqa: S608 - likewise
        except sqlite3.Error:  # a check of the schema's
            connection.execute("DELETE FROM models WHERE version = ?", (rng.randrange(2),))
    connection.close()
    return path.read_bytes()


def _read_database(data: bytes) -> object:
    path = _folder() / "journal.db"
    for stale in _folder().glob("journal.db*"):
        stale.unlink()
    path.write_bytes(data)
    with Journal(path) as journal:
        found = journal.open_run(), journal.finished_run(), journal.history("run-1"), journal.roster.devices()
        list(journal.updates("run-1", 2, "train"))
        journal.models("run-1"), journal.roster.rejections("run-1")
    return found


# -- settings ----------------------------------------------------------------------------------------------------------


def _toml(rng: random.Random) -> bytes:
    lines = _TOML.splitlines(keepends=True)
    hostile = (
        b"a = " + b"[" * 5000,
        b"rounds = " + b"9" * 5000,
        b"a.b.c.d = 1",
        b'broker = "\\ud800"',
        b"train = 3",
        b"[train]",
    )
    more = (
        b"rounds = nan",
        b"quorum = inf",
        b"deadline_s = 1e999",
        b"state = '\\u0000'",
        b"a = {b = {c = 1}}",
        b"\xff = 1",
    )
    at = rng.randrange(len(lines) + 1)
    lines[at : at + rng.randint(0, 1)] = [rng.choice(hostile + more) + b"\n" for _ in range(rng.randint(1, 2))]
    text = b"".join(lines)
    return damage(rng, text, _TOML) if rng.random() < 0.5 else text


def _read_toml(data: bytes) -> object:
    path = _folder() / "settings.toml"
    path.write_bytes(data)
    for kind in (CoordinatorSettings, EdgeSettings):
        try:
            load(kind, {}, path)
        except SettingsError:
            continue
    return load(CoordinatorSettings, {}, path)


FILES: Final = (
    Target("models.load", lambda rng: safetensors(rng, _model()), _load_model, (StateError,), 20),
    Target("plan_file.read", _plan_file, lambda data: plan_file.read(data, "this"), (PlanError,), 20),
    Target("files.read", _record, _read_record, (StateError,), 20),
    Target("journal", _database, _read_database, (StateError,), 5),
    Target("settings.load", _toml, _read_toml, (SettingsError,), 10),
)
