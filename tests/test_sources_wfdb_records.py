from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import wfdb
from numpy.typing import NDArray

from edge.beats import ecg
from edge.data_show import describe
from edge.dataset import Dataset
from edge.dataspec import DataSpec
from edge.record.label_files import glance_at
from edge.sources import load, open_source, prepare, wfdb_records
from edge.sources.wfdb_records import DS1, DS2, PACED, read_lead
from schemas.errors import DataError
from tests.locked_folder import locked_folder

MITDB = Path(os.environ.get("FEDBEAT_MITDB", Path(__file__).parents[2] / "shared" / "data" / "mitdb"))


def write_record(
    folder: Path, name: str, symbols: str = "NNNNANNNVNNN", lead: str = "MLII", second: str | None = None
) -> None:
    """A record of one beat a second at 360 Hz, the R wave upright; the second lead, if any, has it inverted."""
    samples = 360 * (len(symbols) + 1)
    peaks = np.arange(1, len(symbols) + 1) * 360
    wave = sum(np.exp(-0.5 * ((np.arange(samples) - peak) / 5) ** 2) for peak in peaks)
    leads = [lead] if second is None else [lead, second]
    wfdb.wrsamp(
        name,
        fs=360,
        units=["mV"] * len(leads),
        sig_name=leads,
        p_signal=np.stack([wave, -wave][: len(leads)], axis=1),
        fmt=["16"] * len(leads),
        write_dir=str(folder),
    )
    if symbols:
        wfdb.wrann(name, "atr", peaks, list(symbols), write_dir=str(folder))


def test_every_beat_of_the_database_is_counted_in_its_aami_class() -> None:
    """Against the database's own table of beat types, record by record, but for beats cut off by a record's ends."""
    with (MITDB / "beat-types.csv").open() as stream:
        expected: Counter[str] = Counter()
        for row in csv.DictReader(stream):
            if row["record"] in DS1 + DS2:
                for symbol in set(row) & ecg.AAMI_OF_SYMBOL.keys():
                    expected[ecg.AAMI_OF_SYMBOL[symbol]] += int(row[symbol])
    report = describe(str(MITDB), "ecg-beats")
    lost = report.rejected["beats too near an end of their record"]
    assert lost < 44
    assert sum(expected.values()) - report.examples == lost
    assert all(0 <= expected[name] - count <= lost for name, count in report.classes.items())
    assert set(report.owners) == set(DS1 + DS2)
    assert report.rejected["records with paced beats"] == 4
    assert report.held_out == DS2


def test_the_published_split_has_each_patient_once() -> None:
    assert len(DS1) == len(DS2) == 22
    assert not set(DS1) & set(DS2)
    assert not set(PACED) & set(DS1 + DS2)


def test_one_patient_is_one_device_and_only_its_record_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    read = wfdb_records._read_record

    def watched(owner: str, record: Path, rejected: Counter[str]) -> Dataset:
        seen.append(record.name)
        return read(owner, record, rejected)

    monkeypatch.setattr(wfdb_records, "_read_record", watched)
    prepared = prepare(DataSpec(path=str(MITDB), partition="owner", devices=22, index=12), "ecg-beats")
    assert seen == ["201"] == list(prepared.train.owner_counts())
    assert prepared.train.shapes == ((12,), (19,))
    assert len(prepared.held_out) == 0
    assert any("201 and 202" in note for note in prepared.notes)


def test_a_few_devices_share_the_training_patients_among_them() -> None:
    owned = [prepare(DataSpec(path=str(MITDB), devices=8, index=i), "ecg-beats").train.owner_counts() for i in (0, 7)]
    assert [list(owners) for owners in owned] == [["101", "118", "208"], ["116", "207"]]


