"""Windows cut elsewhere, as `.csv` or `.npz` files: one file, or a folder of them.

NPZ: array ``x`` (n, *shape) of numbers, or ``x0``, ``x1``, ... for a plan with several inputs; ``y`` (n,) labels,
whole numbers or names; optionally ``owner`` (n,) and ``classes`` (the names that whole-number labels stand for).

CSV: a header row, then a window a row. Column ``label``, optionally ``owner``; every other column is one value of the
window. Columns named ``CHANNEL.POSITION`` (``ax.0, ax.1, ..., ay.0, ...``) give shape (channels, positions) in the
order of the header; other columns are one channel, (1, columns). A recipe of fixed shape takes its own.

Without an owner each file is one owner's, by its name. Windows with NaN or infinity are rejected and counted.
"""

from __future__ import annotations

import csv
import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.dataset import Dataset, FloatArray
from edge.sources.source import Form, Reader, Reading, Shape, Source
from schemas.counted import counted
from schemas.errors import DataError

FORM = Form("windows", None, None)
ENDINGS = (".csv", ".npz")
MAX_CLASSES = 1000
LONGEST_NUMBER = 18  # digits of a label that is a number; of more, Python itself refuses to make one
MAX_BYTES = 2**30  # of a file's arrays, unpacked: 8 MB of NPZ can become 8 GB
BROKEN = "windows with NaN or infinity"


@dataclass(frozen=True, eq=False, slots=True)
class _Table:
    """The windows of one file as they stand there: labels still names, or whole numbers as text."""

    inputs: tuple[FloatArray, ...]
    labels: Sequence[str]
    owners: Sequence[str]
    classes: tuple[str, ...] = ()  # where the file lists them
    short: int = 0  # rows with fewer cells than the header, which are left out


def _files(path: str) -> tuple[Path, ...]:
    place = Path(path)
    if place.is_dir():
        return tuple(file for file in sorted(place.iterdir()) if file.suffix.lower() in ENDINGS and file.is_file())
    return (place,) if place.is_file() and place.suffix.lower() in ENDINGS else ()


def _open(path: str, form: Form) -> Source:
    tables = [_read_npz(file) if file.suffix.lower() == ".npz" else _read_csv(file, form) for file in _files(path)]
    kinds = {tuple(array.shape[1:] for array in table.inputs) for table in tables}
    if len(kinds) > 1:
        raise DataError(
            f"the files at {path} hold windows of different shapes ({sorted(kinds)}): keep one shape a folder"
        )
    dataset, rejected = _join(tables, form, path)

    def read(owners: Sequence[str]) -> Reading:
        return Reading(dataset.take(np.flatnonzero(np.isin(dataset.owners, list(owners)))))

    owners = tuple(str(owner) for owner in np.unique(dataset.owners))
    return Source(f"windows in {counted(len(tables), 'file')} at {path}", owners, read, skipped=rejected)


def _join(tables: Sequence[_Table], form: Form, path: str) -> tuple[Dataset, Counter[str]]:
    """One dataset of all files' finite windows, and what was rejected."""
    labels, classes = _number(
        [label for table in tables for label in table.labels],
        [name for table in tables for name in table.classes],
        form,
    )
    owners = np.array([owner for table in tables for owner in table.owners], dtype=np.str_)
    inputs = tuple(np.concatenate(arrays) for arrays in zip(*(table.inputs for table in tables), strict=True))
    finite = np.all([np.isfinite(array).reshape(len(labels), -1).all(axis=1) for array in inputs], axis=0)
    if not finite.any():
        raise DataError(f"{path} holds no usable window: {counted(len(labels), 'row')}, all with NaN or infinity")
    broken = int((~finite).sum()) + sum(table.short for table in tables)
    rejected = Counter({BROKEN: broken} if broken else {})
    return Dataset(tuple(array[finite] for array in inputs), labels[finite], owners[finite], classes), rejected


def _number(labels: Sequence[str], listed: Iterable[str], form: Form) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as indices into class names: the recipe's, else those the files list, else those that occur."""
    present = set(labels)
    numeric = all(label.isascii() and label.isdigit() and len(label) <= LONGEST_NUMBER for label in present)
    classes = form.classes or tuple(dict.fromkeys(listed))
    if not classes and numeric:
        highest = max(map(int, present), default=0)
        classes = tuple(map(str, range(min(highest, MAX_CLASSES) + 1)))
    classes = classes or tuple(sorted(present))
    if len(classes) > MAX_CLASSES:
        raise DataError(f"there are more than {MAX_CLASSES} classes: is the label column really a label?")
    numbers = {name: number for number, name in enumerate(classes)}
    if numeric and not present <= numbers.keys():
        numbers = {str(number): number for number in range(len(classes))}
    if unknown := sorted(present - numbers.keys()):
        raise DataError(
            f"labels {', '.join(unknown[:5])} are none of the classes {', '.join(classes)}: relabel the windows"
        )
    return np.array([numbers[label] for label in labels], dtype=np.int64), classes


