"""``edge evaluate``: how a model does on recordings, beat by beat, in words, as JSON and as a page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge import whole
from edge.dataset import Dataset, FloatArray
from edge.findings import assessment_page
from edge.findings.assessment_page import brackets, examples_of
from edge.findings.model_choice import choose
from edge.model_file import Own
from edge.sources import RECIPES, held_out_owners, open_source, read
from edge.sources.source import Source, left_out
from edge.training import ec57
from edge.training.plan_fit import class_of, fit
from edge.training.plan_runtime import Program
from schemas.errors import DataError, PlanError, SettingsError, StateError
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.plan_file import find

BATCH = 256  # examples at a time


def show(
    plan_name: str,
    model: Path | None,
    data: str,
    people: str,
    page: Path | None,
    *,
    as_json: bool,
    state: Path | None = None,
) -> str:
    """What ``edge evaluate`` prints, the page written. Raises any ``FedbeatError``."""
    figures = assess(plan_name, model, data, people, state)
    if page is not None:
        write_page(figures, page)
    return to_json(figures) if as_json else "\n".join(report(figures))


def assess(plan_name: str, model: Path | None, data: str, people: str, state: Path | None = None) -> dict[str, Any]:
    """All that is known of a model's predictions on ``data``; ``report`` puts it into words.

    ``people`` is "held-out" (those the recipe keeps from training, all where it keeps none), "all", or names with
    commas between. Without ``model`` the plan's initial parameters are taken; with ``state``, a device's state
    directory, the model that device uses. Raises any ``FedbeatError``.
    """
    file = find(plan_name)
    if file.plan.learns != "classes":
        raise PlanError(f"plan {plan_name!r} tells no classes apart: `edge predict` has the scores it gives each beat")
    own, name = choose(file, model, state)
    source = open_source(data, file.plan.data)
    chosen = _people(source, people)
    reading = read(source, chosen, RECIPES[file.plan.data].form)
    dataset = fit(reading.dataset, file.plan)
    predicted = predict(own, dataset, file.plan)
    found = ec57.confusions(dataset.labels, predicted, dataset.owners, file.plan.classes)
    return {
        "plan": file.plan.name,
        "model": name,
        "digest": own.parameters.digest(),
        "data": f"{data}: {source.kind}",
        "notes": [*source.notes, *_seen(source, chosen), *_notes(found)],
        "left_out": dict(reading.rejected),
        **_figures(found, file.plan.report),
    }


def predict(own: Own, data: Dataset, plan: Plan) -> NDArray[np.int64]:
    """The class (n,) a model takes each example for. Raises ``DataError`` where there is none, ``TrainingError``."""
    if not len(data):
        raise DataError("there is no labelled example here: choose other recordings or people")
    found, at = [], 0
    for said in logits(own.parameters, data.inputs, plan):
        decided = said
        if own.neighbours is not None and data.looks is not None:
            decided = said + own.neighbours.evidence(data.looks[at : at + len(said)])
        found.append(class_of(decided))
        at += len(said)
    return np.concatenate(found)


def logits(parameters: Parameters, inputs: tuple[FloatArray, ...], plan: Plan) -> Iterator[NDArray[np.float32]]:
    """What a model makes of examples, one array (n, *shape) for each input of the plan: (b, C) for each batch of b."""
    program, weights = Program(plan, training=False), torch.ones(len(plan.classes))
    arrays = [torch.from_numpy(array.copy()) for array in parameters.arrays().values()]
    for start in range(0, len(inputs[0]), BATCH):
        some = tuple(torch.from_numpy(array[start : start + BATCH]) for array in inputs)
        unknown = torch.zeros(len(some[0]), dtype=torch.int64)  # the loss goes unread
        with torch.inference_mode():
            yield program(arrays, some, unknown, weights)[1].numpy()


def report(figures: dict[str, Any]) -> Iterator[str]:
    """The figures for people."""
    yield f"plan {figures['plan']}, model {figures['model']} ({figures['digest'][:12]})"
    yield f"{figures['data']}; {examples_of(figures)}"
    yield ""
    yield f"accuracy      {_interval(figures['accuracy'])}"
    yield f"macro-F1      {_interval(figures['macro_f1'])}   over {', '.join(figures['reported'])}"
    yield ""
    yield "class   examples  Se                     PPV                    F1"
    for name, one in figures["classes"].items():
        cells = "  ".join(f"{_interval(one[key]):21}" for key in ("Se", "PPV", "F1"))
        yield f"{name:6} {one['examples']:9}  {cells}"
    for name, one in figures["detection"].items():
        yield f"{name + ' detection':16} " + "   ".join(f"{key} {_interval(value)}" for key, value in one.items())
    yield ""
    yield f"{brackets(figures)}; page and JSON have each person's confusion"
    for reason, count in figures["left_out"].items():
        yield f"left out: {left_out(reason, count)}"
    for note in figures["notes"]:
        yield f"note: {note}"


def to_json(figures: dict[str, Any]) -> str:
    """The figures for machines; what can't be reckoned is null."""
    return json.dumps(_finite(figures), indent=2)


