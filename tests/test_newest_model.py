"""Which model a device's findings are by, as what is on its disk comes, goes and is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.findings.newest_model import NewestModel
from edge.store import PERSONAL, Store
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


@pytest.mark.parametrize("known", [True, False])
def test_where_the_owners_own_model_is_damaged_the_global_one_is_used_and_that_is_said(
    tmp_path: Path, *, known: bool
) -> None:
    """Seen to fail where its error ended the finder, and where a device that has just started had no findings."""
    newest = NewestModel(tmp_path, "onnx", personal=True)
    hold(tmp_path)
    assert not known or newest.look()
    hold_own(tmp_path)
    store = Store(tmp_path, print)
    own = store.personal()
    assert own is not None
    store.keep_personal(own[0], b"rubbish")
    used = None
    for _ in range(2):
        assert newest.look()
        used = newest._classifier if used is None else used
        assert newest._classifier is used  # it isn't read anew at each look
        assert newest.about == THIRD
        assert "findings are by the global model: the owner's own model is no model" in newest.trouble
    (tmp_path / PERSONAL).write_bytes(b"not even a file of ours")
    assert newest.look()
    assert newest.about == THIRD
    assert newest.trouble == f"findings are by the global model: {tmp_path / PERSONAL} is damaged"
    (tmp_path / PERSONAL).unlink()
    assert newest.look()
    assert newest.trouble == ""
    hold(tmp_path, version=4)
    hold_own(tmp_path, version=4)
    assert newest.look()
    assert newest.about == {"run": "run-1", "model_version": 4, "personal": True}
    assert newest.trouble == ""
