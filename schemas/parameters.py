"""Named float32 arrays and their flat view: all the coordinator knows of a model. NumPy only.

The values live in one contiguous vector, in the manifest's order; named arrays are views into it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from schemas.errors import Reject, WireError

Flat = NDArray[np.float32]
MAX_ELEMENTS = 2**31 - 1
_BLOCK = 65_536  # values at a time where a float64 copy of all of them would be too much


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One array's name and shape; every array is float32."""

    name: str
    shape: tuple[int, ...]
    size: int = field(init=False, compare=False, repr=False)  # elements; a scalar has one

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", math.prod(self.shape))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The arrays of a model in order: what both ends agree on before any tensor travels."""

    tensors: tuple[TensorSpec, ...]
    size: int = field(init=False, compare=False, repr=False)  # elements of all arrays together

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum(tensor.size for tensor in self.tensors))
        names = [tensor.name for tensor in self.tensors]
        if len(set(names)) != len(names):
            raise WireError(Reject.WRONG_SHAPE, "a manifest names a tensor twice")
        if any(dim < 1 for tensor in self.tensors for dim in tensor.shape):
            raise WireError(Reject.WRONG_SHAPE, "a manifest has an empty tensor")
        if self.size > MAX_ELEMENTS:
            raise WireError(Reject.TOO_LARGE, f"a model of {self.size} elements; at most {MAX_ELEMENTS}")

    def slices(self) -> tuple[slice, ...]:
        """Where each array lies in the flat view."""
        ends = accumulate((tensor.size for tensor in self.tensors), initial=0)
        return tuple(slice(start, end) for start, end in pairwise(ends))


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """Values for a manifest. ``flat`` is float32 of shape (manifest.size,), C-contiguous, and not to be written to."""

    manifest: Manifest
    flat: Flat

    def __post_init__(self) -> None:
        fits = self.flat.dtype == np.float32 and self.flat.shape == (self.manifest.size,)
        if not fits or not self.flat.flags.c_contiguous:
            raise WireError(
                Reject.WRONG_SHAPE,
                f"{self.flat.dtype} of shape {self.flat.shape} for a model of {self.manifest.size} float32 values",
            )

    @classmethod
    def zeros(cls, manifest: Manifest) -> Self:
        """All zero."""
        return cls(manifest, np.zeros(manifest.size, np.float32))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.floating]]) -> Self:
        """From named arrays, in the mapping's order, cast to float32."""
        manifest = Manifest(tuple(TensorSpec(name, tuple(array.shape)) for name, array in arrays.items()))
        if not arrays:
            return cls(manifest, np.zeros(0, np.float32))
        return cls(manifest, np.concatenate([np.asarray(a, np.float32).reshape(-1) for a in arrays.values()]))

    def arrays(self) -> dict[str, Flat]:
        """Named views into ``flat``."""
        pairs = zip(self.manifest.tensors, self.manifest.slices(), strict=True)
        return {tensor.name: self.flat[where].reshape(tensor.shape) for tensor, where in pairs}

    def add(self, other: Self) -> Self:
        """Elementwise sum."""
        self._same_shape(other)
        return type(self)(self.manifest, self.flat + other.flat)

    def subtract(self, other: Self) -> Self:
        """Elementwise difference."""
        self._same_shape(other)
        return type(self)(self.manifest, self.flat - other.flat)

    def scale(self, factor: float) -> Self:
        """Every value times ``factor``."""
        return type(self)(self.manifest, self.flat * np.float32(factor))

    def norm(self) -> float:
        """Euclidean norm, summed in float64, a block at a time so that no copy of the model is made."""
        return math.sqrt(sum(float(np.sum(np.square(block, dtype=np.float64))) for block in self.blocks()))

    @property
    def peak(self) -> float:
        """The largest magnitude, NaN where any value is."""
        return max(float(self.flat.max(initial=0)), -float(self.flat.min(initial=0)))

    def blocks(self) -> Iterator[Flat]:
        """The values in order, a block at a time."""
        return (self.flat[start : start + _BLOCK] for start in range(0, self.flat.size, _BLOCK))

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return bool(np.isfinite(self.flat).all())

    def digest(self) -> str:
        """SHA-256 over names, shapes and little-endian values, as 64 hex digits; independent of platform and codec."""
        hasher = hashlib.sha256()
        for tensor in self.manifest.tensors:
            hasher.update(f"{tensor.name}\0{','.join(map(str, tensor.shape))}\n".encode())
        hasher.update(np.ascontiguousarray(self.flat, dtype="<f4").data)
        return hasher.hexdigest()

    def equal(self, other: Self) -> bool:
        """Whether manifests and every bit of every value agree."""
        return self.manifest == other.manifest and self.flat.tobytes() == other.flat.tobytes()

    def _same_shape(self, other: Self) -> None:
        if self.manifest != other.manifest:
            raise WireError(Reject.WRONG_SHAPE, "the two models have different manifests")
