"""Global models on disk: one safetensors file a version, whole or not there at all.

A file holds the model's tensors under their own names, so any safetensors reader opens it, and the server
optimiser's state under ``OPTIMISER``; beside it, where devices get versions by steps, the version's step and what it
owes to the rule (``downlink``). Its metadata say which run and version it is and what its digest must be. A file
reaches its name by a rename after its bytes are on disk, so a power cut leaves the old one or the new one. The
journal says which versions are committed: a file written just before a crash may be one ahead of it, and is
written again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import safetensors
from numpy.typing import NDArray

from schemas.errors import DiskFull, StateError, WireError
from schemas.parameters import Flat, Parameters

OPTIMISER: Final = "optimiser-state/"  # before the name of an array of the server optimiser
RESIDUAL: Final = "downlink/residual"
STEP: Final = "downlink/step"  # its bytes, as an array of them
_NAME: Final = re.compile(r"^v(\d{9})\.safetensors$")
_TEMPORARY: Final = ".part"
_AHEAD: Final = ".ahead"  # instead of its suffix, of a version the journal doesn't know
_NO_STEP: Final = hashlib.sha256().hexdigest()
REFUSED: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})  # a write that may succeed later

Tensor = NDArray[np.float32] | NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """One version of a run's global model, with all that the next round needs.

    ``moments`` are the server optimiser's named float32 arrays, each of shape (manifest.size,). ``previous`` is the
    digest of the version before, None for version 0. ``step`` makes this version of that one, and ``residual``, float32
    of shape (manifest.size,), is what it owes (``downlink``): empty and None where versions go out whole.
    """

    run: str
    version: int
    previous: str | None
    parameters: Parameters
    moments: Mapping[str, Flat]
    residual: Flat | None = None
    step: bytes = b""


class ModelStore:
    """The versions of one run in one directory. Every method raises ``StateError`` where the disk won't.

    One that writes raises ``DiskFull`` where the disk takes no more, and can be called again.
    """

    def __init__(self, directory: Path) -> None:
        """Makes ``directory`` where there is none."""
        self.directory = directory
        with _disk(directory, writing=True):
            directory.mkdir(parents=True, exist_ok=True)

    def path(self, version: int) -> Path:
        """Where ``version`` is, or would be."""
        return self.directory / f"v{version:09d}.safetensors"

    def save(self, checkpoint: Checkpoint) -> str:
        """Write a version, in place of one of the same number; return its digest once it is on disk."""
        digest = checkpoint.parameters.digest()
        state = {OPTIMISER + name: checkpoint.moments[name] for name in sorted(checkpoint.moments)}
        if checkpoint.residual is not None:
            state[RESIDUAL] = checkpoint.residual
        metadata = _metadata(checkpoint, digest)
        metadata["optimiser"] = _state_digest(state)
        tensors: dict[str, Tensor] = {**checkpoint.parameters.arrays(), **state}
        if checkpoint.step:
            tensors[STEP] = np.frombuffer(checkpoint.step, np.uint8)
            metadata["step"] = hashlib.sha256(checkpoint.step).hexdigest()
        _write(self.path(checkpoint.version), tensors, metadata)
        return digest

    def load(self, version: int, digest: str | None = None) -> Checkpoint:
        """Read a version; its digest must be the one in the file and, where given, ``digest``."""
        path = self.path(version)
        if digest is not None and not path.exists():
            raise _damaged(path, "it is gone")
        with _disk(path), safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  - not a mapping
        return _checkpoint(path, version, metadata, arrays, digest)

    def versions(self) -> tuple[int, ...]:
        """The versions on disk, oldest first; their files are not read."""
        with _disk(self.directory):
            matches = (_NAME.match(file.name) for file in self.directory.iterdir())
            return tuple(sorted(int(match[1]) for match in matches if match))

    def newest(self) -> int | None:
        """The highest version on disk."""
        return max(self.versions(), default=None)

    def set_aside(self, above: int) -> None:
        """Rename versions above ``above``: no run of this journal made them, and one that gets there makes its own."""
        with _disk(self.directory, writing=True):
            for version in self.versions():
                if version > above:
                    self.path(version).rename(self.path(version).with_suffix(_AHEAD))

    def prune(self, keep: int, newest: int) -> None:
        """Delete all but ``keep`` (1 or more) versions up to ``newest``, and what interrupted writes left."""
        if keep < 1:
            raise StateError(f"asked to keep {keep} models: the newest has to stay, so keep 1 or more")
        with _disk(self.directory, writing=True):
            for version in self.versions():
                if version <= newest - keep:
                    self.path(version).unlink()
            for stray in self.directory.glob(f"*{_TEMPORARY}"):
                stray.unlink()

    def export(self, version: int, destination: Path) -> None:
        """Write the model of ``version`` alone, without the optimiser's state, as a safetensors file of its own."""
        checkpoint = self.load(version)
        metadata = _metadata(checkpoint, checkpoint.parameters.digest())
        _write(destination, checkpoint.parameters.arrays(), metadata)


