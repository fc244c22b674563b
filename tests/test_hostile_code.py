"""Invariant 15: nothing that is loaded can run code. What our lines may call, and what crafted files come to.

No pickle, no torch.load, no torch.export.load: what is read is JSON, protobuf, safetensors, SQLite, plain arrays, and
operation lists. The one exception is the ``watch`` recordings, a pickle inside a PyPI package.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from coordinator.journal import Journal
from coordinator.models import ModelStore
from edge import files
from edge.core.jobs import read_answer, read_request
from edge.sources import load, watch, windows
from schemas import codec, compression, plan_file
from schemas.errors import DataError, FedbeatError, PlanError, StateError, WireError
from schemas.plan import Plan
from schemas.topics import Kind
from tests.hostile.payloads import MANIFEST
from tests.hostile.recording_targets import npy, zip_bomb
from tests.plan_examples import fields, tiny

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("edge", "coordinator", "schemas")
MODULES: Final = frozenset(
    {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "jsonpickle"}
    | {"code", "codeop", "runpy", "imp", "pdb", "ctypes"}
)
CALLS: Final = frozenset({"eval", "exec", "compile", "__import__", "breakpoint", "input"})
METHODS: Final = frozenset(
    {"torch.load", "torch.jit.load", "torch.export.load", "torch.hub.load", "torch.package", "torch.serialization"}
    | {"np.fromfile", "pd.read_pickle", "os.system", "os.popen", "types.FunctionType", "types.CodeType"}
)
# Reviewed, each with its reason. A new line here needs one that good.
EXCEPTIONS: Final = {
    ("edge/sources/watch.py", "import pickle"): "an unpickler that knows classes of our own alone, behind a digest",
    ("coordinator/plan_export.py", "exec_module"): "the operator's own Python file, named on their command line",
    ("coordinator/start.py", "import ctypes"): "to set malloc's threshold in the C library that is loaded already",
    ("edge/sources/windows.py", "np.load"): "with allow_pickle=False",
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def dotted(node: ast.expr) -> str:
    """``a.b.c`` as it is written; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def uses(tree: ast.AST) -> Iterator[str]:
    """What of a module's lines could run code that it reads."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from (f"import {one.name}" for one in names if one.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"import {module}" for _ in names[:1] if module.split(".")[0] in MODULES)
                whole = [f"{module}.{one.name}" for one in names]
                yield from (name for name in whole if name in METHODS)
            case ast.Call(func=function, keywords=keywords):
                yield from calls(dotted(function), keywords)
            case _:
                pass


def calls(name: str, keywords: list[ast.keyword]) -> Iterator[str]:
    """What of a call could."""
    given = {keyword.arg: keyword.value for keyword in keywords}
    if name in CALLS or name in METHODS or name.endswith((".exec_module", ".load_module", ".load_extension")):
        yield name.rpartition(".")[2] if name.endswith("_module") else name
    if name in {"np.load", "numpy.load"}:
        yield "np.load"
    if name.endswith((".recv", ".send")) and "onnection" in name:
        yield name  # multiprocessing's own pickle
    for keyword in ("allow_pickle", "shell", "weights_only"):
        value = given.get(keyword)
        if value is not None and not (isinstance(value, ast.Constant) and value.value is (keyword == "weights_only")):
            yield f"{keyword}={ast.unparse(value)}"


def test_invariant_15_no_line_of_ours_loads_what_could_run() -> None:
    """Seen to fail with a ``torch.load``, an ``eval``, and an ``allow_pickle=True`` in ``edge``, one after another."""
    found = {
        (str(path.relative_to(ROOT)), use)
        for path in sources()
        for use in uses(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == EXCEPTIONS.keys()
    assert len(sources()) > 80


def test_invariant_15_the_exceptions_are_what_they_say() -> None:
    """The unpickler is only subclassed, and ``np.load`` never unpickles. Seen to fail with ``pickle.loads`` there."""
    tree = ast.parse((ROOT / "edge/sources/watch.py").read_text(encoding="utf-8"))
    names = [dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert {name for name in names if name.startswith("pickle.")} == {"pickle.Unpickler"}
    tree = ast.parse((ROOT / "edge/sources/windows.py").read_text(encoding="utf-8"))
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and dotted(node.func) == "np.load"]
    assert [ast.unparse(node.keywords[0]) for node in loads] == ["allow_pickle=False"]


IMPORTED = """
import sys, pkgutil, importlib
for name in sys.argv[1].split(","):
    importlib.import_module(name)
