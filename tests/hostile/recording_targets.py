"""Every reader of recordings: what is wrong with a file is a ``DataError``, or windows counted as rejected.

An input is a folder's files in a row, each behind a line with its name and its length.
"""

from __future__ import annotations

import gzip
import io
import pickle  # what the reader of pickles is given
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge.record.wfdb_annotations import Annotation, decode, encode
from edge.sources import load, watch
from schemas.errors import DataError
from tests.hostile.raw import damage
from tests.hostile.target import Target
from tests.test_sources_idx import idx
from tests.test_sources_wfdb_records import write_record

Files = dict[str, bytes]
_MIB: Final = 2**20


@cache
def _folder() -> Path:
    """Where inputs stand while they are read: in memory, so that the disk isn't what is tested."""
    place = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)  # noqa: S108 - a folder of our own
    return Path(place)


def _joined(files: Files) -> bytes:
    return b"".join(f"{name} {len(data)}\n".encode() + data for name, data in files.items())


def _parted(data: bytes) -> Files:
    files: Files = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, length = line.decode().rsplit(" ", 1)
        files[name], data = data[: int(length)], data[int(length) :]
    return files


def _reader(recipe: str) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        folder = _folder() / recipe
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in _parted(data).items():
            (folder / name).write_bytes(content)
        return load(str(folder), recipe)

    return read


# -- NPZ ---------------------------------------------------------------------------------------------------------------


def npy(header: bytes, body: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy file with this header, whatever stands in it."""
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + body


def _npy(rng: random.Random) -> bytes:
    descr = rng.choice(
        ("'<f4'", "'<f8'", "'|O'", "'<U4'", "'>i2'", "'|V8'", "[('a','<f4')]", "'<M8[s]'", "'<c8'", "3", "'%'")
    )
    shape = rng.choice(
        ("(4, 3)", "(4,)", "()", "(2305843009213693952, 2)", "(0, 3)", "(-1, 3)", "(4, 3.0)", "(1073741824,)", "4")
    )
    text = f"{{'descr': {descr}, 'fortran_order': {rng.choice(('False', 'True', '0'))}, 'shape': {shape}, }}"
    hostile = (
        "__import__('os').system('true')",
        "(" * 5000,
        "{'a': " * 90,
        "\ud800",
        "{}",
        "{'descr': '<f4'}",
        "9" * 5000,
        "L" * 20,
    )
    text = rng.choice(hostile) if rng.random() < 0.15 else text
    header = text.encode("utf-8", "surrogatepass").ljust(117) + b"\n"
    body = rng.choice((bytes(48), bytes(96), pickle.dumps([1, 2]), b"", bytes(100_000)))
    return npy(header, body, rng.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9))))


def _npz(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"x": np.ones((4, 3)), "y": np.arange(4) % 2, "owner": np.array(list("abba"))}
    changed = {
        "x": (
            np.full((4, 3), np.nan),
            np.ones((4, 3)) * 1e300,
            np.ones((4, 0)),
            np.ones((4, 1, 1, 1, 1, 1)),
            np.ones(4),
        ),
        "y": (
            np.array(["9" * 5000] * 4),
            np.array([-1, 0, 1, 2]),
            np.array([2**63 - 1] * 4),
            np.array(["", "\0", "b", "c"]),
        ),
        "owner": (np.zeros(4), np.zeros((4, 2)), np.array([b"a"] * 4), np.array([["a"] * 4])),
        "classes": (np.array([]), np.array(["a", "a"]), np.zeros((2, 2)), np.arange(3000)),
    }
    for name in rng.sample(tuple(changed), rng.randint(0, 2)):
        arrays[name] = rng.choice(changed[name])
    np.savez(buffer, **arrays)
    with zipfile.ZipFile(
        buffer, "a", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    ) as packed:
        for name in rng.sample(("x2", "classes", "owner", "../up", "x0", "x1"), rng.randint(0, 2)):
            free = f"{name}.npy" if f"{name}.npy" not in packed.namelist() else f"{name}-2.npy"
            packed.writestr(zipfile.ZipInfo(free), _npy(rng), packed.compression)  # a bare name would get today's time
    data = buffer.getvalue()
    match rng.randrange(8):
        case 0:
            return _npy(rng)
        case 1:
            return zip_bomb()
        case 2 | 3 | 4:
            return damage(rng, data, zip_bomb()[:2000])
        case _:
            return data


@cache
def zip_bomb(size: int | None = 2**33) -> bytes:
    """64 kB of NPZ that become 64 MiB of zeros, under a header that claims ``size`` bytes of them, or none."""
    buffer = io.BytesIO()
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({(size or 0) // 4}, 1), }}".encode()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("x.npy", "w", force_zip64=True) as file,
    ):
        file.write(b"" if size is None else npy(header.ljust(117) + b"\n", b""))
        for _ in range(4):
            file.write(bytes(16 * _MIB))
    return buffer.getvalue()


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _csv(rng: random.Random) -> bytes:
    lines = [b"label,owner,a.0,a.1", b"0,x,1,2", b"1,y,3,4", b"1,,5,"]
    hostile = (
        *(
            b"9" * 5000 + b",x,1,2",
            b"0,x," + b"9" * 5000 + b",1",
            b"0,x,1e999,-inf",
            b"0,x,0x10,1",
            b"0,x,1_0,1",
            b'0,x,"',
        ),
        *(b"0,x,1,2,3", b"0", b",,,", b"\0\0", b"\xff\xfe", b'"' + b"a" * 200_000 + b'",x,1,2', "٣,x,٤,1".encode()),
    )
    lines[rng.randint(1, 3)] = rng.choice(hostile)
    if rng.random() < 0.2:
        lines[0] = rng.choice(
            (b"label," + b",".join(b"%d" % at for at in range(40_000)), b"label,label,a", b"", b"label,.0,.1")
        )
        lines += [b"0"] * rng.choice((1, 50_000))
    text = rng.choice((b"\n", b"\r\n", b"\r")).join(lines)
    return damage(rng, text) if rng.random() < 0.3 else text


def _windows(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return _joined({"a.csv": _csv(rng)})
    return _joined({"a.npz": _npz(rng)})


# -- IDX ---------------------------------------------------------------------------------------------------------------


def _idx(rng: random.Random) -> bytes:
    images, labels = idx(np.zeros((4, 28, 28))), idx(np.arange(4))
    if rng.random() < 0.4:
        labels = labels[:8] + bytes(rng.choice((0, 9, 10, 255)) for _ in range(4))
    if rng.random() < 0.4:
        at = rng.randrange(16)
        images = images[:at] + rng.choice((b"\xff", b"\0", b"\x7f\xff\xff\xff")) + images[at + 1 :]
    images = damage(rng, images) if rng.random() < 0.3 else images
    if rng.random() < 0.5:
        return _joined({"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels})
    packed = gzip.compress(images)
    if rng.random() < 0.7:
        packed = damage(rng, packed)
    elif rng.random() < 0.3:
        packed = gzip.compress(images[:4] + struct.pack(">III", 1_000_000, 28, 28) + bytes(_MIB))
    return _joined({"train-images-idx3-ubyte.gz": packed, "train-labels-idx1-ubyte": labels})


# -- WFDB --------------------------------------------------------------------------------------------------------------


@cache
def _record() -> tuple[bytes, ...]:
    folder = _folder() / "valid-record"
    folder.mkdir(exist_ok=True)
    write_record(folder, "100")
    return tuple((folder / f"100.{ending}").read_bytes() for ending in ("hea", "dat", "atr"))


def _wfdb(rng: random.Random) -> bytes:
    header, signal, marks = _record()
    words = header.split(b" ")
    hostile = (
        b"0",
        b"-1",
        b"99999999999999999999",
        b"1e400",
        b"nan",
        b"../../x",
        b"212",
        b"310",
        b"x",
        b"",
        b"50000000",
        b"1(0)/mV",
    )
    for _ in range(rng.randint(0, 2)):
        words[rng.randrange(len(words))] = rng.choice(hostile)
    files = {"100.hea": b" ".join(words), "100.dat": signal, "100.atr": marks}
    if rng.random() < 0.5:
        name = rng.choice(tuple(files))
        files[name] = damage(rng, files[name], rng.choice((signal, marks)))[: 2 * len(signal)]
    return _joined(files)


# -- annotation files --------------------------------------------------------------------------------------------------


def _annotations(rng: random.Random) -> bytes:
    found, sample = [], 0
    for _ in range(rng.randint(0, 12)):
        sample += rng.choice((0, 1, 300, 1023, 1024, 70_000))
        note = rng.randbytes(rng.choice((0, 0, 1, 2, 255)))
        found.append(
            Annotation(sample, rng.randint(1, 58), rng.randint(0, 3), rng.randint(0, 3), rng.randint(0, 3), note)
        )
    return damage(rng, encode(found)) if rng.random() < 0.8 else rng.randbytes(rng.randint(0, 40))


# -- the watch's pickle ------------------------------------------------------------------------------------------------


class _Calls:
    """What unpickles as a call of anything."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1",)


