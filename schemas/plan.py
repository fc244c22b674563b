"""A training plan as data: what one training step computes, as a list of allowed operations. No framework here.

A plan is one graph. Its inputs are the model's parameters, the data's inputs, ``labels`` (int64 [B]) and
``class_weights`` (float32 [C]); its outputs are the loss (a scalar: the mean over the batch, weighted by class) and
the logits ([B, C]). A plan that learns a reconstruction needs no labels: it has one class, and in place of logits the
error of each example ([B, 1]). An operation is a name from ``plan_rules`` and its arguments. A plan runs nothing that
isn't in that table, so a device can take one from anybody who may publish to it: the worst it can do is bounded by
``plan_cost`` before the first real tensor exists.

Travels as canonical JSON (sorted keys, no spaces, fields left out where unset). In arguments, ``"%name"`` refers to a
value defined before; other strings are data types and modes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import (
    Field,
    FiniteFloat,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from schemas.counted import counted
from schemas.errors import PlanError
from schemas.messages import MAX_CLASSES, Message, StrategySettings, TrainSettings, Word
from schemas.parameters import Flat, Manifest, TensorSpec
from schemas.plan_rules import OPERATIONS

FORMAT: Final = 1
MAX_BYTES: Final = 2**20  # of a plan's JSON; a net of 40 layers takes about 10 kB
MAX_ITEMS: Final = 2**16  # entries of all its lists and objects: each takes a hundred bytes and more once parsed
MAX_OPERATIONS: Final = 2000
MAX_TENSORS: Final = 1000  # parameters
MAX_INPUTS: Final = 8
MAX_ARGUMENTS: Final = 16
MAX_LIST: Final = 64  # entries of one list among the arguments
MAX_RANK: Final = 6
MAX_DIM: Final = 2**24
MAX_ELEMENTS: Final = 2**27  # of all parameters together: 512 MiB of float32
MAX_NUMBER: Final = 2**63 - 1  # what a slice to the end is written with

MAX_ERRORS: Final = 100  # faults of one plan that are looked at; listing thousands would cost a hundred MB
MAX_TEXT: Final = 300  # characters that say what is wrong

LABELS: Final = "labels"
CLASS_WEIGHTS: Final = "class_weights"
REFERENCE: Final = "%"
# Other strings among arguments: data types, and modes of gelu, convolution and pad.
WORDS: Final = frozenset({"float32", "int64", "none", "tanh", "same", "valid", "constant", "reflect", "replicate"})

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.]{0,127}$")]
Dim = Annotated[int, Field(strict=True, ge=1, le=MAX_DIM)]
# Lists stop at their first fault: a plan of nothing but faults would fill the memory.
Shape = Annotated[tuple[Dim, ...], Field(max_length=MAX_RANK, fail_fast=True)]
Number = Annotated[StrictInt, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=129)]
Scalar = StrictBool | Number | Annotated[StrictFloat, FiniteFloat] | Name | None
Argument = Scalar | Annotated[tuple[Scalar, ...], Field(max_length=MAX_LIST, fail_fast=True)]


class _Part(Message, extra="forbid"):
    """A piece of a plan. Unlike a message, it has no meaning with an unknown field left out."""


class Uniform(_Part):
    """Values drawn evenly between ``-bound`` and ``bound``."""

    kind: Literal["uniform"]
    bound: Annotated[float, Field(gt=0, le=1e3)]

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Flat:
        """Values of ``shape``, the same for the same state of ``rng``."""
        return rng.uniform(-self.bound, self.bound, shape).astype(np.float32)


class Constant(_Part):
    """One value for all."""

    kind: Literal["constant"]
    value: Annotated[float, Field(ge=-1e6, le=1e6)]

    def draw(self, shape: tuple[int, ...], _rng: np.random.Generator) -> Flat:
        """Values of ``shape``."""
        return np.full(shape, self.value, np.float32)


class Stored(_Part):
    """Values that are in the plan's file."""

    kind: Literal["stored"]


class Parameter(_Part):
    """One array of the model, float32, and how it starts."""

    name: Label
    shape: Shape
    init: Annotated[Uniform | Constant | Stored, Field(discriminator="kind")]


class Input(_Part):
    """One array of an example, float32, without the batch."""

    name: Label
    shape: Annotated[Shape, Field(min_length=1, max_length=MAX_RANK - 1)]


class Operation(_Part):
    """One step: ``out = op(*args, **kwargs)``."""

    out: Label
    op: str
    args: Annotated[tuple[Argument, ...], Field(max_length=MAX_ARGUMENTS, fail_fast=True)]
    kwargs: Annotated[dict[Label, Argument], Field(max_length=MAX_ARGUMENTS)] = Field(default_factory=dict)
    layer: Annotated[str, StringConstraints(max_length=200)] = ""  # of the source module, for people

    def references(self) -> Iterator[str]:
        """Names of the values this step uses."""
        for argument in (*self.args, *self.kwargs.values()):
            for item in argument if isinstance(argument, tuple) else (argument,):
                if isinstance(item, str) and item.startswith(REFERENCE):
                    yield item[len(REFERENCE) :]

    def words(self) -> Iterator[str]:
        """Strings among the arguments that are no references."""
        for argument in (*self.args, *self.kwargs.values()):
            for item in argument if isinstance(argument, tuple) else (argument,):
                if isinstance(item, str) and not item.startswith(REFERENCE):
                    yield item


