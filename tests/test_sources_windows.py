from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge.data_show import describe
from edge.dataspec import DataSpec
from edge.sources import load, prepare
from schemas.errors import DataError, SettingsError
from tests.locked_folder import locked_folder


def csv_file(folder: Path, text: str, name: str = "mine.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def npz_file(folder: Path, **arrays: object) -> str:
    np.savez(folder / "mine.npz", **arrays)  # type: ignore[arg-type]  # its stub mistakes keywords for allow_pickle
    return str(folder / "mine.npz")


def test_csv_rows_are_windows_of_one_channel(tmp_path: Path) -> None:
    dataset = load(csv_file(tmp_path, "label,a,b,c\nwalk,1,2,3\nrun,4,5,6\n"), "windows")
    assert dataset.shapes == ((1, 3),)
    assert dataset.classes == ("run", "walk")
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.inputs[0].tolist() == [[[1, 2, 3]], [[4, 5, 6]]]
    assert dataset.owner_counts() == {"mine": 2}


def test_a_folder_that_may_not_be_read_is_told_with_what_to_do() -> None:
    """Seen to fail with a ``PermissionError`` without ``reading``."""
    with locked_folder() as folder, pytest.raises(DataError) as error:
        load(str(folder), "windows")
    assert str(error.value) == f"can't read {folder}: Permission denied; see to its permissions, and to the disk"


def test_csv_columns_named_by_channel_give_channels(tmp_path: Path) -> None:
    dataset = load(csv_file(tmp_path, "ax.0,ax.1,ay.0,ay.1,owner,label\n1,2,3,4,eve,0\n5,6,7,8,bob,2\n"), "windows")
    assert dataset.inputs[0].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert dataset.classes == ("0", "1", "2")
    assert dataset.owner_counts() == {"bob": 1, "eve": 1}


def test_npz_arrays_are_windows_labels_and_owners(tmp_path: Path) -> None:
    windows = np.arange(24, dtype=np.float64).reshape(4, 2, 3)
    path = npz_file(
        tmp_path, x=windows, y=np.array([0, 1, 1, 0]), owner=np.array([7, 7, 8, 8]), classes=np.array(["no", "yes"])
    )
    dataset = load(path, "windows")
    np.testing.assert_array_equal(dataset.inputs[0], windows.astype(np.float32))
    assert dataset.class_counts() == {"no": 2, "yes": 2}
    assert dataset.owner_counts() == {"7": 2, "8": 2}


def test_npz_can_hold_several_inputs_for_a_recipe_that_has_them(tmp_path: Path) -> None:
    path = npz_file(tmp_path, x0=np.zeros((3, 12)), x1=np.ones((3, 19)), y=np.array(["N", "V", "S"]))
    dataset = load(path, "ecg-beats")
    assert dataset.shapes == ((12,), (19,))
    assert dataset.class_counts() == {"N": 1, "S": 1, "V": 1, "F": 0, "Q": 0}


def test_a_folder_of_files_is_a_person_a_file(tmp_path: Path) -> None:
    csv_file(tmp_path, "label,a\nx,1\nx,2\n", "eve.csv")
    csv_file(tmp_path, "label,a\ny,3\n", "bob.csv")
    (tmp_path / "readme.txt").write_text("not data")
    dataset = load(str(tmp_path), "windows")
    assert dataset.owner_counts() == {"bob": 1, "eve": 2}
    assert dataset.classes == ("x", "y")
    assert (
        prepare(DataSpec(path=str(tmp_path), devices=2, index=1, held_out="none"), "windows").train.owners[0] == "eve"
    )


def test_whole_people_are_held_out_where_there_are_five_or_more(tmp_path: Path) -> None:
    for person in "abcde":
        csv_file(tmp_path, "label,v\n" + "".join(f"{n % 2},{n}\n" for n in range(10)), f"{person}.csv")
    assert list(prepare(DataSpec(path=str(tmp_path), devices=4, index=-1), "windows").held_out.owner_counts()) == ["e"]
    (tmp_path / "e.csv").unlink()
    evaluator = prepare(DataSpec(path=str(tmp_path), devices=4, index=-1), "windows")
    assert evaluator.held_out.owner_counts() == {"a": 2, "b": 2, "c": 2, "d": 2}
    assert any("same people" in note for note in evaluator.notes)


def test_a_fraction_is_held_out_by_each_device_of_its_own_newest(tmp_path: Path) -> None:
    rows = "label,owner,v\n" + "".join(f"0,{'ab'[n % 2]},{n}\n" for n in range(20))
    spec = DataSpec(path=csv_file(tmp_path, rows), devices=2, index=1, held_out="0.2", partition="owner")
    prepared = prepare(spec, "windows")
    assert prepared.held_out.inputs[0].ravel().tolist() == [17, 19]
    assert len(prepared.train) == 8
    with pytest.raises(DataError, match="leaves an evaluator nothing"):
        prepare(spec.model_copy(update={"index": -1}), "windows")


def test_windows_with_gaps_are_rejected_and_counted(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "label,a,b\n0,1,2\n1,nan,2\n1,,2\n0,1,inf\n0,1e300,2\n1,3,4\n")
    report = describe(path, "windows")
    assert report.examples == 2
    assert report.rejected == {"windows with NaN or infinity": 4}
    assert report.classes == {"0": 1, "1": 1}
    prepared = prepare(DataSpec(path=path, held_out="none"), "windows")
    assert prepared.rejected == {"windows with NaN or infinity": 4}
    assert "left out: windows with NaN or infinity (4)" in prepared.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column `label`"),
        ("", "no column `label`"),
        ("label,a\n", "has a header but no window"),
        ("label\nx\n", "no column of values"),
        ("label,a\n,1\n", "line 2 has no label"),
        ("label,a\nx,1,2\n", "line 2 has more cells than the header"),
        ("label,a,a\nx,1,2\n", "two columns of the same name"),
        ("label,a\nx,high\n", "line 2: .*must be numbers"),
        ("label,a,b\nx,1\n", "no usable window"),
        ("label,a\n" + "9" * 5000 + ",nan\n", "no usable window"),
        ("label,a\nx,nan\n", "no usable window"),
        ("label,p.0,p.1,q.0\nx,1,2,3\n", "equal lengths"),
        ("label,p.0,q.0,p.1,q.1\nx,1,2,3,4\n", "keep the columns of one channel together"),
    ],
)
def test_csv_that_is_no_windows_says_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(csv_file(tmp_path, text), "windows")


