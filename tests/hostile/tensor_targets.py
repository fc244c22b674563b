"""Every decoder of what becomes arrays: compressed payloads, and the plan that says what to compute with them."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from typing import Any, Final

import numpy as np

from edge.training import checkpoint
from edge.training.checkpoint import Checkpoint
from schemas import compression
from schemas.compression import entropy
from schemas.errors import PlanError, WireError
from schemas.plan import Plan
from schemas.plan_cost import Limits, check
from tests.hostile import json_text
from tests.hostile.json_text import Object
from tests.hostile.payloads import MANIFEST, frame, hostile
from tests.hostile.raw import damage
from tests.hostile.target import Target
from tests.plan_examples import tiny

_ABOUT: Final = "a" * 64  # what a training is known by
_PLAN: Final = tiny().to_bytes()
_OPERATIONS: Final = json.loads(
    """[
    ["max_pool1d", ["%relu", [2]], {}], ["max_pool1d", ["%relu"], {"kernel": [2]}], ["linear", [], {"x": "%mean",
    "weight": "%out.weight"}], ["expand", ["%out.bias", [1000000, 1000000, 3]], {}], ["cat", [["%relu", "%relu"], 1],
    {}], ["stack", [["%relu", "%relu"], 9]], {}], ["reshape", ["%relu", [-1, -1]], {}], ["int.mul", [1099511627776,
    1099511627776], {}], ["int.floordiv", [1, 0], {}], ["pad", ["%relu", [9223372036854775807, 1]], {}], ["conv1d",
    ["%relu", "%conv.weight", null, [0]], {}], ["slice.Tensor", ["%relu", 1, 0, 9223372036854775807, 2], {}], ["t",
    ["%out.weight"], {}], ["sym_size.int", ["%relu", 0], {}], ["unsqueeze", ["%relu", -1], {}], ["matmul", ["%mean",
    "%mean"], {}], ["pow.Tensor_Scalar", ["%relu", 1e308], {}], ["adaptive_avg_pool1d", ["%relu", [1000000000]], {}],
    ["permute", ["%relu", [0, 0, 0]], {}], ["group_norm", ["%relu", 0], {}], ["addmm", ["%mean"], {}]
    ]""".replace("9]], {}]", "9], {}]")
)


def _payload(rng: random.Random) -> bytes:
    return hostile(rng)


def _read_payload(data: bytes) -> object:
    parameters = compression.decode(data, MANIFEST)
    assert parameters.is_finite()
    assert parameters.flat.shape == (MANIFEST.size,)
    again = compression.encode("float32", parameters, np.random.default_rng(0))
    assert compression.decode(again, MANIFEST).equal(parameters)
    return parameters


def _packed(rng: random.Random) -> bytes:
    size = rng.choice((1, 100, 70_000))
    return bytes([rng.choice((0, 1, 1, 1, 2, 255))]) + size.to_bytes(8, "little") + frame(rng, size)


def _unpack(data: bytes) -> object:
    packing, packed, size = data[0], memoryview(data)[9:], int.from_bytes(data[1:9], "little")
    entropy.check(packing, packed, size)
    body = entropy.Body(packing, packed, size)
    whole = body.take(size)
    body.end()
    return whole


def plan(rng: random.Random) -> bytes:
    """A plan's JSON, changed and then mostly written as canonically as before, so that its steps are looked at."""
    document = json_text.parse(_PLAN)
    if rng.random() < 0.7:
        _add_steps(rng, document)
    if rng.random() < 0.5:
        document = json_text.mutate(rng, document, json_text.parse(_PLAN))
    text = json_text.render(document)
    if rng.random() < 0.8:
        with contextlib.suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode()
    return damage(rng, text, _PLAN) if rng.random() < 0.15 else text


def _add_steps(rng: random.Random, document: Any) -> None:
    """Put steps that no exporter writes before the last but one."""
    steps: list[Any] = dict(document.pairs)["operations"]
    for number in range(rng.choice((1, 1, 3, 300))):
        op, args, kwargs = copy.deepcopy(rng.choice(_OPERATIONS))  # which the next change may reach into
        pairs = [("args", args), ("op", op), ("out", f"extra{number}")]
        pairs += [("kwargs", Object(list(kwargs.items())))] if kwargs else []
        steps.insert(-2, Object(pairs))


def _read_plan(data: bytes) -> object:
    read = Plan.from_bytes(data)
    assert read.to_bytes() == data
    for batch in (1, 32):
        check(read, batch, Limits())
    return read


# -- a training left off -----------------------------------------------------------------------------------------------


def _left() -> bytes:
    rng = np.random.default_rng(1)
    flat = np.arange(MANIFEST.size, dtype=np.float32)
    shuffle: Any = rng.bit_generator.state
    return checkpoint.encode(Checkpoint(3, flat, (flat, flat), 1.5, 30, 0.5, shuffle), _ABOUT)


def _checkpoint(rng: random.Random) -> bytes:
    header, _, body = _LEFT.partition(b"\n")
    if rng.random() < 0.7:
        header = json_text.render(json_text.mutate(rng, json_text.parse(header)))
    body = rng.choice((body, body, body, body[:-1], body + b"\0", b"\xff" * len(body)))
    return damage(rng, header + b"\n" + body, _LEFT) if rng.random() < 0.2 else header + b"\n" + body


def _read_checkpoint(data: bytes) -> object:
    read = checkpoint.decode(data, _ABOUT)
    assert all(np.isfinite(vector).all() for vector in (read.parameters, *read.optimiser))
    return read


_LEFT: Final = _left()
TENSORS: Final = (
    Target("compression.decode", _payload, _read_payload, (WireError,), 30),
    Target("compression.entropy", _packed, _unpack, (WireError,), 10),
    Target("plan.from_bytes", plan, _read_plan, (PlanError,), 20),
    Target("checkpoint.decode", _checkpoint, _read_checkpoint, (WireError,), 10),
)