def _read_npz(file: Path) -> _Table:
    arrays = _unpack(file)
    names = ["x"] if "x" in arrays else [f"x{i}" for i in range(len(arrays)) if f"x{i}" in arrays]
    if not names:
        raise DataError(
            f"{file} has no array `x` (or `x0`, `x1`, ...) of windows; it has {', '.join(arrays) or 'nothing'}"
        )
    if "y" not in arrays:
        raise DataError(f"{file} has no array `y` of labels: only labelled windows can be trained on")
    labels = arrays["y"]
    count = len(labels) if labels.ndim == 1 else -1
    if labels.dtype.kind not in "iuU" or count < 1:
        raise DataError(f"{file}: `y` must be one whole number or name a window, not {labels.dtype} {labels.shape}")
    for name in names:
        if arrays[name].dtype.kind not in "fiu" or arrays[name].ndim < 2 or len(arrays[name]) != count:  # noqa: PLR2004
            raise DataError(
                f"{file}: `{name}` must be numbers ({count}, ...), not {arrays[name].dtype} {arrays[name].shape}"
            )
    owners = arrays.get("owner", np.full(count, file.stem))
    if owners.shape != (count,):
        raise DataError(f"{file}: `owner` must name one owner a window, not have shape {owners.shape}")
    listed = tuple(map(str, arrays["classes"].ravel())) if "classes" in arrays else ()
    texts = [str(label) for label in labels.tolist()]
    if listed and labels.dtype.kind != "U":
        texts = [listed[number] if 0 <= number < len(listed) else str(number) for number in labels.tolist()]
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity, and is then rejected and counted
        inputs = tuple(np.ascontiguousarray(arrays[name], dtype=np.float32) for name in names)
    return _Table(inputs, texts, list(map(str, owners)), listed)


def _unpack(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an NPZ file by name. Raises ``DataError`` before more than ``MAX_BYTES`` are unpacked."""
    try:
        with zipfile.ZipFile(file) as members:
            claims = [_claimed(members, name) for name in members.namelist()]
            size = max(sum(member.file_size for member in members.infolist()), *claims, 0)
        if size <= MAX_BYTES:
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except Exception as error:  # of zip, of its compressors, and of NumPy's headers, whatever each lets through
        raise DataError(f"{file} can't be read as NPZ of plain arrays: {str(error)[:200]}") from error
    raise DataError(f"{file} would take more than {MAX_BYTES >> 20} MiB: cut it into several files")


def _claimed(members: zipfile.ZipFile, name: str) -> int:
    """The bytes that the header of an array asks for, which NumPy allocates before it reads any."""
    with members.open(name) as stream:
        if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            return 0  # no array
        first = tuple(stream.read(2)) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    return math.prod(shape) * dtype.itemsize


def _read_csv(file: Path, form: Form) -> _Table:
    rows: list[FloatArray] = []
    labels: list[str] = []
    owners: list[str] = []
    short = 0
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            columns = next(reader, [])
            if "label" not in columns:
                raise DataError(
                    f"{file} has no column `label` (its header: {', '.join(columns[:8])}): label the windows"
                )
            if len(set(columns)) < len(columns):
                raise DataError(f"{file} has two columns of the same name: rename one")
            values = [column for column in columns if column not in {"label", "owner"}]
            shape = _shape(file, values, form)
            for row in filter(None, reader):
                label = _label(file, reader.line_num, row, columns)
                if len(row) < len(columns):
                    short += 1
                    continue
                cells = dict(zip(columns, row, strict=True))
                if (len(rows) + 1) * len(values) * 4 > MAX_BYTES:
                    raise DataError(f"{file} has more than {MAX_BYTES >> 20} MiB of values: cut it into several files")
                rows.append(_values(file, reader.line_num, [cells[column] for column in values]))
                labels.append(label)
                owners.append((cells.get("owner") or file.stem).strip())
    except (OSError, UnicodeDecodeError, csv.Error, MemoryError) as error:
        raise DataError(f"{file} can't be read as CSV: {error}") from error
    if not rows and short:
        raise DataError(f"{file} holds no usable window: {short} rows, all with fewer cells than the header")
    if not rows:
        raise DataError(f"{file} has a header but no window: add rows")
    return _Table((np.stack(rows).reshape(len(rows), *shape),), labels, owners, short=short)


def _label(file: Path, line: int, row: Sequence[str], columns: Sequence[str]) -> str:
    """A row's label; ``DataError`` where it has none, or cells that no column names."""
    if len(row) > len(columns):
        raise DataError(f"{file} line {line} has more cells than the header: name every column")
    place = columns.index("label")
    if not (label := row[place].strip() if place < len(row) else ""):
        raise DataError(f"{file} line {line} has no label: label it, or delete the line")
    return label


def _values(file: Path, line: int, cells: Sequence[str]) -> FloatArray:
    """One window's values; an empty cell is NaN, and rejects the window later."""
    try:
        with np.errstate(over="ignore"):
            return np.array([float(cell or "nan") for cell in cells]).astype(np.float32)
    except ValueError as error:
        raise DataError(f"{file} line {line}: {str(error)[:200]}: a window's values must be numbers") from error


def _shape(file: Path, columns: Sequence[str], form: Form) -> Shape:
    """The shape of a window from its columns; ``DataError`` where it isn't the recipe's."""
    if not columns:
        raise DataError(f"{file} has no column of values beside `label`")
    if form.shapes is not None:
        if len(form.shapes) > 1:
            raise DataError(f"recipe {form.recipe!r} has {len(form.shapes)} inputs, which a CSV can't hold: use NPZ")
        if math.prod(form.shapes[0]) != len(columns):
            wanted = "x".join(map(str, form.shapes[0]))
            raise DataError(f"{file} has {len(columns)} values a window, but recipe {form.recipe!r} needs {wanted}")
        return form.shapes[0]
    channels = Counter(column.rpartition(".")[0] for column in columns)
    if "" in channels or len(set(channels.values())) > 1:
        if "" in channels and len(channels) == 1:
            return (1, len(columns))
        raise DataError(f"{file}: name all value columns CHANNEL.POSITION with equal lengths, or none of them")
    ordered = [column.rpartition(".")[0] for column in columns]
    if ordered != [channel for channel in channels for _ in range(channels[channel])]:
        raise DataError(f"{file}: keep the columns of one channel together")
    return (len(channels), len(columns) // len(channels))


READER = Reader("windows as .csv or .npz (a file or a folder of them)", lambda path: bool(_files(path)), _open)
