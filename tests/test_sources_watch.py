from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge.dataspec import DataSpec
from edge.sources import load, open_source, prepare, watch
from schemas.errors import DataError


def npy(content: object) -> io.BytesIO:
    """A `.npy` file of one pickled object, as NumPy writes it, around any pickle."""
    payload = content if isinstance(content, bytes) else pickle.dumps(np.array(content, dtype=object), protocol=2)
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    return io.BytesIO(file.getvalue() + payload)


class Runs:
    """Unpickling this would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_ten_people_do_seven_exercises_on_six_axes() -> None:
    dataset = load("watch", "watch")
    assert dataset.shapes == ((6, 150),)
    assert dataset.classes == ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
    assert list(dataset.owner_counts()) == [f"person-{n:02d}" for n in range(1, 11)]
    assert len(dataset) == 3046
    assert min(dataset.class_counts().values()) > 300


def test_windows_are_three_seconds_and_overlap_by_half() -> None:
    recording = np.arange(380 * 6, dtype=np.float64).reshape(380, 6)
    windows = watch.cut_windows(recording)
    assert windows.shape == (4, 6, 150)
    np.testing.assert_array_equal(windows[0, 0, 75:], windows[1, 0, :75])
    np.testing.assert_allclose(windows[2, 4] * 2, recording[150:300, 4])
    np.testing.assert_allclose(windows[2, 1], recording[150:300, 1])


def test_the_last_two_people_are_held_out_and_nobody_else_is_read_for_a_device() -> None:
    evaluator = prepare(DataSpec(path="watch", devices=8, index=-1), "watch")
    assert set(evaluator.held_out.owner_counts()) == {"person-09", "person-10"}
    assert len(evaluator.train) == 0
    for index in (0, 7):
        device = prepare(DataSpec(path="watch", devices=8, index=index), "watch")
        assert set(device.train.owner_counts()) == {f"person-{index + 1:02d}"}
        assert len(device.held_out) == 0


def test_another_file_than_the_known_one_is_not_interpreted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched = tmp_path / "touched"
    other = tmp_path / "watch_dataset.npy"
    other.write_bytes(npy(pickle.dumps(Runs(touched))).getvalue())
    monkeypatch.setattr(watch, "find_recordings", lambda: other)
    with pytest.raises(DataError, match="SHA-256 differs"):
        open_source("watch", "watch")
    assert not touched.exists()


def test_without_seglearn_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(DataError, match=r"pip install --no-deps seglearn==1\.2\.5"):
        open_source("watch", "watch")


def test_arrays_are_read_as_they_were_written() -> None:
    content = {"X": [np.ones((3, 6))], "y": np.array([1, 2])}
    read = watch.read_arrays(npy(content))
    np.testing.assert_array_equal(read["y"], [1, 2])
    np.testing.assert_array_equal(read["X"][0], np.ones((3, 6)))


def test_nothing_loaded_can_run_code(tmp_path: Path) -> None:
    """Invariant 15, even without the digest check; broken by returning ``super().find_class`` from ``find_class``."""
    touched = tmp_path / "touched"
    crafted = [
        pickle.dumps(Runs(touched)),
        pickle.dumps(np.array({"X": Runs(touched)}, dtype=object), protocol=2),
        b"cbuiltins\neval\n(V__import__('pathlib').Path('" + str(touched).encode() + b"').touch()\ntR.",
        b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntVb\ntR.",
    ]
    for payload in crafted:
        with pytest.raises(DataError, match="refused"):
            watch.read_arrays(npy(payload))
    assert not touched.exists()


@pytest.mark.parametrize(
    "payload", [b"", b"\x80\x02", b"garbage.", pickle.dumps(3), pickle.dumps(np.ones(3), protocol=2)]
)
def test_broken_files_are_data_errors(payload: bytes) -> None:
    with pytest.raises(DataError):
        watch.read_arrays(npy(payload))
    with pytest.raises(DataError):
        watch.read_arrays(io.BytesIO(payload))


def test_seglearn_itself_is_never_imported() -> None:
    code = "import sys; from edge.sources import load; load('watch', 'watch'); sys.exit('seglearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
