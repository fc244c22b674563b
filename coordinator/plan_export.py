"""A plain ``nn.Module`` becomes a plan, on the operator's machine: the one place that runs model code. Needs torch.

``torch.export`` traces the module together with its loss, with a free batch size and the parameters as inputs of the
graph; each step of that graph becomes a step of the plan. Whatever a plan may not do is refused here already, with
the layer it comes from, so that the operator hears of it and not the fleet.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import logging
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, Final, NoReturn, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from coordinator.plan_graph import steps
from schemas.errors import PlanError
from schemas.messages import StrategySettings, TrainSettings
from schemas.plan import Plan, advice
from schemas.plan_file import PlanFile
from schemas.plan_shapes import infer

LOSSES: Final = {
    "cross_entropy": functional.cross_entropy,  # the module gives logits
    "nll": functional.nll_loss,  # it gives log-probabilities, as after log_softmax
}
RECONSTRUCTION: Final = "mse"  # the module gives its first input anew: the mean squared error
_EXAMPLES: Final = 3  # in the traced batch: torch.export would fix a size of 0 or 1
_REFUSED: Final = (nn.modules.batchnorm._NormBase, nn.RNNBase, nn.RNNCellBase)  # noqa: SLF001  - the common base class
_NORMS: Final = (nn.GroupNorm, nn.LayerNorm)
_AFFINE: Final = (nn.Linear, nn.Conv1d, nn.Conv2d)


class _Source(SourceFileLoader):
    """Compiles a file as it is now: compiled ones are told by the second, and a file may be edited twice within one."""

    def path_stats(self, path: str) -> NoReturn:
        """Raises ``OSError``, which leaves compiled files out."""
        raise FileNotFoundError(path)


def load_class(source: str) -> nn.Module:
    """The module that ``FILE.py:CLASS`` names, constructed without arguments. Runs that file. Raises ``PlanError``."""
    file, colon, name = source.rpartition(":")
    path = Path(file)
    if not colon or not path.is_file():
        raise PlanError(f"{source!r} is not FILE.py:CLASS with a file that exists: write it as models.py:Net")
    if path.suffix != ".py":
        raise PlanError(f"{file} is not a Python file")
    loader = _Source(f"plan_source_{path.stem}", str(path))
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        loader.exec_module(module)
        classes = {key: value for key, value in vars(module).items() if _is_module_class(value)}
        made = classes[name]() if name in classes else None
    except Exception as error:  # it is the operator's own code, which may raise anything
        raise PlanError(f"{source} can't be loaded: {type(error).__name__}: {error}") from error
    except SystemExit as error:  # a training script, which reads our command line as its own
        raise PlanError(
            f"{source} can't be loaded: {file} ends this program as it is loaded; put what it does besides defining "
            "classes under `if __name__ == '__main__':`"
        ) from error
    if made is None:
        raise PlanError(f"{file} has no nn.Module called {name!r}; it has: {', '.join(classes) or 'none'}")
    return made


def export(
    module: nn.Module,
    name: str,
    inputs: Mapping[str, Sequence[int]],
    *,
    loss: str = "cross_entropy",
    classes: Sequence[str],
    report: Sequence[str] | None = None,
    data: str = "windows",
    seeded: bool = False,
    train: TrainSettings | None = None,
    strategy: StrategySettings | None = None,
) -> PlanFile:
    """The plan of one training step of ``module``, and the values it has now.

    ``inputs``: shape of one example of each input of ``forward``, without the batch, in order. ``report``: the classes
    in macro-F1, all unless given. ``seeded``: leave the values out and let each run draw them, for which every layer
    must be of a type whose initialisation torch documents (linear, convolution, GroupNorm, LayerNorm).
    ``loss`` "mse" is of a module that gives its first input anew, and takes one class: what an example is called.
    Raises ``PlanError`` naming the layer and the reason.
    """
    if loss not in {*LOSSES, RECONSTRUCTION}:
        raise PlanError(f"loss {loss!r} is not known: use one of {', '.join((*LOSSES, RECONSTRUCTION))}")
    learns = {"learns": "reconstruction"} if loss == RECONSTRUCTION else {}  # unset where it is classes, as it was
    _check_module(module)
    parameters = {key: value.detach() for key, value in module.named_parameters()}
    first = {id(value): key for key, value in module.named_parameters()}
    names = {f"model.{key}": first[id(value)] for key, value in module.named_parameters(remove_duplicate=False)}
    graph = steps(_trace(module, inputs, loss, len(classes)), tuple(inputs), names)
    init = _seeds(module) if seeded else {key: {"kind": "stored"} for key in parameters}
    optional = {"train": train, "strategy": strategy}
    plan = Plan.build(
        name=name,
        data=data,
        **learns,
        inputs=[{"name": key, "shape": tuple(shape)} for key, shape in inputs.items()],
        classes=tuple(classes),
        report=tuple(classes if report is None else report),
        parameters=[{"name": k, "shape": tuple(v.shape), "init": init[k]} for k, v in parameters.items()],
        operations=graph.operations,
        loss=graph.loss,
        logits=graph.logits,
        **{key: value.model_dump(exclude_unset=True) for key, value in optional.items() if value is not None},
    )
    infer(plan, 1)  # a plan that a device would refuse at the smallest batch is refused here
    stored = {} if seeded else {k: v.to(torch.float32).contiguous().numpy().copy() for k, v in parameters.items()}
    return PlanFile(plan, stored)


class _Step(nn.Module):
    """One training step's forward half: ``(loss, logits)`` of a batch; of a reconstruction each example's error."""

    def __init__(self, model: nn.Module, loss: str) -> None:
        super().__init__()
        self.model = model
        self.loss = LOSSES.get(loss)

    def forward(self, inputs: tuple[Tensor, ...], labels: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
        made = self.model(*inputs)
        if self.loss is not None:
            return self.loss(made, labels, class_weights), made
        if made.shape != inputs[0].shape:
            raise PlanError(f"a reconstruction gives its first input anew: {_sizes(inputs[0])}, not {_sizes(made)}")
        errors = (made - inputs[0]).pow(2).flatten(1).mean(1)
        return errors.mean(0), errors.unsqueeze(1)


def _sizes(value: Tensor) -> str:
    return "x".join(("B", *map(str, value.shape[1:])))


def _trace(module: nn.Module, inputs: Mapping[str, Sequence[int]], loss: str, classes: int) -> Any:
    batch = torch.export.Dim("batch", min=1, max=2**16)
    examples = tuple(torch.zeros(_EXAMPLES, *shape) for shape in inputs.values())
    arguments = (examples, torch.zeros(_EXAMPLES, dtype=torch.int64), torch.ones(classes))
    shapes = (tuple({0: batch} for _ in examples), {0: batch}, None)
    training = module.training
    step = _Step(module, loss).train()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, about itself
            step(*arguments)  # what is wrong with the shapes reads better from an ordinary call
            logging.disable(logging.CRITICAL)
            with contextlib.redirect_stderr(io.StringIO()):  # torch prints whole graphs; its error says what is wrong
                program = torch.export.export(step, arguments, dynamic_shapes=shapes)
            return program.run_decompositions({})  # nothing decomposed: only writes in place become ordinary steps
    except Exception as error:  # the operator's own code again, and torch.export has no error base class
        first = next((line for line in str(error).splitlines() if line.strip()), "no message")
        if "data-dependent" in first:
            first = "its forward branches on values of its inputs, and a plan is the same steps for every batch"
        given = ", ".join(f"{key}={'x'.join(map(str, shape))}" for key, shape in inputs.items())
        raise PlanError(
            f"{type(module).__name__} can't be exported with the inputs {given} and {classes} classes: {first}"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
        module.train(training)


def _check_module(module: nn.Module) -> None:
    for layer, child in module.named_modules():
        if isinstance(child, _REFUSED):
            kind = type(child).__name__
            hint = advice("lstm" if isinstance(child, nn.RNNBase | nn.RNNCellBase) else "batch_norm")
            raise PlanError(f"layer {layer or 'itself'} ({kind}): {hint}")
    for key, buffer in module.named_buffers():
        raise PlanError(
            f"{key} is a buffer of {buffer.numel()} values: a plan has parameters only; make it an nn.Parameter, "
            "or compute it in forward"
        )
    for key, parameter in module.named_parameters():
        if not parameter.requires_grad:
            raise PlanError(f"{key} is frozen (requires_grad=False): a plan trains all of its parameters")
        if parameter.dtype != torch.float32:
            raise PlanError(f"{key} is {parameter.dtype}: a plan's parameters are float32; call .float() on the module")


def _seeds(module: nn.Module) -> dict[str, dict[str, object]]:
    """How each parameter starts, as torch's ``reset_parameters`` does it: +-1/sqrt(fan in), or ones and zeros."""
    found: dict[str, dict[str, object]] = {}
    for layer, child in module.named_modules():
        for short, parameter in child.named_parameters(recurse=False):
            if isinstance(child, _AFFINE):
                bound = 1 / math.sqrt(math.prod(child.weight.shape[1:]))
                found[f"{layer}.{short}"] = {"kind": "uniform", "bound": float(f"{bound:.9g}")}
            elif isinstance(child, _NORMS):
                found[f"{layer}.{short}"] = {"kind": "constant", "value": float(short == "weight")}
            else:
                raise PlanError(
                    f"layer {layer or 'itself'} ({type(child).__name__}) has {parameter.numel()} values that no seed "
                    "gives: export it with its values"
                )
    return {key.removeprefix("."): value for key, value in found.items()}


def _is_module_class(value: object) -> TypeGuard[type[nn.Module]]:
    return inspect.isclass(value) and issubclass(value, nn.Module)