def test_the_whole_database_needs_less_than_600_megabytes() -> None:
    # VmHWM begins with the program; ru_maxrss would begin with what the test's own process had when it started it.
    code = (
        "import sys; from edge.sources import load; load(sys.argv[1], 'ecg-beats');"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    child = subprocess.run([sys.executable, "-c", code, str(MITDB)], check=True, capture_output=True, text=True)
    assert 50 * 1024 < int(child.stdout) < 600 * 1024  # kB


def test_a_single_record_is_found_by_its_header_or_its_bare_name(tmp_path: Path) -> None:
    write_record(tmp_path, "mine")
    for path in (tmp_path, tmp_path / "mine", tmp_path / "mine.hea"):
        dataset = load(str(path), "ecg-beats")
        assert dataset.class_counts() == {"N": 10, "S": 1, "V": 1, "F": 0, "Q": 0}
        assert dataset.owner_counts() == {"mine": 12}


def test_a_lone_device_keeps_its_newest_fifth_to_evaluate_itself(tmp_path: Path) -> None:
    write_record(tmp_path, "mine", "N" * 16 + "VVVV")
    prepared = prepare(DataSpec(path=str(tmp_path)), "ecg-beats")
    assert prepared.train.class_counts()["N"] == 16
    assert prepared.held_out.class_counts()["V"] == 4


def test_segments_that_were_recorded_here_are_one_person_s_in_their_order(tmp_path: Path) -> None:
    """Seen to fail where each segment is a person: the newest of them would be held out as somebody never seen."""
    for number in range(1, 7):
        symbols = "V" * 12 if number == 6 else "N" * 12
        write_record(tmp_path, f"ecg_{number:06}_20261128T120000", symbols)
    report = describe(str(tmp_path), "ecg-beats")
    assert (report.owners, report.held_out) == ({"recorded": 72}, ())
    assert "6 recorded segments count as one person's" in report.notes[0]
    alone = prepare(DataSpec(path=str(tmp_path), held_out="0.2"), "ecg-beats")
    assert alone.held_out.class_counts()["V"] == 12  # all of the newest segment, and two older beats
    assert len(alone.held_out) == 14
    write_record(tmp_path, "anna")
    assert set(describe(str(tmp_path), "ecg-beats").owners) == {"anna", "recorded"}


def test_lead_ii_is_chosen_by_name_and_else_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    relate = ecg.relate_beats

    def watched(signal: ecg.Signal, rate: float, peaks: NDArray[np.int64]) -> ecg.Beats:
        seen.append(float(signal[peaks[0]]))
        return relate(signal, rate, peaks)

    monkeypatch.setattr(ecg, "relate_beats", watched)
    write_record(tmp_path, "named", lead="V5", second="MLII")
    write_record(tmp_path, "first", lead="V5", second="V1")
    for name in ("named", "first"):
        load(str(tmp_path / name), "ecg-beats")
    inverted, upright = seen
    assert inverted < -0.5 < 0.5 < upright


def test_flutter_and_rhythm_marks_are_not_beats(tmp_path: Path) -> None:
    write_record(tmp_path, "mine", "NN!!+NNN~N")
    assert len(load(str(tmp_path), "ecg-beats")) == 6


def test_a_record_without_annotations_is_named_and_the_others_are_used(tmp_path: Path) -> None:
    write_record(tmp_path, "good")
    write_record(tmp_path, "bare", symbols="NNN")
    (tmp_path / "bare.atr").unlink()
    report = describe(str(tmp_path), "ecg-beats")
    assert report.owners == {"good": 12}
    assert any(
        reason.startswith("record bare: has no annotations (bare.atr): annotate its beats first, or")
        for reason in report.rejected
    )
    with pytest.raises(DataError, match=r"has no annotations \(bare\.atr\): annotate"):
        load(str(tmp_path / "bare"), "ecg-beats")


def test_paced_records_are_left_out_by_name_and_by_content(tmp_path: Path) -> None:
    write_record(tmp_path, "102")
    with pytest.raises(DataError, match="paced"):
        load(str(tmp_path), "ecg-beats")
    write_record(tmp_path, "pacer", "NN///NN")
    with pytest.raises(DataError, match="record pacer: has paced beats"):
        load(str(tmp_path), "ecg-beats")


@pytest.mark.parametrize("damage", ["no signal", "cut signal", "bad header", "bad annotation", "no beats", "too long"])
def test_a_broken_record_is_a_data_error(tmp_path: Path, damage: str) -> None:
    write_record(tmp_path, "mine", "+++" if damage == "no beats" else "NNNNNN")
    if damage == "no signal":
        (tmp_path / "mine.dat").unlink()
    elif damage == "cut signal":
        (tmp_path / "mine.dat").write_bytes((tmp_path / "mine.dat").read_bytes()[:100])
    elif damage == "too long":
        header = (tmp_path / "mine.hea").read_text()
        (tmp_path / "mine.hea").write_text(header.replace("mine 1 360 2520", "mine 1 360 60000000"))
    elif damage == "bad header":
        (tmp_path / "mine.hea").write_text("mine one two\n")
    elif damage == "bad annotation":
        (tmp_path / "mine.atr").write_bytes(b"\xff")
    with pytest.raises(DataError, match="nothing usable of mine"):
        load(str(tmp_path), "ecg-beats")


def test_missing_empty_and_wrong_paths_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is nothing at .*: give the folder or file"):
        load(str(tmp_path / "nowhere"), "ecg-beats")
    with pytest.raises(DataError, match=r"is empty: put recordings there \(WFDB records"):
        load(str(tmp_path), "ecg-beats")
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match="holds nothing that recipe 'ecg-beats' can read; it reads: WFDB"):
            load(str(path), "ecg-beats")