def test_files_that_are_not_what_they_are_called_are_data_errors(tmp_path: Path) -> None:
    for name, content in (("a.csv", b"label,a\nx,\xff\xfe"), ("b.npz", b"PK not really"), ("c.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="can't be read"):
            load(str(tmp_path / name), "windows")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros(2, int)}, "no array `x`"),
        ({"x": np.zeros((2, 3))}, "no array `y`"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(3, int)}, r"`x` must be numbers \(3, ...\)"),
        ({"x": np.zeros(2), "y": np.zeros(2, int)}, r"`x` must be numbers \(2, ...\)"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(2)}, "`y` must be one whole number or name"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0, int)}, "`y` must be one whole number or name"),
        ({"x": np.array([["a"], ["b"]]), "y": np.zeros(2, int)}, "`x` must be numbers"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(2, int), "owner": np.zeros(3)}, "`owner` must name one owner"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, 5]), "classes": np.array(["a", "b"])}, "labels 5 are none of"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, 5000])}, "none of the classes|more than 1000"),
        ({"x": np.array([[object()], [1]]), "y": np.zeros(2, int)}, "can't be read as NPZ of plain arrays"),
    ],
)
def test_npz_that_is_no_windows_says_what_to_do(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(npz_file(tmp_path, **arrays), "windows")


def test_windows_of_another_shape_than_the_recipes_are_refused(tmp_path: Path) -> None:
    npz = npz_file(tmp_path, x=np.zeros((2, 6, 100)), y=np.zeros(2, int))
    with pytest.raises(DataError, match="examples have shape 6x100, but recipe 'watch' needs 6x150"):
        load(npz, "watch")
    with pytest.raises(DataError, match="has 1 values a window, but recipe 'watch' needs 6x150"):
        load(csv_file(tmp_path, "label,a\nPEN,1\n"), "watch")
    with pytest.raises(DataError, match="2 inputs, which a CSV can't hold: use NPZ"):
        load(csv_file(tmp_path, "label,a\nN,1\n"), "ecg-beats")
    with pytest.raises(DataError, match="none of the classes PEN, ABD"):
        load(npz_file(tmp_path, x=np.zeros((1, 6, 150)), y=np.array(["JUMP"])), "watch")


def test_files_of_one_folder_have_one_shape(tmp_path: Path) -> None:
    csv_file(tmp_path, "label,a\nx,1\n", "a.csv")
    csv_file(tmp_path, "label,a,b\nx,1,2\n", "b.csv")
    with pytest.raises(DataError, match="different shapes"):
        load(str(tmp_path), "windows")


def test_an_unknown_recipe_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match="recipe 'soup' is not known: use one of ecg-beats, ecg-weak, ecg-masked, watch"
    ):
        load(str(tmp_path), "soup")


def test_a_row_with_fewer_cells_than_the_header_is_left_out_and_costs_nothing(tmp_path: Path) -> None:
    """Forty thousand columns and fifty thousand short rows took minutes. Seen to fail with ``csv.DictReader``."""
    header = "label," + ",".join(f"{at}" for at in range(40_000))
    path = csv_file(tmp_path, header + "\n" + "0\n" * 50_000)
    with pytest.raises(DataError, match="50000 rows, all with fewer cells"):
        load(path, "windows")
    report = describe(csv_file(tmp_path, "label,a,b\n0,1,2\n1,1\n1,2,3\n"), "windows")
    assert (report.examples, report.rejected) == (2, {"windows with NaN or infinity": 1})


def test_labels_of_thousands_of_digits_are_names(tmp_path: Path) -> None:
    """Python makes no number of them. Seen to fail with ``label.isdigit()`` alone."""
    assert load(csv_file(tmp_path, "label,a\n" + "9" * 5000 + ",1\n0,2\n"), "windows").classes == ("0", "9" * 5000)


@pytest.mark.parametrize("shape", ["(4294967296, 1)", "(1073741824, 1)"])
def test_an_array_that_claims_more_than_is_ever_read_is_refused_before_it_is_allocated(
    tmp_path: Path, shape: str
) -> None:
    """Seen to fail without ``_claimed``, by running out of memory."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as packed:
        packed.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match="more than 1024 MiB"):
        load(str(tmp_path / "a.npz"), "windows")


def test_what_is_called_npz_and_is_npy_is_refused(tmp_path: Path) -> None:
    """Seen to fail with ``np.load`` alone, which takes it, and gives what can't be closed."""
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(DataError, match="can't be read as NPZ"):
        load(str(tmp_path / "a.npz"), "windows")
