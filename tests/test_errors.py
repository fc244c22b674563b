import re
from pathlib import Path

import pytest

from schemas import errors
from schemas.command_line import EXIT_CODES
from schemas.errors import FedbeatError, Reject, WireError


def _tree(error: type[FedbeatError]) -> list[type[FedbeatError]]:
    return [
        error,
        *(child for sub in error.__subclasses__() for child in _tree(sub) if child.__module__ == errors.__name__),
    ]


def test_every_error_is_in_the_tree_that_the_module_draws() -> None:
    drawn = set(re.findall(r"[|`]-- (\w+)", errors.__doc__ or "")) | {"FedbeatError"}
    assert drawn == {error.__name__ for error in _tree(FedbeatError)}


@pytest.mark.parametrize("error", _tree(FedbeatError), ids=lambda error: error.__name__)
def test_the_exit_code_is_the_one_the_module_names(error: type[FedbeatError]) -> None:
    line = next((line for line in (errors.__doc__ or "").splitlines() if f"-- {error.__name__}" in line), "")
    if named := re.search(r"\(exit (\d+)\)", line):
        assert error.exit_code == int(named[1])
    else:  # it ends as its parent does
        assert error.exit_code == getattr(error.__base__, "exit_code", 1)


def test_the_kinds_of_failure_a_script_tells_apart_have_codes_of_their_own() -> None:
    codes = [error.exit_code for error in FedbeatError.__subclasses__() if error is not WireError]
    assert len(set(codes)) == len(codes)
    assert not {0, 1} & set(codes)


def test_every_exit_code_is_in_the_help_and_in_the_operations_page() -> None:
    """Seen to fail: TrainingError's 8 was in neither."""
    page = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", page[page.index("## Exit codes") :], re.MULTILINE)}
    told = {int(code) for code in re.findall(r"(\d+) [a-z]", EXIT_CODES)}
    assert table == told == {0, 1, 130} | {error.exit_code for error in _tree(FedbeatError)}


def test_a_wire_error_carries_its_reason_for_counting_and_its_detail_for_reading() -> None:
    error = WireError(Reject.TOO_LARGE, "70000 bytes")
    assert (error.reason, error.detail, str(error)) == (Reject.TOO_LARGE, "70000 bytes", "too-large: 70000 bytes")


def test_reasons_are_words_that_can_be_a_counters_name() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", reason) for reason in Reject)
