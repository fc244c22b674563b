"""The newest model of the federation that a device holds, ready to classify beats; looked up beside its agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge.beat_stream import Described
from edge.classifier import BeatClassifier, Runtime, check_recipe
from edge.model_reader import ModelReader
from edge.onnx_runtime import BATCH
from edge.store import look
from schemas.errors import ModelError, PlanError, WireError
from schemas.messages import ModelPointer
from schemas.plan import Plan
from schemas.plan_cost import Limits, check


class NewestModel:
    """The model in a device's state directory. ``look`` again after a while: it may be another."""

    def __init__(self, state: Path, runtime: Runtime = "auto") -> None:
        """Nothing is read yet."""
        self._state = state
        self._runtime = runtime
        self._reader = ModelReader()
        self._pointer: ModelPointer | None = None
        self._plan = b""
        self._classifier: BeatClassifier | None = None
        self.trouble = ""  # why the newest model isn't used, where it isn't

    def look(self) -> bool:
        """Take the newest model there is, for ECGs; whether there is one, the one before included.

        An earlier version of the same run is none: while steps are merged there may seem to be no newer one. Nor is
        version 0, drawn at random as a rule: what it takes a beat for is chance, and so would its alerts be.

        Raises ``SettingsError`` where nothing here can run a model.
        """
        found = look(self._state)
        if found is None:
            return self._classifier is not None
        held, plan_bytes = found
        if held.pointer.version == 0:
            self.trouble = "no findings by a model that nobody has trained yet: they wait for the end of a round"
            return self._classifier is not None
        if self._has(held.pointer, plan_bytes):
            self.trouble = ""
            return True
        try:
            plan = Plan.from_bytes(plan_bytes)
            check_recipe(plan)
            check(plan, BATCH, Limits())  # what comes from a broker may claim to be of any size
            parameters = self._reader.read(held.lineage.pack(), plan.manifest())
            self._classifier = BeatClassifier(plan, parameters, self._runtime)
            self._pointer, self._plan, self.trouble = held.pointer, plan_bytes, ""
        except (PlanError, WireError, ModelError) as error:  # also while one run's take the place of another's
            self.trouble = f"no findings by the newest model: {error}"
        return self._classifier is not None

    def _has(self, pointer: ModelPointer, plan: bytes) -> bool:
        """Whether there is nothing newer in these than what is used."""
        ours = self._pointer
        if ours is None or pointer.run != ours.run:
            return False
        return pointer.version < ours.version or (pointer == ours and plan == self._plan)

    def classify(self, beats: Described) -> list[str]:
        """The class of each beat by its name; after a ``look`` that found a model."""
        assert self._classifier is not None, "no model was found yet"
        return self._classifier(beats)

    @property
    def name(self) -> str:
        """For people."""
        assert self._pointer is not None, "no model was found yet"
        return f"model {self._pointer.version} of run {self._pointer.run}"

    @property
    def about(self) -> dict[str, Any]:
        """Which it is, as findings say it."""
        assert self._pointer is not None, "no model was found yet"
        return {"run": self._pointer.run, "model_version": self._pointer.version}
