"""A plan run by ONNX Runtime: what a device without PyTorch predicts with. It can't train."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge.dataset import FloatArray
from schemas.errors import PlanError, SettingsError
from schemas.onnx_graph import LOGITS
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.plan_cost import FLOAT_BYTES, Limits
from schemas.plan_onnx import to_onnx
from schemas.plan_shapes import infer
from schemas.plan_values import Shape

BATCH: Final = 256  # examples at a time
_ERRORS_ALONE: Final = 3  # of its log


class Session:
    """One model of one plan, ready to run on one thread."""

    def __init__(self, plan: Plan, parameters: Parameters) -> None:
        """Raises ``PlanError`` where the plan has what ONNX, or this version of its runtime, can't run.

        ``SettingsError`` where the runtime is installed and doesn't load, as one for another processor or C library.
        """
        held = FLOAT_BYTES * sum(math.prod(v) for v in infer(plan, BATCH).values() if isinstance(v, Shape))
        if held > Limits().memory:  # it copies what PyTorch only looks at another way, such as a transposed tensor
            raise PlanError(f"plan {plan.name!r} would take {held / 2**20:.0f} MiB: use a smaller model")
        try:
            import onnxruntime  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise SettingsError(
                f"ONNX Runtime is installed and can't be loaded ({error}): install it anew, or remove it to use PyTorch"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # others need the cores
        options.log_severity_level = _ERRORS_ALONE
        model = to_onnx(plan, parameters)
        try:
            self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise PlanError(f"ONNX Runtime can't run plan {plan.name!r}: {error}; choose --runtime torch") from error
        self._names = [entry.name for entry in plan.inputs]
        self._classes = len(plan.classes)

    def __call__(self, inputs: tuple[FloatArray, ...]) -> NDArray[np.float32]:
        """The logits (n, C) of n examples, given as one array (n, *shape) for each input of the plan."""
        found = [np.empty((0, self._classes), np.float32)]
        for start in range(0, len(inputs[0]), BATCH):
            batch = {
                name: np.ascontiguousarray(array[start : start + BATCH])
                for name, array in zip(self._names, inputs, strict=True)
            }
            found += self._session.run([LOGITS], batch)
        return np.concatenate(found)
