"""int8: a quarter of the bytes, by stochastic rounding to a grid per tensor; unbiased, so errors cancel over devices.

A tensor's step is its largest magnitude over 127. A value of y steps becomes floor(y + u), u uniform in [0, 1): y on
average (to 1e-5 of a step, float32's resolution there) and within one step always (QSGD, Alistarh et al. 2017).
The body is one float32 step per tensor, in the manifest's order, then one signed byte per value.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

ID: Final = 3
_STEPS: Final = np.dtype("<f4")
_FINE: Final = 1 + 2.0**-20  # keeps y below 127 whatever float32 rounds up, so that y + u stays below 128
_SMALLEST_STEP: Final = float(np.finfo(np.float32).tiny)  # a smaller one has no float32 inverse
_LARGEST_STEP: Final = float(np.finfo(np.float32).max) / 128  # 128 steps are still finite
_BLOCK: Final = 16_384  # values at a time, so that the intermediates stay in the cache


def limit(manifest: Manifest) -> int:
    """A byte a value and four a tensor."""
    return _STEPS.itemsize * len(manifest.tensors) + manifest.size


def encode(parameters: Parameters, rng: np.random.Generator) -> memoryview:
    """Steps and levels; one float32 drawn per value. ``WireError`` naming the tensor where values go beyond 3.3e38."""
    manifest, flat = parameters.manifest, parameters.flat
    body = np.empty(limit(manifest), np.uint8)
    head = _STEPS.itemsize * len(manifest.tensors)
    steps, levels = body[:head].view(_STEPS), body[head:].view(np.int8)
    noise, scaled = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for index, where in enumerate(manifest.slices()):
        step = _step(flat[where], manifest.tensors[index].name)
        steps[index] = step
        inverse = np.float32(1) / step
        for start in range(where.start, where.stop, _BLOCK):
            stop = min(start + _BLOCK, where.stop)
            u, y = noise[: stop - start], scaled[: stop - start]
            rng.random(dtype=np.float32, out=u)
            np.multiply(flat[start:stop], inverse, out=y)
            np.add(y, u, out=y)
            levels[start:stop] = np.floor(y, out=y)
    return body.data


def decode(body: memoryview, manifest: Manifest) -> Flat:
    """Levels times steps."""
    if len(body) != limit(manifest):
        raise WireError(Reject.WRONG_SHAPE, f"{len(body)} bytes for a model of {limit(manifest)}")
    head = _STEPS.itemsize * len(manifest.tensors)
    steps = np.frombuffer(body[:head], _STEPS)
    levels = np.frombuffer(body[head:], np.int8)
    if not ((steps >= _SMALLEST_STEP) & (steps <= _LARGEST_STEP)).all():  # False for NaN too
        raise WireError(Reject.OUT_OF_RANGE, "a step is not a positive, finite number")
    flat = np.empty(manifest.size, np.float32)
    for step, where in zip(steps, manifest.slices(), strict=True):
        np.multiply(levels[where], step, out=flat[where])
    return flat


def _step(values: Flat, name: str) -> np.float32:
    largest = max(float(values.max()), -float(values.min()))
    step = max(largest / 127 * _FINE, _SMALLEST_STEP)
    if step > _LARGEST_STEP:
        raise WireError(Reject.OUT_OF_RANGE, f"{name} has {largest:g}, too large for int8: use the codec float32")
    return np.float32(step)