def _metadata(checkpoint: Checkpoint, digest: str) -> dict[str, str]:
    """Safetensors sorts tensors as it likes; ``order`` keeps the manifest's."""
    return {
        "format": "fedbeat-model-1",
        "run": checkpoint.run,
        "version": str(checkpoint.version),
        "previous": checkpoint.previous or "",
        "digest": digest,
        "order": json.dumps([tensor.name for tensor in checkpoint.parameters.manifest.tensors]),
    }


def _state_digest(state: Mapping[str, Flat]) -> str:
    """``Parameters.digest`` of the arrays, without one copy of them all."""
    hasher = hashlib.sha256()
    for name in sorted(state):
        hasher.update(f"{name}\0{','.join(map(str, state[name].shape))}\n".encode())
    for name in sorted(state):
        hasher.update(np.ascontiguousarray(state[name], "<f4").data)
    return hasher.hexdigest()


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    with _whole(path) as file:
        _serialise(file, tensors, metadata)


def place_whole(path: Path, content: bytes) -> None:
    """Write a file that isn't of the store. Raises ``StateError``; then the file of before stays."""
    with _whole(path) as file:
        file.write(content)


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Bytes, fsync, rename, fsync of the directory; nothing is left behind where one of them fails."""
    temporary = path.parent / f"{path.name}{_TEMPORARY}"  # also of ".", which the disk then refuses
    with _disk(path, writing=True):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:  # a Ctrl-C too
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _serialise(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """In safetensors' format, straight from the arrays: a header's length, the header, and every array's bytes.

    The library's ``save`` has three copies of all arrays in memory on the way, and its ``save_file`` writes to a file
    of another name, whose errors have no number. What is written here is read by the library.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    at = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": "F32" if array.dtype == np.float32 else "U8",
            "shape": array.shape,
            "data_offsets": (at, at := at + array.nbytes),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    file.write(len(text).to_bytes(8, "little") + text)
    for array in tensors.values():
        file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)


def _checkpoint(
    path: Path, version: int, metadata: Mapping[str, str], arrays: dict[str, Tensor], digest: str | None
) -> Checkpoint:
    """The checkpoint in a file's contents, once they prove to be what was saved."""
    try:
        order = json.loads(metadata["order"])
        parameters = Parameters.from_arrays({name: np.asarray(arrays.pop(name), np.float32) for name in order})
        step = arrays.pop(STEP).tobytes() if STEP in arrays else b""
        state: dict[str, Flat] = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        intact = _state_digest(state) == metadata.get("optimiser")
    except (KeyError, ValueError, TypeError, RecursionError, WireError) as error:
        raise _damaged(path, f"it is not a model of this program ({error!r})") from error
    if metadata.get("version") != str(version):
        raise _damaged(path, f"it holds version {metadata.get('version')}")
    found = parameters.digest()
    intact = intact and hashlib.sha256(step).hexdigest() == metadata.get("step", _NO_STEP)
    if found != metadata.get("digest") or not intact:
        raise _damaged(path, "its contents don't match its own digest")
    if digest not in {None, found}:
        raise _damaged(path, f"its digest is {found[:12]}, and the journal has {str(digest)[:12]}")
    return Checkpoint(
        run=metadata.get("run", ""),
        version=version,
        previous=metadata.get("previous") or None,
        parameters=parameters,
        residual=state.pop(RESIDUAL, None),
        step=step,
        moments={name.removeprefix(OPTIMISER): values for name, values in state.items()},
    )


def _damaged(path: Path, what: str) -> StateError:
    return StateError(
        f"the model {path} can't be used: {what}. Put back a copy of it from a backup or from a device, "
        "or start a new run with another --state directory"
    )


@contextmanager
def _disk(path: Path, *, writing: bool = False) -> Iterator[None]:
    """Turns what the file system and safetensors raise into ``StateError``."""
    try:
        yield
    except (safetensors.SafetensorError, ValueError, TypeError) as error:  # the last two: no array of NumPy's
        raise _damaged(path, str(error)) from error
    except FileNotFoundError as error:
        raise StateError(f"there is no {path}: check the directory and the version") from error
    except OSError as error:
        if writing and error.errno in REFUSED:
            raise DiskFull(
                f"{path}: {error.strerror}. Free some disk space; what was committed is safe, and the run goes on"
            ) from error
        raise StateError(f"{path}: {error.strerror}. Check the directory, its owner and its permissions") from error
