"""The document's list of rooms, for whoever looks for one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["edge", "coordinator", "schemas"])
def test_every_room_of_a_package_is_in_the_list(package: str) -> None:
    """Seen to fail: four were not."""
    own = listed(rf"^{package}/.*?(?=^\w|\Z)")
    assert rooms(ROOT / package) <= own


@pytest.mark.parametrize("floor", ["core", "trainer", "training", "beats", "record", "label", "findings"])
def test_every_room_of_a_device_is_on_its_floor(floor: str) -> None:
    """Seen to fail with one of them under another heading."""
    own = listed(rf"^  {floor}/.*?(?=^  \w+/|^\w)")
    assert rooms(ROOT / "edge" / floor) <= own


def listed(section: str) -> set[str]:
    """The rooms in the part of the list that ``section`` matches: what stands in a line before the gap."""
    whole = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    found = re.search(section, whole, re.DOTALL | re.MULTILINE)
    assert found is not None
    names = (re.split(r"\s{2,}", line.strip())[0] for line in found.group().splitlines())
    return {word for name in names for word in re.findall(r"\w+", name)}


def rooms(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
