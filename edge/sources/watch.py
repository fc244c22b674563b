"""The `watch` recordings: 10 people doing 7 shoulder exercises with a smartwatch (Burns et al. 2018), 50 Hz, 6 axes.

They come inside the PyPI package seglearn 1.2.5 as a pickled NumPy array. Nothing we load may run code, so the file's
SHA-256 is checked before a byte is interpreted. Even then the unpickler knows only classes of our own that stand for
NumPy's arrays: NumPy's own reconstruction can be made to read memory that isn't the array's.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib.util
import io
import pickle  # only subclassed below, with an allow-list
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from edge.dataset import Dataset, FloatArray
from edge.sources.source import Form, Reader, Reading, Source
from schemas.errors import DataError

WORD = "watch"
SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
MAX_BYTES = 32 * 2**20  # the file has 18.1 MB
WINDOW = 150  # samples: 3 s
STEP = 75  # windows overlap by half
CLASSES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
AXES = ("ax", "ay", "az", "wx", "wy", "wz")
# Fixed divisors bring each axis to about unit size. They come from the units (g, rad/s), not from anybody's data, so
# that normalising tells a device nothing about other people.
SCALE = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], dtype=np.float32)
_TYPES = {"f8": "<f8", "i8": "<i8", "O8": "O"}  # NumPy's names of the types in the file, and for reading them
_DEEPEST = 3  # lists within lists
FORM = Form("watch", ((len(AXES), WINDOW),), CLASSES)


class _Kind:
    """Stands for ``numpy.ndarray``, which is only named in this file, never called."""


class _Type:
    """Stands for a ``numpy.dtype`` while the file is read: one of ``_TYPES``."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in _TYPES:
            raise DataError(f"the watch recordings hold arrays of type {code!r}: refused")
        self.code = code

    def __setstate__(self, state: tuple[object, ...]) -> None:
        """Byte order, and what only other types have; little-endian is all there is."""


class _Array:
    """Stands for an array while the file is read, so that no code of NumPy's sees a number before it is checked."""

    def __init__(self, kind: type, *_: object) -> None:
        if kind is not _Kind:
            raise DataError("the watch recordings hold something other than plain arrays: refused")
        self.shape: tuple[int, ...] = ()
        self.code = ""
        self.order: Literal["C", "F"] = "C"
        self.content: object = None

    def __setstate__(self, state: tuple[object, ...]) -> None:
        """What NumPy writes: version, shape, type, whether columns come first, values."""
        _, shape, kind, by_column, content = state
        if not isinstance(kind, _Type) or not isinstance(shape, tuple):
            raise DataError("the watch recordings hold something other than plain arrays: refused")
        self.shape, self.code, self.content = shape, kind.code, content
        self.order = "F" if by_column else "C"


class _ArraysOnly(pickle.Unpickler):
    """Admits what stands for NumPy's arrays, Latin-1 text, and no other callable."""

    def find_class(self, module: str, name: str) -> Any:
        """The one place where a pickle can name code; ``DataError`` for any name but these."""
        if name == "_reconstruct" and module in {"numpy.core.multiarray", "numpy._core.multiarray"}:  # 1.x, 2.x
            return _Array
        if (module, name) == ("numpy", "ndarray"):
            return _Kind
        if (module, name) == ("numpy", "dtype"):
            return _Type
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise DataError(f"the watch recordings name {module}.{name}, which is not array data: refused")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise DataError(f"the watch recordings use the encoding {encoding!r}: refused")
    return codecs.encode(text, "latin1")


def _plain(value: object, depth: int = 0) -> Any:
    """``value`` with arrays in place of what stood for them; lists hold nothing but arrays and plain values."""
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value] if depth < _DEEPEST else value
    if not isinstance(value, _Array):
        return value
    if value.code == "O8":  # objects: no more than what a list holds
        return _plain(value.content, depth)
    content = value.content.encode("latin1") if isinstance(value.content, str) else value.content
    if not isinstance(content, bytes):
        raise DataError("the watch recordings hold an array without its values: refused")
    return np.frombuffer(content, _TYPES[value.code]).reshape(value.shape, order=value.order)


def read_arrays(file: BinaryIO) -> dict[str, Any]:
    """The dictionary in a `.npy` file of one pickled object, admitting arrays only. Raises ``DataError``."""
    try:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        content = _plain(_ArraysOnly(file, encoding="latin1").load())
        if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
            return {str(name): _plain(value) for name, value in content[0].items()}
    except DataError:
        raise
    except Exception as error:  # of NumPy's header, of pickle, and of values that fit no shape
        raise DataError(f"the watch recordings can't be read: {str(error)[:200]}") from error
    raise DataError("the watch recordings are not one dictionary of arrays")


def find_recordings() -> Path:
    """Where the installed seglearn keeps its file, found without importing it."""
    spec = importlib.util.find_spec("seglearn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "data" / "watch_dataset.npy"
        if file.is_file():
            return file
    raise DataError("the watch recordings are not installed: run `pip install --no-deps seglearn==1.2.5`")


def _open(_path: str, _form: Form) -> Source:
    file = find_recordings()
    if file.stat().st_size > MAX_BYTES:
        raise DataError(f"{file} is not the file of seglearn 1.2.5: reinstall it")
    payload = file.read_bytes()
    if hashlib.sha256(payload).hexdigest() != SHA256:
        raise DataError(f"{file} is not the file of seglearn 1.2.5 (its SHA-256 differs): reinstall it")
    content = read_arrays(io.BytesIO(payload))
    people = [f"person-{int(person):02d}" for person in content["subject"]]
    recordings = list(zip(people, content["X"], content["y"], strict=True))

    def read(owners: Sequence[str]) -> Reading:
        windows, labels, whose = [], [], []
        for owner in owners:
            for recording, label in ((signal, label) for person, signal, label in recordings if person == owner):
                cut = cut_windows(recording)
                windows.append(cut)
                labels.append(np.full(len(cut), label, dtype=np.int64))
                whose.append(np.full(len(cut), owner))
        return Reading(Dataset((np.concatenate(windows),), np.concatenate(labels), np.concatenate(whose), CLASSES))

    return Source(f"watch recordings of {len(set(people))} people", tuple(sorted(set(people))), read)


def cut_windows(recording: np.ndarray[Any, np.dtype[np.float64]]) -> FloatArray:
    """Windows (n, 6, 150) of a recording (samples, 6) in g and rad/s, overlapping by half; the end may be left over."""
    scaled = recording.astype(np.float32) / SCALE
    views = np.lib.stride_tricks.sliding_window_view(scaled, WINDOW, axis=0)[::STEP]
    return np.ascontiguousarray(views)


READER = Reader("the word `watch` for the bundled smartwatch recordings", lambda path: path == WORD, _open)
