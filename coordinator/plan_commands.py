"""``coordinator plan``, and which plan a run uses. PyTorch is imported only where a module is to be exported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from coordinator.config import CoordinatorSettings, in_scale
from schemas import plan_file
from schemas.counted import counted
from schemas.errors import FedbeatError, PlanError, SettingsError
from schemas.messages import MAX_CLASSES, Word
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.plan_cost import verdict
from schemas.plan_file import PlanFile
from schemas.plan_shapes import outline
from schemas.settings import Origin

LONGEST_NAME = 64  # letters of a plan's
_INPUT = re.compile(r"^(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>[1-9]\d*(?:x[1-9]\d*)*)$")


def resolve(settings: CoordinatorSettings) -> tuple[Plan, Parameters]:
    """The plan the settings ask for, and the parameters a new run starts from."""
    if settings.plan and settings.model:
        raise SettingsError("--plan and --model exclude each other: give one of them")
    if settings.model:
        file = export_module(
            settings.model,
            plain_name(settings.model.rpartition(":")[2]),
            inputs=settings.input,
            classes=settings.classes,
            recipe=settings.recipe,
        )
    elif settings.plan:
        file = plan_file.find(settings.plan)
    else:
        raise SettingsError(f"no plan is given: add --plan with a file or one of {', '.join(plan_file.bundled())}")
    return file.plan, file.initial(settings.seed)


def recommended(settings: CoordinatorSettings) -> tuple[Origin, ...]:
    """What the ``--plan`` would have of ``train`` and ``strategy`` where the settings don't say.

    Nothing where there is no such plan: that is an error of ``start``, not of looking at the settings.
    """
    try:
        plan = plan_file.find(settings.plan).plan if settings.plan else None
        if plan is None:
            return ()
        strategy = in_scale(plan.strategy, settings.strategy.get("name", plan.strategy.name))
    except FedbeatError:
        return ()
    tables = (("train", plan.train, settings.train), ("strategy", strategy, settings.strategy))
    return tuple(
        Origin(f"{table}.{name}", getattr(advice, name), f"plan {plan.name}")
        for table, advice, given in tables
        for name in type(advice).model_fields
        if name not in given and not (name == "local_steps" and given.get("epochs"))  # which give way to epochs
    )


def export_plan(source: str, target: Path, *, name: str | None, **options: object) -> str:
    """Export the class ``source`` names to the file ``target``; what there is to say of it.

    Without a ``name`` the plan has the file's: so ``mine.plan`` has the plan "mine", as bundled plans have it.
    """
    try:
        name = TypeAdapter(Word).validate_python(name or plain_name(target.stem))
    except ValidationError:
        raise SettingsError(
            f"--name {name!r}: give a plan's name 1 to {LONGEST_NAME} letters, digits, blanks and _ . + -, "
            "with a letter or digit first"
        ) from None
    file = export_module(source, name, **options)  # type: ignore[arg-type]  # the command line's own options
    plan_file.write(file, target)
    said = f"{target}: {len(file.plan.operations)} operations, {counted(file.plan.manifest().size, 'parameter')}"
    known = sorted({plan_file.find(name).plan.data for name in plan_file.bundled()} | {"windows"})
    if file.plan.data not in known:
        said += f"\nnote: devices know the recipes {', '.join(known)}; {file.plan.data} must be one of your own on each"
    return said


def export_module(
    source: str,
    name: str,
    *,
    inputs: Sequence[str],
    classes: str,
    report: str | None = None,
    recipe: str = "windows",
    loss: str = "cross_entropy",
) -> PlanFile:
    """The plan of ``FILE.py:CLASS``. Raises ``SettingsError`` for options, ``PlanError`` for the module."""
    shapes = parse_inputs(inputs)
    names = (classes.strip(),) if loss == "mse" and "," not in classes and classes else parse_classes(classes)
    try:
        from coordinator.plan_export import export, load_class  # noqa: PLC0415 - brings PyTorch; averaging needs none
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise PlanError(
            "exporting a model needs PyTorch, which isn't installed here: pip install 'fedbeat[plan]', or export the "
            "model on another machine with `coordinator plan export` and give the file to --plan"
        ) from None

    module = load_class(source)
    return export(
        module,
        name,
        shapes,
        loss=loss,
        classes=names,
        report=report.split(",") if report else None,
        data=recipe,
    )


def plain_name(text: str) -> str:
    """What a plan may be called that has ``text`` for a name: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LONGEST_NAME] or "plan"


def show_plan(name: str) -> str:
    """A plan's inputs, operations and parameters, for people."""
    plan = plan_file.find(name).plan
    size = plan.manifest().size
    lines = [
        f"plan {plan.name}, digest {plan.digest[:12]}, {len(plan.to_bytes())} bytes",
        f"recordings prepared as {plan.data}",
        *(f"input {each.name}: {'x'.join(map(str, each.shape))}" for each in plan.inputs),
        f"classes {', '.join(plan.classes)}; macro-F1 over {', '.join(plan.report)}"
        if plan.learns == "classes"
        else f"learns to make a {plan.classes[0]} from parts of it; no labels",
        f"parameters {size} in {counted(len(plan.parameters), 'tensor')}, {4 * size / 1e3:.1f} kB as float32",
        "",
    ]
    width = max(len(operation.out) for operation in plan.operations)
    shapes = outline(plan)
    lines += [
        f"{step.out:{width}}  {step.op:20} {shapes[step.out]:20} {step.layer}".rstrip() for step in plan.operations
    ]
    return "\n".join(lines)


def plan_json(name: str) -> str:
    """The plan as devices get it."""
    return plan_file.find(name).plan.to_bytes().decode()


def check_plan(name: str) -> str:
    """What a device would say of the plan, in a sentence. Raises ``PlanError`` where it would decline it."""
    plan = plan_file.find(name).plan
    return verdict(plan, plan.train.batch_size)


def parse_inputs(inputs: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes, without the batch, of ``6x150`` or ``signal=1x128`` each."""
    if not inputs:
        raise SettingsError("a model's inputs are needed: add --input 6x150, or --input name=6x150 for each of several")
    shapes: dict[str, tuple[int, ...]] = {}
    for number, text in enumerate(inputs):
        match = _INPUT.match(text)
        if match is None:
            raise SettingsError(f"--input {text!r} is not a shape: write it as 6x150, or name=6x150")
        name = match["name"] or ("input" if len(inputs) == 1 else f"input{number}")
        if name in shapes:
            raise SettingsError(f"--input {name!r} is given twice")
        shapes[name] = tuple(int(size) for size in match["shape"].split("x"))
    return shapes


def parse_classes(classes: str) -> tuple[str, ...]:
    """Names with commas between, or 0 to n-1 for a number n."""
    if not classes:
        raise SettingsError("a model's classes are needed: add --classes 7, or their names with commas between")
    count = int(classes) if classes.isdecimal() else classes.count(",") + 1
    if count not in range(2, MAX_CLASSES + 1):
        raise SettingsError(f"--classes {classes!r}: give at least 2 and at most {MAX_CLASSES} of them")
    if classes.isdecimal():
        return tuple(str(number) for number in range(count))
    names = tuple(name.strip() for name in classes.split(","))
    if not all(names) or len(set(names)) < count:
        raise SettingsError(f"--classes {classes!r}: give each class a name of its own, with commas between")
    return names
