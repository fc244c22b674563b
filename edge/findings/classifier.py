"""What a model takes beats for, run by PyTorch or, without it, by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edge.beats.beat_stream import NOTHING
from edge.dataset import FloatArray
from edge.findings.model_choice import choose
from edge.model_file import Own
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

Run = Callable[[tuple[FloatArray, ...]], NDArray[np.float32]]  # logits (n, C) of n examples


class Related(Protocol):
    """k beats beside their person's own rhythm and dominant beat, as in ``edge.beats.beat_features``."""

    @property
    def rhythm(self) -> FloatArray:
        """float32 (k, 12)."""

    @property
    def shape(self) -> FloatArray:
        """float32 (k, 19)."""

    @property
    def looks(self) -> FloatArray:
        """float32 (k, 18)."""


class BeatClassifier:
    """One model of one plan. Called with k beats, it says of each which of ``CLASSES`` it is."""

    def __init__(self, plan: Plan, own: Own, runtime: Runtime = "auto", name: str = "") -> None:
        """Raises ``PlanError`` where the plan isn't for ECGs, ``SettingsError`` where nothing here can run it.

        ``DataError`` where the owner's labelled beats aren't described as beats are here.
        """
        check_recipe(plan)
        if own.neighbours is not None:
            own.neighbours.evidence(NOTHING.looks)
        self.name = name  # of the model, for people
        self._places = np.array([CLASSES.index(name) for name in plan.classes])
        self._neighbours = own.neighbours
        self._logits = _runner(plan, own.parameters, chosen(runtime))

    @classmethod
    def of(cls, plan_name: str, model: Path | None, runtime: Runtime, state: Path | None = None) -> Self:
        """That of a plan by its name, with the model of a file or of a device's state directory.

        Raises any ``FedbeatError``.
        """
        file = find(plan_name)
        check_recipe(file.plan)
        own, name = choose(file, model, state)
        return cls(file.plan, own, runtime, name)

    def places(self, beats: Related) -> NDArray[np.int64]:
        """The class of each beat (k,), a place in ``CLASSES``."""
        if not len(beats.rhythm):
            return np.empty(0, np.int64)
        logits = self._logits((beats.rhythm, beats.shape))
        if self._neighbours is not None:
            logits = logits + self._neighbours.evidence(beats.looks)
        found: NDArray[np.int64] = self._places[class_of(logits)]
        return found

    def __call__(self, beats: Related) -> list[str]:
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


def _runner(plan: Plan, parameters: Parameters, runtime: Literal["onnx", "torch"]) -> Run:
    if runtime == "onnx":
        from edge.findings.onnx_runtime import Session  # noqa: PLC0415 - one of the two is enough, and may be all there is

        return Session(plan, parameters)
    from edge.findings.assessment import logits  # noqa: PLC0415 - likewise

    return lambda inputs: np.concatenate(list(logits(parameters, inputs, plan)))
