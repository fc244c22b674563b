"""A plan and a model's parameters as an ONNX model: one table from our operations to ONNX's, no framework. Pure.

Only what the logits need is written, as it runs in evaluation: no loss, no dropout. Needs the package ``onnx`` (the
extra ``fedbeat[onnx]``), which is imported when a model is written.
"""

from __future__ import annotations

from schemas.errors import PlanError, SettingsError
from schemas.onnx_graph import Graph, Unsupported
from schemas.onnx_operations import TABLE
from schemas.parameters import Parameters
from schemas.plan import CLASS_WEIGHTS, LABELS, Plan


def to_onnx(plan: Plan, parameters: Parameters) -> bytes:
    """The model as an ONNX file: inputs ``(batch, *shape)`` float32 by the plan's names, output ``logits`` (batch, C).

    Its metadata has the plan's ``name``, its ``classes`` (JSON) and the model's ``digest``. Raises ``PlanError`` that
    names an operation which can't be written, ``SettingsError`` where ``onnx`` is missing.
    """
    try:
        import onnx  # noqa: PLC0415 - an extra that averaging and training do without
    except ImportError:
        raise SettingsError("ONNX models need the package onnx: pip install 'fedbeat[onnx]'") from None
    graph = Graph(plan, onnx)
    needed = _needed(plan)
    for number, operation in enumerate(plan.operations, 1):
        if operation.out not in needed:
            continue
        where = f"step {number} ({operation.op}{f' in layer {operation.layer}' if operation.layer else ''})"
        write = TABLE.get(operation.op)
        if write is None:
            raise PlanError(f"{where} can't be written as ONNX: its result may be part of the loss, not of the logits")
        graph.begin(operation)
        try:
            write(graph, *operation.args, **operation.kwargs)
        except Unsupported as error:
            raise PlanError(f"{where} can't be written as ONNX: {error}") from None
        except (TypeError, ValueError) as error:  # by name what is known by its place, or too many
            raise PlanError(f"{where} can't be written as ONNX: its arguments have a form not known here") from error
    return graph.model(plan, parameters, needed)


def _needed(plan: Plan) -> frozenset[str]:
    """The values that the logits come from. Raises ``PlanError`` where labels are among them."""
    needed = {plan.logits}
    for operation in reversed(plan.operations):
        if operation.out in needed:
            needed |= set(operation.references())
    if needed & {LABELS, CLASS_WEIGHTS}:
        raise PlanError("the logits depend on the labels: there is nothing that could predict")
    return frozenset(needed)
