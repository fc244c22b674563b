"""``coordinator export``: a global model out of the state directory, as plain safetensors."""

from __future__ import annotations

from pathlib import Path

from coordinator.models import ModelStore
from schemas.errors import StateError


def export_model(state: Path, version: int | None, target: Path) -> str:
    """Write ``version``, or the newest, to ``target``; what there is to say of it. Raises ``StateError``."""
    if not (state / "models").is_dir():  # the store would make it
        raise StateError(f"there is no model in {state}: give the coordinator's --state directory")
    store = ModelStore(state / "models")
    kept = store.versions()
    if not kept:
        raise StateError(f"there is no model in {state} yet: let the coordinator start a run")
    wanted = kept[-1] if version is None else version
    if wanted not in kept:
        raise StateError(f"there is no model {wanted} in {state}: give one of --version {', '.join(map(str, kept))}")
    store.export(wanted, target)
    return f"model {wanted} written to {target}"
