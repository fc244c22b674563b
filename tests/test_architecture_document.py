"""The document's list of rooms, for whoever looks for one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["edge", "coordinator", "schemas"])
def test_every_room_of_a_package_is_in_the_list(package: str) -> None:
    """Seen to fail: four were not."""
    listed = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    own = re.search(rf"^{package}/.*?(?=^\w|\Z)", listed, re.DOTALL | re.MULTILINE)
    assert own is not None
    rooms = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__", "__main__"}
    assert rooms <= set(re.findall(r"\w+", own.group()))
