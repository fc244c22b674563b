from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge.data_show import SHOWN_OWNERS, DataReport, guess, lines, show
from schemas.errors import DataError, SettingsError
from tests.locked_folder import locked_folder
from tests.running_commands import MITDB


def windows(folder: Path) -> str:
    path = folder / "windows.npz"
    np.savez(path, x=np.zeros((20, 3, 8), np.float32), y=np.arange(20) % 2)
    return str(path)


def test_counts_of_classes_and_owners_and_what_was_left_out_are_shown() -> None:
    text = show(str(MITDB / "100"), None, as_json=False)
    assert "prepared as ecg-beats" in text
    assert "2271 examples of 12 and 19" in text
    assert "N 2237, S 33, V 1" in text
    assert "left out: beats too near an end of their record (2)" in text


def test_a_single_record_file_or_example_is_told_in_the_singular(tmp_path: Path) -> None:
    """Seen to fail with `1 WFDB records`."""
    assert f": 1 WFDB record at {MITDB / '100'}, prepared" in show(str(MITDB / "100"), None, as_json=False)
    inputs = np.zeros((2, 3, 8), np.float32)
    inputs[1] = np.nan
    np.savez(tmp_path / "windows.npz", x=inputs, y=np.arange(2) % 2)
    text = show(str(tmp_path), None, as_json=False)
    assert f"windows in 1 file at {tmp_path}" in text
    assert "\n1 example of 3x8\n" in text
    assert "\nleft out: windows with NaN or infinity (1)" in text


def test_as_json_it_is_the_report(tmp_path: Path) -> None:
    report = json.loads(show(windows(tmp_path), "windows", as_json=True))
    assert (report["examples"], report["recipe"], report["classes"]) == (20, "windows", {"0": 10, "1": 10})


def test_the_recipe_is_guessed_from_what_is_there(tmp_path: Path) -> None:
    assert [guess(path) for path in ("watch", "sklearn-digits", str(MITDB), windows(tmp_path))][:3] == [
        "watch",
        "digits",
        "ecg-beats",
    ]


@pytest.mark.parametrize(
    ("shape", "labels", "recipe"),
    [((3, 8), [0, 1], "windows"), ((6, 150), [0, 6], "watch"), ((6, 150), ["left", "right"], "windows")],
)
def test_windows_cut_elsewhere_are_shown_as_the_first_recipe_they_fit_has_them(
    tmp_path: Path, shape: tuple[int, ...], labels: list[object], recipe: str
) -> None:
    np.savez(tmp_path / "windows.npz", x=np.zeros((20, *shape), np.float32), y=np.array(labels * 10))
    report = json.loads(show(str(tmp_path), None, as_json=True))
    assert (report["recipe"], report["examples"]) == (recipe, 20)


def test_what_is_wrong_with_windows_that_fit_nothing_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "windows.npz", x=np.full((20, 3, 8), np.nan, np.float32), y=np.arange(20) % 2)
    with pytest.raises(DataError, match="no usable window: 20 rows, all with NaN or infinity"):
        show(str(tmp_path), None, as_json=False)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (None, "there is nothing at"),
        ("folder", "is empty: put recordings there"),
        ("file", "holds no recordings that can be read; these can: "),
    ],
)
def test_what_no_recipe_can_read_is_told_with_all_that_could_be(tmp_path: Path, make: str | None, words: str) -> None:
    path = tmp_path / "thing"
    if make == "folder":
        path.mkdir()
    elif make == "file":
        path.write_text("words")
    with pytest.raises(DataError) as error:
        show(str(path), None, as_json=False)
    for each in (words, "WFDB", "`watch`", ".csv"):
        assert each in str(error.value)


def test_an_unknown_recipe_is_told_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"'nope' is not known: use one of ecg-beats, ecg-weak, ecg-masked, watch"):
        show("watch", "nope", as_json=False)


def test_of_many_owners_the_first_are_named_and_the_rest_counted() -> None:
    owners = {f"person-{number:02d}": 1 for number in range(SHOWN_OWNERS + 5)}
    report = DataReport(
        path="x",
        kind="windows",
        recipe="windows",
        examples=35,
        shapes=((3, 8),),
        classes={"calm": 35},
        owners=owners,
        held_out=(),
        rejected={},
        notes=("a note",),
    )
    text = "\n".join(lines(report))
    assert f"person-{SHOWN_OWNERS - 1} 1 and 5 more" in text
    assert "note:     a note" in text
    assert "held out: the newest fifth" in text
    shared = "\n".join(lines(report.model_copy(update={"held_out": ("person-33", "person-34")})))
    assert "held out: person-33, person-34 by virtual devices; `edge run` trains on them too unless" in shared


def test_what_may_not_be_read_is_told_in_a_sentence() -> None:
    """Seen to fail without ``reading`` in ``guess``."""
    with locked_folder() as folder, pytest.raises(DataError, match="Permission denied; see to its permissions"):
        show(str(folder), None, as_json=False)
