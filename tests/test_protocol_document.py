"""The protocol's document and its tests name the same numbers."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


def test_every_must_of_the_protocol_has_a_test_and_every_test_names_a_must_there_is() -> None:
    """Seen to fail with a 34th MUST in the document, and with a test named must_00."""
    numbered = [int(number) for number in re.findall(r"^(\d+)\. ", DOCUMENT, re.MULTILINE)]
    assert sorted(numbered) == list(range(1, len(numbered) + 1))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").glob("test_*.py")))
    named = {int(number) for number in re.findall(r"def test_\w*?must_(\d\d)", tests)}
    assert named == set(numbered)
