"""``coordinator export``: a global model out of the state directory, as plain safetensors."""

from __future__ import annotations

from pathlib import Path

from coordinator.journal import newest_version
from coordinator.models import ModelStore
from schemas.errors import StateError


def export_model(state: Path, version: int | None, target: Path) -> str:
    """Write ``version``, or the newest that the journal has, to ``target``; what there is to say of it.

    A file may be ahead of the journal, by a round that is then made anew. Raises ``StateError``.
    """
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
    store.export(wanted, target)
    return f"model {wanted} written to {target}"
