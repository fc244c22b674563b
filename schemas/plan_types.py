"""Whether every value in a plan holds floats or whole numbers, and which operations take which. No framework.

Labels are whole numbers (int64), and so is what is computed of nothing else; parameters, inputs and class weights are
floats (float32). torch computes some operations of both, and refuses others at the first training step: those are
refused here, by the argument's name. All that multiply matrices or pool take floats alone: torch has whole numbers
there on some machines, and in evaluation or in training only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

from schemas.plan_values import require


class Kind(Enum):
    """What a tensor holds."""

    FLOAT = "float32"
    WHOLE = "int64"


Rule = Callable[..., Kind]  # what an operation takes, with kinds for tensors, to the kind of what it gives


def _floats(names: str) -> Rule:
    """Of one that takes floats alone; ``names`` are its arguments', those of tensors and those between."""

    def rule(*args: object, **named: object) -> Kind:
        for name, value in (*zip(names.split(), args, strict=False), *named.items()):
            _require_floats(name, value)
        return Kind.FLOAT

    return rule


def _require_floats(name: str, value: object) -> None:
    require(value is not Kind.WHOLE, f"its {name} holds whole numbers (int64), and must hold floats: cast it before")


def _first(x: Kind, *_: object, **__: object) -> Kind:
    return x


def _float(*_: object, **__: object) -> Kind:
    """Of one that makes floats of whole numbers too."""
    return Kind.FLOAT


def _joined(*values: object) -> Kind:
    """Floats where any of them is one."""
    return Kind.FLOAT if any(value is Kind.FLOAT or isinstance(value, float) for value in values) else Kind.WHOLE


def _sum_of_two(x: object, y: object, *, alpha: object = 1) -> Kind:
    kind = _joined(x, y)
    require(kind is Kind.FLOAT or not isinstance(alpha, float), "its alpha is a fraction of whole numbers (int64)")
    return kind


def _from_number(x: Kind, other: object, alpha: object = 1) -> Kind:
    return _sum_of_two(x, other, alpha=alpha)


def _two(x: object, y: object) -> Kind:
    return _joined(x, y)


def _list(items: Sequence[Kind], *_: object, **__: object) -> Kind:
    return _joined(*items)


def _clamp(x: Kind, min: object = None, max: object = None) -> Kind:  # noqa: A002  - ATen's names
    return _joined(x, min, max)


def _power(x: Kind, exponent: Any) -> Kind:
    kind = _joined(x, exponent)
    require(kind is Kind.FLOAT or exponent >= 0, "its self holds whole numbers (int64), which have no negative powers")
    return kind


def _cast(_: Kind, dtype: str, *__: object, **___: object) -> Kind:
    return Kind(dtype)


def _sum(x: Kind, *_: object, dtype: str | None = None, **__: object) -> Kind:
    kind = x if dtype is None else Kind(dtype)
    require(kind is Kind.FLOAT or x is Kind.WHOLE, "floats have no sum of whole numbers (int64): cast them before")
    return kind


def _mean(self: Kind, *_: object, dtype: str | None = None, **__: object) -> Kind:
    _require_floats("self", self if dtype is None else Kind(dtype))
    return Kind.FLOAT


def _softmax(self: Kind, _dim: object, dtype: str | None = None) -> Kind:
    return _mean(self, dtype=dtype)


def _loss(self: Kind, target: Kind, weight: Kind | None = None, *_: object, **__: object) -> Kind:
    _require_floats("self", self)
    require(target is Kind.WHOLE, "its target holds floats, and must hold the classes' numbers (int64)")
    _require_floats("weight", weight)
    return Kind.FLOAT


_FIRST: Final = (
    "relu hardtanh abs neg clone contiguous amax amin flatten.using_ints reshape permute transpose.int t unsqueeze "
    "squeeze.dim squeeze.dims expand slice.Tensor select.int pad constant_pad_nd"
)
_MAKE_FLOATS: Final = "tanh sigmoid exp log sqrt rsqrt reciprocal div.Tensor"
_FLOATS: Final = "leaky_relu elu gelu silu hardswish hardsigmoid softplus dropout glu _softmax _log_softmax"
_POOLS: Final = "max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d"

TYPES: Final[dict[str, Rule]] = {  # of every operation that gives a tensor
    **dict.fromkeys(_FIRST.split(), _first),
    **dict.fromkeys((*_FLOATS.split(), *_POOLS.split()), _floats("self")),
    **dict.fromkeys(_MAKE_FLOATS.split(), _float),
    **dict.fromkeys(("conv1d", "conv1d.padding", "conv2d", "conv2d.padding", "linear"), _floats("input weight bias")),
    **dict.fromkeys(("matmul", "mm", "bmm"), _floats("self other")),
    **dict.fromkeys(("group_norm", "layer_norm"), _floats("input sizes weight bias")),
    **dict.fromkeys(("add.Tensor", "sub.Tensor"), _sum_of_two),
    **dict.fromkeys(("mul.Tensor", "maximum", "minimum"), _two),
    **dict.fromkeys(("cat", "stack"), _list),
    **dict.fromkeys(("softmax.int", "log_softmax.int"), _softmax),
    **dict.fromkeys(("cross_entropy_loss", "nll_loss", "nll_loss_nd"), _loss),
    "addmm": _floats("self mat1 mat2"),
    "rsub.Scalar": _from_number,
    "pow.Tensor_Scalar": _power,
    "clamp": _clamp,
    "to.dtype": _cast,
    "sum.dim_IntList": _sum,
    "mean.dim": _mean,
}
