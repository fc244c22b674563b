"""``coordinator export``: a global model out of the state directory, as plain safetensors or as an ONNX model."""

from __future__ import annotations

from pathlib import Path

from coordinator.journal import last_settings, newest_version
from coordinator.models import ModelStore, place_whole
from schemas.errors import PlanError, SettingsError, StateError
from schemas.plan_file import bundled, find
from schemas.plan_onnx import to_onnx


def export_model(state: Path, version: int | None, target: Path) -> str:
    """Write ``version``, or the newest that the journal has, to ``target``; what there is to say of it.

    A file may be ahead of the journal, by a round that is then made anew. Raises ``StateError``.
    """
    store, wanted = _chosen(state, version)
    _spare(state, target)
    store.export(wanted, target)
    return f"model {wanted} written to {target}"


def export_onnx(state: Path, version: int | None, plan_name: str | None, target: Path) -> str:
    """Write ``version``, or the newest, of the plan ``plan_name`` to ``target``, for ONNX Runtime and its like.

    Where no plan is named it is the run's. Raises ``StateError``, ``PlanError`` where the plan is another or can't be
    written so, ``SettingsError``.
    """
    store, wanted = _chosen(state, version)
    plan = find(plan_name or plan_of_run(state)).plan
    _spare(state, target)
    parameters = store.load(wanted).parameters
    if parameters.manifest != plan.manifest():
        raise PlanError(f"model {wanted} in {state} is of another plan than {plan.name!r}: choose its own with --plan")
    model = to_onnx(plan, parameters)
    place_whole(target, model)
    return f"model {wanted} written to {target} as ONNX, {len(model)} bytes"


def plan_of_run(state: Path) -> str:
    """The name of the bundled plan that the run in ``state`` is of. ``SettingsError`` where only a file can tell it."""
    journal = state / "journal.db"
    settings = last_settings(journal) if journal.exists() else None
    if settings is None:
        raise SettingsError("which plan the model is of must be said: add --plan PLAN")
    name, digest = settings.plan.name, settings.plan.blob.digest
    if name not in bundled() or find(name).plan.digest != digest:  # somebody's own, or of another release
        raise SettingsError(
            f"the run is of a plan {name!r} that doesn't come with this Fedbeat: add --plan with its file"
        )
    return name


def _spare(state: Path, target: Path) -> None:
    """Raise ``StateError`` where ``target`` is one of the files that the run goes on from."""
    place, home = target.resolve(), state.resolve()
    if place.parent == home / "models" or (place.parent == home and place.name.startswith("journal.db")):
        raise StateError(f"{target} is the coordinator's own, and the run goes on from it: give another file")


def _chosen(state: Path, version: int | None) -> tuple[ModelStore, int]:
    """Where the models are, and which of them is meant."""
    if not (state / "models").is_dir():  # the store would make it
        raise StateError(f"there is no model in {state}: give the coordinator's --state directory")
    store = ModelStore(state / "models")
    kept = store.versions()
    if not kept:
        raise StateError(f"there is no model in {state} yet: let the coordinator start a run")
    journal = state / "journal.db"
    newest = newest_version(journal) if journal.exists() else kept[-1]  # where the models alone were copied here
    wanted = newest if version is None else version
    if wanted is None or wanted not in kept:
        raise StateError(f"there is no model {wanted} in {state}: give one of --version {', '.join(map(str, kept))}")
    return store, wanted