class Plan(_Part):
    """A training plan; complete and consistent once it exists: anything else raises ``PlanError``.

    ``data`` is the recipe that a device's recordings are prepared with. ``report`` are the classes in macro-F1.
    ``learns`` says what the loss is of: classes told apart, or inputs made from parts of themselves.
    ``train`` and ``strategy`` are what its author recommends.
    """

    format: Literal[1] = FORMAT
    name: Word
    data: Word
    learns: Literal["classes", "reconstruction"] = "classes"
    inputs: Annotated[tuple[Input, ...], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
    classes: Annotated[tuple[Word, ...], Field(min_length=1, max_length=MAX_CLASSES, fail_fast=True)]
    report: Annotated[tuple[Word, ...], Field(min_length=1, max_length=MAX_CLASSES, fail_fast=True)]
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1, max_length=MAX_TENSORS, fail_fast=True)]
    operations: Annotated[tuple[Operation, ...], Field(min_length=1, max_length=MAX_OPERATIONS, fail_fast=True)]
    loss: Label
    logits: Label
    train: TrainSettings = TrainSettings()
    strategy: StrategySettings = StrategySettings()

    @classmethod
    def build(cls, **fields: object) -> Self:
        """A plan from fields. Raises ``PlanError`` naming the first thing that is wrong."""
        try:
            return cls.model_validate({"format": FORMAT, **fields})
        except ValidationError as error:
            raise PlanError(_explain(error)) from None

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Read a plan's canonical JSON. Raises ``PlanError``; allocates no more than the JSON's own size calls for."""
        if len(payload) > MAX_BYTES:
            raise PlanError(f"the plan has {len(payload)} bytes; at most {MAX_BYTES} are allowed")
        if payload.count(b",") > MAX_ITEMS:
            raise PlanError(f"the plan has more than {MAX_ITEMS} entries in its lists and objects")
        try:
            plan = cls.model_validate_json(payload)
        except ValidationError as error:
            raise PlanError(_explain(error)) from None
        if plan.to_bytes() != payload:
            raise PlanError("the plan is not in canonical form: export it again with this version")
        return plan

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal plans have equal bytes."""
        fields = self.model_dump(mode="json", exclude_unset=True)
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, as 64 hex digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def manifest(self) -> Manifest:
        """The parameters' names and shapes, in order."""
        return Manifest(tuple(TensorSpec(parameter.name, parameter.shape) for parameter in self.parameters))

    @model_validator(mode="after")
    def _check(self) -> Self:
        """That names are unique and defined before use, operations allowed, outputs there, and bounds kept."""
        for what, names in (
            ("class", self.classes),
            ("reported class", self.report),
            ("input", tuple(entry.name for entry in self.inputs)),
            ("parameter", tuple(parameter.name for parameter in self.parameters)),
        ):
            if len(set(names)) != len(names):
                raise PlanError(f"the plan names a {what} twice: {', '.join(names)}")
        if (len(self.classes) == 1) != (self.learns == "reconstruction"):
            raise PlanError(
                f"the plan learns {self.learns} and has {counted(len(self.classes), 'class', 'classes')} "
                f"({', '.join(self.classes)}): "
                "one that tells classes apart has two or more, a reconstruction has one"
            )
        if unknown := set(self.report) - set(self.classes):
            raise PlanError(f"the plan reports {', '.join(sorted(unknown))}, which is none of its classes")
        elements = sum(math.prod(parameter.shape) for parameter in self.parameters)
        if elements > MAX_ELEMENTS:
            raise PlanError(f"the plan's model has {elements} values; at most {MAX_ELEMENTS} are allowed")
        self._check_operations()
        return self

    def _check_operations(self) -> None:
        known = {LABELS, CLASS_WEIGHTS, *(entry.name for entry in self.inputs), *(p.name for p in self.parameters)}
        if len(known) != len(self.inputs) + len(self.parameters) + 2:
            raise PlanError(f"inputs and parameters need names of their own, other than {LABELS} and {CLASS_WEIGHTS}")
        for step, operation in enumerate(self.operations, 1):
            where = f"step {step} ({operation.op}{f' in layer {operation.layer}' if operation.layer else ''})"
            if operation.op not in OPERATIONS:
                raise PlanError(f"{where}: the operation is not allowed in a plan; {advice(operation.op)}")
            for name in operation.references():
                if name not in known:
                    raise PlanError(f"{where} uses {name!r}, which isn't defined before it")
            for word in operation.words():
                if word not in WORDS:
                    raise PlanError(f"{where} has the argument {word!r}, which no operation here takes")
            if operation.out in known:
                raise PlanError(f"{where} defines {operation.out!r} a second time")
            known.add(operation.out)
        results = {operation.out for operation in self.operations}
        if not {self.loss, self.logits} <= results:
            raise PlanError(f"the plan doesn't compute its loss {self.loss!r} and its logits {self.logits!r}")


def advice(operation: str) -> str:
    """What to do instead of an operation that isn't allowed."""
    if "batch_norm" in operation:
        return "use GroupNorm instead of BatchNorm: devices have small, uneven batches and share no running averages"
    if "lstm" in operation or "gru" in operation or "rnn" in operation:
        return "use 1-D convolutions instead of recurrent layers"
    if operation.startswith("rand") or "bernoulli" in operation:
        return "use nn.Dropout for randomness"
    return "build the model from convolutions, linear layers, pooling, GroupNorm, LayerNorm and elementwise functions"


def _explain(error: ValidationError) -> str:
    if error.error_count() > MAX_ERRORS:
        return f"not a training plan: it has {error.error_count()} faults"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the plan"
    return ascii(f"not a training plan: {where}: {first['msg']}")[1:-1][:MAX_TEXT]