print(",".join(sorted({name.split(".")[0] for name in sys.modules} & set(sys.argv[2].split(",")))))
"""


def test_invariant_15_an_agent_has_no_unpickler_of_its_own_in_reach() -> None:
    """What faces the network imports neither arrays nor torch, which bring loaders of their own.

    Seen to fail with ``import torch`` in ``edge.fetcher``.
    """
    heavy = "torch,numpy,safetensors,dill,yaml,joblib,shelve,scipy,wfdb,pandas"
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, "edge.agent,edge.fleet,schemas.link.mqtt", heavy],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""


# -- crafted files -----------------------------------------------------------------------------------------------------


class Runs:
    """What unpickles as a command that leaves a file."""

    def __init__(self, canary: Path) -> None:
        self.command = f"open({str(canary)!r}, 'w').close()"

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.command,)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that exists after the test if anything crafted has run."""
    place = tmp_path / "canary"
    yield place
    assert not place.exists()


def crafted(canary: Path) -> dict[str, bytes]:
    """Files that run code where something unpickles or evaluates them."""
    runs = Runs(canary)
    arrays = io.BytesIO()
    np.savez(arrays, x=np.array([[runs], [1]], dtype=object), y=np.zeros(2, int))
    model = io.BytesIO()
    with zipfile.ZipFile(model, "w") as packed:  # as torch.save and torch.export.save write it
        packed.writestr("archive/data.pkl", pickle.dumps({"weight": runs}, protocol=2))
        packed.writestr("archive/version", "3")
        packed.writestr("models/model.json", json.dumps({"code": runs.command}))
    header = f"__import__('builtins').exec({runs.command!r})".encode()
    return {
        "pickle": pickle.dumps(runs),
        "pickle of protocol 0": pickle.dumps(runs, protocol=0),
        "npy": npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n", pickle.dumps(runs)),
        "npy of a header that is called": npy(header.ljust(200) + b"\n", b""),
        "npz": arrays.getvalue(),
        "pt2": model.getvalue(),
        "source": runs.command.encode(),
        "json": json.dumps({"__reduce__": ["builtins.exec", [runs.command]], "py/object": "os.system"}).encode(),
        "yaml": f"!!python/object/apply:builtins.exec [{runs.command!r}]".encode(),
        "safetensors": safetensors({"__metadata__": {"plan": runs.command, "order": runs.command}}),
        "sqlite": b"SQLite format 3\x00" + pickle.dumps(runs),
    }


