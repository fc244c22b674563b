"""Which model a device's findings are by, as what is on its disk comes, goes and is damaged."""

from __future__ import annotations

from pathlib import Path

from edge.findings.newest_model import NewestModel
from edge.store import Store
from tests.test_finder_child import hold, hold_own

THIRD = {"run": "run-1", "model_version": 3}


def test_a_model_is_used_on_while_the_newest_is_one_that_nobody_has_trained(tmp_path: Path) -> None:
    """At the beginning of a run, that is. Seen to fail where findings ended with it."""
    newest = NewestModel(tmp_path, "onnx")
    hold(tmp_path)
    assert newest.look()
    hold(tmp_path, version=0)
    assert newest.look()
    assert newest.about == THIRD
    assert "nobody has trained" in newest.trouble


def test_a_damaged_model_of_the_owners_own_is_not_used_and_that_is_said(tmp_path: Path) -> None:
    """Seen to fail where its error ended the finder."""
    newest = NewestModel(tmp_path, "onnx", personal=True)
    hold(tmp_path)
    assert newest.look()
    hold_own(tmp_path)
    store = Store(tmp_path, print)
    own = store.personal()
    assert own is not None
    store.keep_personal(own[0], b"rubbish")
    assert newest.look()
    assert newest.about == THIRD
    assert "the owner's own model is no model" in newest.trouble
