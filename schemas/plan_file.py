"""A plan in a file, ``NAME.plan``: safetensors, so that reading one can run nothing. The bundled plans are found here.

Operators write them, the coordinator starts runs from them, and a device tries out what one would cost it (``edge
bench``). The metadata's key ``plan`` has the plan's JSON, which is what devices get. The tensors are the initial values
of parameters whose ``init`` says stored; a seeded plan has none and stays a page of text.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from schemas.errors import PlanError, StateError
from schemas.parameters import Flat, Parameters
from schemas.plan import MAX_BYTES, MAX_ELEMENTS, Plan, Stored

BUNDLED = Path(__file__).parent / "plans"
ENDING = ".plan"
_LENGTH = 8  # bytes of a safetensors file's header length, little-endian
_MAX_FILE = 4 * MAX_ELEMENTS + 3 * MAX_BYTES  # the values, the plan's JSON with its quotes escaped, and some more


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan and the initial values that no seed gives, by parameter name, float32."""

    plan: Plan
    stored: dict[str, Flat]

    def initial(self, seed: int) -> Parameters:
        """The parameters a run starts from: drawn from ``seed``, then the stored ones over them."""
        rng = np.random.default_rng(seed)
        drawn = {p.name: p.init.draw(p.shape, rng) for p in self.plan.parameters if not isinstance(p.init, Stored)}
        values = drawn | self.stored
        return Parameters.from_arrays({p.name: values[p.name] for p in self.plan.parameters})


def bundled() -> tuple[str, ...]:
    """Names of the plans that come with the package."""
    return tuple(sorted(path.stem for path in BUNDLED.glob(f"*{ENDING}")))


def find(name: str) -> PlanFile:
    """A bundled plan by its name, or a plan file by its path. Raises ``PlanError`` saying what there is."""
    if name in bundled():
        return read((BUNDLED / f"{name}{ENDING}").read_bytes(), name)
    path = Path(name)
    try:
        size = path.stat().st_size
        if size > _MAX_FILE:
            raise PlanError(f"{name} has {size} bytes, too many for a plan file")
        return read(path.read_bytes(), name)
    except FileNotFoundError:
        raise PlanError(f"there is no plan {name!r}: give a file, or one of {', '.join(bundled())}") from None
    except OSError as error:
        raise PlanError(f"can't read the plan file {name}: {error.strerror}") from None


def read(content: bytes, where: str) -> PlanFile:
    """The plan in a file's bytes. Raises ``PlanError`` naming ``where``."""
    try:
        tensors = load(content)
        text = _metadata(content)["plan"]
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise PlanError(f"{where} is not a plan file: make one with `coordinator plan export`") from None
    plan = Plan.from_bytes(text.encode())
    wanted = {parameter.name: parameter.shape for parameter in plan.parameters if isinstance(parameter.init, Stored)}
    if {name: array.shape for name, array in tensors.items()} != wanted:
        raise PlanError(f"{where}: the stored tensors are not those the plan asks for: export it again")
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in tensors.values()):
        raise PlanError(f"{where}: the stored tensors must be finite float32 values: export it again")
    return PlanFile(plan, tensors)


def write(file: PlanFile, path: Path) -> None:
    """Write a plan file, whole or not at all. Raises ``StateError``."""
    if path.is_dir():  # which may have no name of its own, as "." has none
        raise StateError(f"can't write the plan file {path}: it is a directory; give a file's name, such as net.plan")
    content = save(file.stored, metadata={"plan": file.plan.to_bytes().decode()})
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise StateError(f"can't write the plan file {path}: {error.strerror}") from None


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, whose NumPy reader doesn't hand them out."""
    length = int.from_bytes(content[:_LENGTH], "little")
    metadata: dict[str, str] = json.loads(content[_LENGTH : _LENGTH + length])["__metadata__"]
    return metadata