def safetensors(header: dict[str, Any], body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def _file(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def write_and_read(folder: Path, content: bytes) -> object:
        (folder / name).write_bytes(content)
        return read(folder)

    return write_and_read


def _store(folder: Path) -> object:
    return ModelStore(folder).load(1)


def _journal(folder: Path) -> object:
    with Journal(folder / "journal.db") as journal:
        return journal.open_run()


def _digits(folder: Path) -> object:
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\0")
    return load(str(folder), "digits")


_TENSOR: Final = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
LOADERS: Final[dict[str, tuple[Callable[[Path, bytes], object], type[FedbeatError]]]] = {
    "a model": (_file("v000000001.safetensors", _store), StateError),
    "the journal": (_file("journal.db", _journal), StateError),
    "a device's record": (_file("record", lambda folder: files.read(folder / "record")), files.Damaged),
    "a plan file": (lambda _, content: plan_file.read(content, "this"), PlanError),
    "a plan": (lambda _, content: Plan.from_bytes(content), PlanError),
    "a payload": (lambda _, content: compression.decode(content, MANIFEST), WireError),
    "a part": (lambda _, content: codec.decode_part(content), WireError),
    "an update": (lambda _, content: codec.decode_update(content), WireError),
    "run settings": (lambda _, content: codec.decode(Kind.RUN, content), WireError),
    "a job": (lambda _, content: read_request(lambda _limit: content), WireError),
    "a job's answer": (lambda _, content: read_answer(lambda _limit: content), WireError),
    "windows": (_file("a.npz", lambda folder: load(str(folder), "windows")), DataError),
    "rows": (_file("a.csv", lambda folder: load(str(folder), "windows")), DataError),
    "images": (_file("train-images-idx3-ubyte", _digits), DataError),
    "a record": (_file("100.hea", lambda folder: load(str(folder), "ecg-beats")), DataError),
    "the watch's array": (lambda _, content: watch.read_arrays(io.BytesIO(content)), DataError),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_invariant_15_a_crafted_file_leaves_no_trace_and_ends_in_the_loaders_own_error(
    tmp_path: Path, canary: Path, loader: str
) -> None:
    """Seen to fail with ``allow_pickle=True`` in ``windows``, and ``super().find_class`` in ``watch``."""
    read, error = LOADERS[loader]
    for name, content in crafted(canary).items():
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises(error):
            read(folder, content)
        assert not canary.exists(), name


@pytest.mark.parametrize(
    "name", ["__import__", "os.system", "__builtins__.eval", "aten.load", "relu.__class__", "_resolve", "torch.load"]
)
def test_invariant_15_a_plan_can_name_no_operation_but_those_allowed(name: str) -> None:
    """Seen to fail without the look into ``OPERATIONS`` in ``Plan._check_operations``."""
    steps = list(fields()["operations"])
    steps[1] = {**steps[1], "op": name}
    with pytest.raises(PlanError, match="not allowed"):
        Plan.build(**fields(operations=tuple(steps)))


@pytest.mark.parametrize("name", ["__class__", "__init_subclass__", "conv.weight.__globals__", "self", "values"])
def test_invariant_15_a_plans_names_are_words_in_a_table_and_nothing_more(name: str) -> None:
    """A dunder name is no attribute of anything. Seen to fail without ``known`` in ``_check_operations``."""
    steps = list(fields()["operations"])
    steps[1] = {**steps[1], "args": (f"%{name}",)}
    with pytest.raises(PlanError, match="isn't defined before it"):
        Plan.build(**fields(operations=tuple(steps)))


@pytest.mark.parametrize("claimed", [64 * 2**20, 2**33, None], ids=["honest", "lying", "no array"])
def test_invariant_15_and_11_a_zip_bomb_among_the_recordings_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: int | None
) -> None:
    """Seen to fail without the sum of sizes, and without ``_claimed``, in ``windows._unpack``."""
    monkeypatch.setattr(windows, "MAX_BYTES", 16 * 2**20)
    (tmp_path / "a.npz").write_bytes(zip_bomb(claimed))
    assert (tmp_path / "a.npz").stat().st_size < 2**18
    with pytest.raises(DataError, match="would take more than 16 MiB"):
        load(str(tmp_path), "windows")


@pytest.mark.parametrize(
    "header",
    [
        {
            "__metadata__": {"plan": tiny().to_bytes().decode()},
            "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        {"__metadata__": {"plan": 3}},
        {"__metadata__": [1]},
        {"x": {"dtype": "PY", "shape": [], "data_offsets": [0, 0]}},
        {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"x": _TENSOR, "__class__": "os.system"},
        {"../../x": _TENSOR},
        {"x": {"dtype": "F32", "shape": [1] * 5000, "data_offsets": [0, 4]}},
    ],
)
def test_invariant_15_odd_safetensors_headers_end_in_the_loaders_error(tmp_path: Path, header: dict[str, Any]) -> None:
    """Seen to fail without ``KeyError`` in ``models`` and in ``plan_file``, and without ``ValueError`` in ``_disk``."""
    content = safetensors(header, bytes(4))
    with pytest.raises(PlanError):
        plan_file.read(content, "this")
    (tmp_path / "v000000001.safetensors").write_bytes(content)
    with pytest.raises(StateError):
        ModelStore(tmp_path).load(1)
