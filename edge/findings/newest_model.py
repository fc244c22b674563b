"""The newest model that a device holds, ready to classify beats; looked up beside its agent.

It is the federation's, or where the owner wants one of their own, the one made of that where it is better. The newest
global one is used until there is: how good a model of an earlier one is beside it, nobody has looked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge.core.personal_settings import Origin
from edge.findings.classifier import BeatClassifier, Related, Runtime, check_recipe
from edge.findings.onnx_runtime import BATCH
from edge.model_file import Own, own_from_bytes
from edge.model_reader import ModelReader
from edge.store import look, look_own
from schemas.errors import DataError, ModelError, PlanError, StateError, WireError
from schemas.messages import ModelPointer
from schemas.plan import Plan
from schemas.plan_cost import Limits, check


class NewestModel:
    """The model in a device's state directory. ``look`` again after a while: it may be another."""

    def __init__(self, state: Path, runtime: Runtime = "auto", *, personal: bool = False) -> None:
        """Nothing is read yet. ``personal``: whether the owner's own model is used where it is the better one."""
        self._state = state
        self._runtime = runtime
        self._personal = personal
        self._reader = ModelReader()
        self._pointer: ModelPointer | None = None
        self._plan = b""
        self._own: Origin | None = None  # where what is used is the owner's own
        self._refused: Origin | None = None  # of an own model that can't be used
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
        own, trouble = self._look_own(held.pointer)
        refused = own is not None and own[0] == self._refused
        wanted = None if own is None or refused else own[0]
        trouble = self.trouble if refused else trouble
        if self._has(held.pointer, plan_bytes, wanted):
            self.trouble = trouble
            return True
        try:
            plan = Plan.from_bytes(plan_bytes)
            check_recipe(plan)
            check(plan, BATCH, Limits())  # what comes from a broker may claim to be of any size
            classifier = None
            if own is not None and not refused:
                classifier, trouble = self._of_own(own, plan)
            if classifier is None:
                wanted, parameters = None, self._reader.read(held.lineage.pack(), plan.manifest())
                classifier = BeatClassifier(plan, Own(parameters), self._runtime)
            self._classifier, self._own, self.trouble = classifier, wanted, trouble
            self._pointer, self._plan = held.pointer, plan_bytes
        except (PlanError, WireError, ModelError, StateError) as error:  # also between one run's and another's
            self.trouble = f"no findings by the newest model: {error}"
        return self._classifier is not None

    def _look_own(self, pointer: ModelPointer) -> tuple[tuple[Origin, bytes] | None, str]:
        """The owner's own model of this global one, where it is wanted and better; or why it can't be read."""
        try:
            return (look_own(self._state, pointer) if self._personal else None), ""
        except StateError as error:
            return None, f"findings are by the global model: {error}"

    def _of_own(self, own: tuple[Origin, bytes], plan: Plan) -> tuple[BeatClassifier | None, str]:
        """The owner's own model; or why it can't be used, which holds until there is another."""
        try:
            return BeatClassifier(plan, own_from_bytes(own[1], plan, "the owner's own model"), self._runtime), ""
        except (PlanError, StateError, DataError) as error:
            self._refused = own[0]
            return None, f"findings are by the global model: {error}"

    def _has(self, pointer: ModelPointer, plan: bytes, own: Origin | None) -> bool:
        """Whether there is nothing newer or better in these than what is used."""
        ours = self._pointer
        if ours is None or pointer.run != ours.run:
            return False
        return pointer.version < ours.version or (pointer == ours and (plan, own) == (self._plan, self._own))

    def classify(self, beats: Related) -> list[str]:
        """The class of each beat by its name; after a ``look`` that found a model."""
        assert self._classifier is not None, "no model was found yet"
        return self._classifier(beats)

    @property
    def name(self) -> str:
        """For people."""
        assert self._pointer is not None, "no model was found yet"
        owners = "" if self._own is None else "the owner's own of "
        return f"{owners}model {self._pointer.version} of run {self._pointer.run}"

    @property
    def about(self) -> dict[str, Any]:
        """Which it is, as findings say it."""
        assert self._pointer is not None, "no model was found yet"
        own = {} if self._own is None else {"personal": True}
        return {"run": self._pointer.run, "model_version": self._pointer.version, **own}