def test_a_broken_record_is_only_met_by_the_device_that_owns_it(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_record(tmp_path, name)
    (tmp_path / "b.dat").unlink()
    specs = [DataSpec(path=str(tmp_path), devices=3, index=index) for index in range(3)]
    assert len(prepare(specs[0], "ecg-beats").train) > 0
    with pytest.raises(DataError, match="record b: can't be read"):
        prepare(specs[1], "ecg-beats")


def test_opening_reads_no_signal(tmp_path: Path) -> None:
    write_record(tmp_path, "mine")
    (tmp_path / "mine.dat").unlink()
    shutil.copy(tmp_path / "mine.hea", tmp_path / "other.hea")
    assert open_source(str(tmp_path), "ecg-beats").owners == ("mine", "other")


@pytest.mark.parametrize(
    ("length", "frames", "words"),
    [
        ("", 900, r"doesn't say how long it is \(rec\.dat has 3600 bytes, which are 900 samples\): write the number"),
        (" 0", 900, "which are 900 samples"),
        ("", 0, r"nothing in rec\.dat: copy it again"),
    ],
)
def test_a_header_without_a_length_is_told_with_what_is_known(
    tmp_path: Path, length: str, frames: int, words: str
) -> None:
    """Seen to fail with "is None samples long"."""
    leads = "".join(f"rec.dat 16 200(0)/mV 16 0 0 0 0 {name}\n" for name in ("MLII", "V5"))
    (tmp_path / "rec.hea").write_text(f"rec 2 360{length}\n{leads}")
    (tmp_path / "rec.dat").write_bytes(bytes(4 * frames))
    with pytest.raises(DataError, match=words):
        read_lead(tmp_path / "rec")


@pytest.mark.parametrize(("fmt", "size", "there"), [("16", 3600, 900), ("212", 2700, 900), ("16", 4, 1), ("212", 0, 0)])
def test_a_header_of_more_samples_than_there_are_is_told_with_both(
    tmp_path: Path, fmt: str, size: int, there: int
) -> None:
    """Seen to fail with NumPy's "could not broadcast input array"."""
    leads = "".join(f"rec.dat {fmt} 200(0)/mV 12 0 0 0 0 {name}\n" for name in ("MLII", "V5"))
    (tmp_path / "rec.hea").write_text(f"rec 2 360 1000\n{leads}")
    (tmp_path / "rec.dat").write_bytes(bytes(size))
    with pytest.raises(DataError, match=rf"header of 1000 samples, and rec\.dat has {there}: copy both again"):
        read_lead(tmp_path / "rec")


@pytest.mark.parametrize(
    ("rate", "samples", "words"),
    [("360", 10, "too near an end"), ("99999999999999999999", 4680, "Hz is too far from 180 Hz to be resampled")],
)
def test_a_record_too_short_or_too_fast_says_so(tmp_path: Path, rate: str, samples: int, words: str) -> None:
    write_record(tmp_path, "900")
    header = tmp_path / "900.hea"
    header.write_text(header.read_text().replace(" 360 4680", f" {rate} {samples}", 1))
    with pytest.raises(DataError, match=words):
        load(str(tmp_path), "ecg-beats")


@pytest.mark.parametrize("rate", ["-360", "360,5", "fast"])
def test_a_sampling_rate_that_is_none_is_told_as_it_is_written(tmp_path: Path, rate: str) -> None:
    """Seen to fail: wfdb takes -360 for 250, and every heart rate was wrong by as much."""
    write_record(tmp_path, "mine")
    header = tmp_path / "mine.hea"
    header.write_text(header.read_text().replace(" 360 ", f" {rate} ", 1))
    with pytest.raises(DataError, match=f"has a header with {rate} for a sampling rate"):
        read_lead(tmp_path / "mine")


@pytest.mark.parametrize(("text", "rate"), [("360/360(0)", 360.0), ("257.5", 257.5)])
def test_a_sampling_rate_may_be_written_in_any_of_wfdb_s_ways(tmp_path: Path, text: str, rate: float) -> None:
    write_record(tmp_path, "mine")
    header = tmp_path / "mine.hea"
    header.write_text("# a comment\n" + header.read_text().replace(" 360 ", f" {text} ", 1))
    assert read_lead(tmp_path / "mine")[1] == rate


@pytest.mark.parametrize(("unit", "gain"), [("V", 1000.0), ("uV", 0.001)])
def test_a_lead_in_volts_or_microvolts_is_read_in_millivolts(tmp_path: Path, unit: str, gain: float) -> None:
    """Seen to fail: of a lead in volts no beat was found."""
    write_record(tmp_path, "mine")
    header = tmp_path / "mine.hea"
    expected = read_lead(tmp_path / "mine")[0]
    text = header.read_text()
    steps = text.splitlines()[1].split()[2].partition("(")[0]
    header.write_text(text.replace(steps, f"{float(steps) * gain:.12g}", 1).replace("/mV", f"/{unit}"))
    np.testing.assert_allclose(read_lead(tmp_path / "mine")[0], expected, rtol=1e-9)


def test_a_record_that_this_user_may_not_read_is_told_as_that(tmp_path: Path) -> None:
    """Seen to fail: its owner was told to copy it again, or that there is no such record."""
    write_record(tmp_path, "mine")
    with locked_folder() as folder:
        place = folder.parent / "mine"
        whose = os.geteuid()
        os.seteuid(0 if not os.getuid() else whose)
        for ending in ("hea", "dat"):
            shutil.copy(tmp_path / f"mine.{ending}", folder.parent)
        place.with_suffix(".hea").chmod(0)
        os.seteuid(whose)
        for read in (read_lead, glance_at):
            with pytest.raises(DataError, match=r"can't read .*mine\.hea: Permission denied; see to its owner"):
                read(place)
