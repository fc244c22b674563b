"""The graph that ``torch.export`` made becomes a plan's steps. Names, arguments and shapes; no values. Needs torch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from schemas.errors import PlanError
from schemas.plan import CLASS_WEIGHTS, LABELS, REFERENCE, advice
from schemas.plan_rules import OPERATIONS

# Arithmetic that torch does on batch-dependent sizes, outside ATen.
_WHOLE_NUMBERS: Final[Mapping[Callable[..., Any], str]] = {
    operator.add: "int.add",
    operator.sub: "int.sub",
    operator.mul: "int.mul",
    operator.floordiv: "int.floordiv",
}
_RENAMED: Final = {
    # Dropout's functional form; its mask, the second result, is for a backward pass we don't write ourselves.
    "native_dropout": "dropout",
    # A view fails where memory is laid out otherwise than in the trace, which torch decides anew for every batch.
    "view": "reshape",
    "_unsafe_view": "reshape",
}
_LAYOUT: Final = "memory_format"  # of a copy; no step of a plan depends on how values lie


@dataclass(frozen=True, slots=True)
class Graph:
    """A plan's steps, as ``Operation`` takes them, and the names of its outputs."""

    operations: tuple[dict[str, object], ...]
    loss: str
    logits: str


def steps(program: ExportedProgram, inputs: tuple[str, ...], parameters: Mapping[str, str]) -> Graph:
    """The steps of ``program``, whose inputs are parameters, ``inputs``, labels and class weights, in that order.

    ``parameters``: the name in the plan of each of the program's parameters; tied ones share theirs.
    Raises ``PlanError`` naming the layer for anything a plan can't have.
    """
    names = _placeholders(program, inputs, parameters)
    taken = set(names.values())
    operations = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is operator.getitem:
            names[node] = _only_result(node, names)
        elif node.users:  # else a check that the trace left behind; the plan's own dry run says the same
            names[node] = _free(node.name, taken)
            operations.append(_operation(node, names))
    output = program.graph.output_node().args[0]
    loss, logits = (names[node] for node in output)
    return Graph(tuple(operations), loss, logits)


def _placeholders(
    program: ExportedProgram, inputs: tuple[str, ...], parameters: Mapping[str, str]
) -> dict[fx.Node, str]:
    """Our names of the graph's inputs."""
    given = iter((*inputs, LABELS, CLASS_WEIGHTS))
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    names = {}
    for entry in program.graph_signature.input_specs:
        if entry.kind == InputKind.PARAMETER:
            name = parameters[str(entry.target)]
        elif entry.kind == InputKind.USER_INPUT:
            name = next(given)
        else:
            raise PlanError(
                f"the model makes a constant tensor in forward ({entry.target}): a plan has none; use plain numbers, "
                "or an nn.Parameter"
            )
        names[nodes[entry.arg.name]] = name
    return names


def _operation(node: fx.Node, names: Mapping[fx.Node, str]) -> dict[str, object]:
    kind, args, layer = _kind(node), node.args, _layer(node)
    named = {key: value for key, value in node.kwargs.items() if key != _LAYOUT}
    if kind == "_to_copy" and set(named) == {"dtype"}:  # what the trace makes of a cast
        kind, args, named = "to.dtype", (*args, named["dtype"]), {}
    if kind not in OPERATIONS:
        raise PlanError(f"{layer or 'the model'} uses the operation {kind!r}, which no plan may: {advice(kind)}")
    operation: dict[str, object] = {
        "out": names[node],
        "op": kind,
        "args": tuple(_argument(argument, names) for argument in args),
    }
    if named:
        operation["kwargs"] = {key: _argument(value, names) for key, value in named.items()}
    if layer:
        operation["layer"] = layer
    return operation


def _kind(node: fx.Node) -> str:
    if node.target in _WHOLE_NUMBERS:
        return _WHOLE_NUMBERS[node.target]  # type: ignore[index]  # fx allows a string here too
    if not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001  - torch has no public name for it
        return str(node.target)
    name = str(node.target).removeprefix("aten.").removesuffix(".default")
    return _RENAMED.get(name, name)


def _argument(value: object, names: Mapping[fx.Node, str]) -> object:
    if isinstance(value, fx.Node):
        return f"{REFERENCE}{names[value]}"
    if isinstance(value, list | tuple):
        return tuple(_argument(item, names) for item in value)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value


def _only_result(node: fx.Node, names: Mapping[fx.Node, str]) -> str:
    source, index = node.args
    assert isinstance(source, fx.Node)
    if _kind(source) == "dropout" and index == 0:
        return names[source]
    raise PlanError(f"{_layer(node) or 'the model'} uses {_kind(source)!r}, which gives several results: slice instead")


def _layer(node: fx.Node) -> str:
    """The source layer of a node, such as ``conv1 (Conv1d)``; empty for the model's own forward and the loss."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    path = path.removeprefix("model").removeprefix(".")
    if not path or path.startswith("_empty"):  # torch's placeholder for steps it added itself
        return ""
    return f"{path} ({getattr(kind, '__name__', None) or str(kind).rpartition('.')[2]})"


def _free(name: str, taken: set[str]) -> str:
    """``name``, with a number after it where something is called that already."""
    candidates: Iterable[str] = (name, *(f"{name}_{number}" for number in range(len(taken) + 1)))
    found = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(found)
    return found