def write_page(figures: dict[str, Any], target: Path) -> None:
    """Write the figures as one HTML file. Raises ``StateError``."""
    try:
        with whole.replacing(target, durable=False, mode=0o666) as file:  # less the umask: it is for others to read
            file.write(assessment_page.page(figures).encode())
    except OSError as error:
        raise StateError(f"can't write the page {target}: {error.strerror}; choose another --page") from None


def _people(source: Source, rule: str) -> tuple[str, ...]:
    if rule == "all":
        return source.owners
    if rule == "held-out":
        return held_out_owners(source) or source.owners
    chosen = tuple(name.strip() for name in rule.split(",") if name.strip())
    if not chosen:
        raise SettingsError("nobody is chosen to judge by: name people, or choose `held-out` or `all`")
    if unknown := [name for name in chosen if name not in source.owners]:
        there = ", ".join(source.owners[:20])
        raise SettingsError(f"nobody here is called {', '.join(unknown)}: choose among {there}, or `held-out` or `all`")
    return chosen


def _seen(source: Source, chosen: tuple[str, ...]) -> Iterator[str]:
    """Whether the model may have been trained on those who are to judge it."""
    held_out = held_out_owners(source)
    seen = [person for person in chosen if person not in held_out]
    if seen:
        some = "nobody" if len(seen) == len(chosen) else "not everybody"
        yield f"{some} here is held out from training: where this model was trained on them its figures are too good"


def _notes(found: ec57.Confusions) -> Iterator[str]:
    for name, (person, share) in ec57.dominated(found).items():
        yield f"{share:.0%} of the examples of {name} are {person}'s: its figures are mostly about that person"


def _figures(found: ec57.Confusions, reported: tuple[str, ...]) -> dict[str, Any]:
    gross = found.gross
    places = {name: place for place, name in enumerate(found.classes)}
    statistics = {"Se": ec57.sensitivity, "PPV": ec57.ppv, "F1": ec57.f1}
    detections = {name: ec57.detection(found.classes, name) for name in ec57.DETECTIONS}
    return {
        "examples": int(gross.sum()),
        "reported": list(reported),
        "accuracy": _estimate(found, ec57.accuracy),
        "macro_f1": _estimate(found, ec57.macro_f1([places[name] for name in reported])),
        "classes": {
            name: {"examples": int(gross[place].sum())}
            | {key: _estimate(found, of(place)) for key, of in statistics.items()}
            for name, place in places.items()
        },
        "detection": {
            name: {key: _estimate(found, one) for key, one in statistic.items()}
            for name, statistic in detections.items()
            if statistic is not None
        },
        "confusion": gross.tolist(),
        "patients": {person: counts.tolist() for person, counts in zip(found.people, found.counts, strict=True)},
    }


def _estimate(found: ec57.Confusions, statistic: ec57.Statistic) -> list[float]:
    one = ec57.estimate(found, statistic)
    return [one.value, one.low, one.high]


def _interval(one: list[float]) -> str:
    value, low, high = one
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if math.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