def _pickle(rng: random.Random) -> bytes:
    content: dict[str, Any] = {"X": np.array([np.ones((3, 6))] * 2, dtype=object), "y": np.arange(2), "subject": [1.0]}
    if rng.random() < 0.2:
        content["X"] = rng.choice((_Calls(), np.float64(1), b"x" * 100, {1}, pickle.Pickler, 2**5000))
    data = pickle.dumps(np.array(content, dtype=object), protocol=rng.choice((2, 2, 2, 3, 4, 5)))
    opcodes = (
        b"r\xff\xff\xff\x7f",
        b"j\xff\xff\xff\xff",
        b"(" * 1000,
        b"\x8d" + b"\xff" * 7 + b"\x7f",
        b"\x8e" + b"\x7f" * 8,
        b"R",
        b"b",
    )
    if rng.random() < 0.3:
        at = rng.randrange(len(data))
        data = data[:at] + rng.choice(opcodes) + data[at:]
    data = damage(rng, data) if rng.random() < 0.6 else data
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    return npy(header, data) if rng.random() < 0.9 else damage(rng, npy(header, data))


RECORDINGS: Final = (
    Target("sources.windows", _windows, _reader("windows"), (DataError,), 20),
    Target("sources.idx", _idx, _reader("digits"), (DataError,), 10),
    Target("sources.wfdb", _wfdb, _reader("ecg-beats"), (DataError,), 3),
    Target("wfdb_annotations", _annotations, decode, (DataError,), 10),
    Target("sources.watch", _pickle, lambda data: watch.read_arrays(io.BytesIO(data)), (DataError,), 20),
)
