"""What a model takes beats for, run by PyTorch or, without it, by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from edge.beats.beat_stream import Described
from edge.dataset import Dataset
from edge.findings.model_choice import choose
from edge.sources.ecg_beats import CLASSES, FORM
from edge.training.plan_fit import class_of
from schemas.errors import PlanError, SettingsError
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.plan_file import find

RECIPES: Final = ("ecg-beats", "ecg-weak")  # whose models tell classes
Runtime = Literal["auto", "onnx", "torch"]
RUNTIMES: Final[tuple[Runtime, ...]] = ("auto", "onnx", "torch")
_NEEDED: Final = {"onnx": ("onnx", "onnxruntime"), "torch": ("torch",)}
_EXTRA: Final = {"onnx": "onnx", "torch": "edge"}
_CALLED: Final = {"onnx": "ONNX Runtime", "torch": "PyTorch"}

Predict = Callable[[Dataset], NDArray[np.int64]]


class BeatClassifier:
    """One model of one plan. Called with k beats, it says of each which of ``CLASSES`` it is."""

    def __init__(self, plan: Plan, parameters: Parameters, runtime: Runtime = "auto", name: str = "") -> None:
        """Raises ``PlanError`` where the plan isn't for ECGs, ``SettingsError`` where nothing here can run it."""
        check_recipe(plan)
        self.name = name  # of the model, for people
        self._places = np.array([CLASSES.index(name) for name in plan.classes])
        self._predict = _predictor(plan, parameters, chosen(runtime))

    @classmethod
    def of(cls, plan_name: str, model: Path | None, runtime: Runtime, state: Path | None = None) -> Self:
        """That of a plan by its name, with the model of a file or of a device's state directory.

        Raises any ``FedbeatError``.
        """
        file = find(plan_name)
        check_recipe(file.plan)
        parameters, name = choose(file, model, state)
        return cls(file.plan, parameters, runtime, name)

    def places(self, beats: Described) -> NDArray[np.int64]:
        """The class of each beat (k,), a place in ``CLASSES``."""
        if not len(beats.peaks):
            return np.empty(0, np.int64)
        nobody = np.full(len(beats.peaks), "")
        examples = Dataset((beats.rhythm, beats.shape), np.zeros(len(nobody), np.int64), nobody, CLASSES)
        found: NDArray[np.int64] = self._places[self._predict(examples)]
        return found

    def __call__(self, beats: Described) -> list[str]:
        """The class of each beat by its name."""
        return [CLASSES[place] for place in self.places(beats).tolist()]


def check_recipe(plan: Plan) -> None:
    """Raises ``PlanError`` where a plan isn't for beats of an ECG as they are described here."""
    if plan.data not in RECIPES:
        why = "tells no classes of beats apart" if plan.learns != "classes" else f"is for {plan.data!r}, not for ECGs"
        raise PlanError(f"plan {plan.name!r} {why}: choose ecg-beats")
    if tuple(entry.shape for entry in plan.inputs) != FORM.shapes or not set(plan.classes) <= set(CLASSES):
        raise PlanError(f"plan {plan.name!r} takes or tells something else than this version's beats: choose ecg-beats")


def chosen(runtime: Runtime) -> Literal["onnx", "torch"]:
    """What runs a model here; ``auto`` is ONNX Runtime where it is installed. Raises ``SettingsError``."""
    wanted: tuple[Literal["onnx", "torch"], ...] = ("onnx", "torch") if runtime == "auto" else (runtime,)
    for name in wanted:
        if all(find_spec(package) for package in _NEEDED[name]):
            return name
    extras = " or ".join(f"`pip install 'fedbeat[{_EXTRA[name]}]'`" for name in wanted)
    lacking = "nothing here can run a model" if runtime == "auto" else f"{_CALLED[runtime]} isn't installed here"
    raise SettingsError(f"{lacking}: {extras}")


def _predictor(plan: Plan, parameters: Parameters, runtime: Literal["onnx", "torch"]) -> Predict:
    if runtime == "onnx":
        from edge.findings.onnx_runtime import Session  # noqa: PLC0415 - one of the two is enough, and may be all there is

        session = Session(plan, parameters)
        return lambda data: class_of(session(data.inputs))
    from edge.findings.assessment import predict  # noqa: PLC0415 - likewise

    return lambda data: predict(parameters, data, plan)
