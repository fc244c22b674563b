from __future__ import annotations

from schemas.counted import counted


def test_one_of_something_is_told_in_the_singular_and_any_other_number_in_the_plural() -> None:
    assert [counted(number, "round") for number in range(3)] == ["0 rounds", "1 round", "2 rounds"]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]
