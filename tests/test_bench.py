"""``edge bench``: a real one on small things, and what its report says."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import bench_arrays
from edge.bench import bench
from edge.bench_report import CodecSpeed, Disk, Prepared, Report, duration, remarks, steps, table, trained_on
from edge.config import EdgeSettings
from edge.dataspec import DataSpec
from edge.sources import prepare
from edge.training.batches import batches
from edge.training.plan_fit import fit
from schemas import compression
from schemas.command_line import ENDS
from schemas.errors import DataError, PlanError, StateError
from schemas.messages import Health, TrainSettings
from schemas.plan_file import BUNDLED, bundled
from tests.locked_folder import locked_folder
from tests.plan_examples import CLASSES, fields, tiny, windows
from tests.running_commands import EDGE, LIMIT_S, Done, Running, finished
from tests.waiting import until

SETTINGS = st.builds(
    TrainSettings,
    epochs=st.integers(1, 4),
    batch_size=st.integers(1, 20),
    local_steps=st.none() | st.integers(1, 50),
    max_examples=st.none() | st.integers(1, 60),
)


def report(**changes: Any) -> Report:
    plain: dict[str, Any] = {
        "software": "fedbeat 0",
        "plan": "tiny",
        "parameters": 39,
        "data": "recordings",
        "examples": 100,
        "train": TrainSettings(epochs=2, batch_size=10),
        "threads": 1,
        "nice": 10,
        "trainer_start_s": 2.0,
        "examples_per_s": 50.0,
        "codecs": (CodecSpeed(codec="float32", mb_per_s=100.0, update_bytes=156),),
        "disk": Disk(directory="state", median_ms=20.0, worst_ms=30.0, times=20),
        "agent_peak_mb": 44.0,
        "trainer_peak_mb": 300.0,
        "before": Health(memory_available_mb=400.0, temperature_c=50.0, throttled=False),
        "after": Health(temperature_c=61.0, throttled=False),
        "took_s": 9.0,
    }
    return Report.model_validate({**plain, **changes})


def run_bench(*arguments: str, cwd: Path) -> Done:
    return finished(*EDGE, "bench", "--trainer-nice", "0", *arguments, cwd=cwd)


def test_a_device_measures_the_codecs_its_trainer_and_its_disk_on_its_own_recordings(tmp_path: Path) -> None:
    """Seen to fail with numpy imported in ``edge.bench``."""
    (tmp_path / "tiny.json").write_bytes(tiny().to_bytes())
    drawn = windows(60)
    np.savez(tmp_path / "own.npz", x=drawn.inputs[0], y=drawn.labels, classes=np.array(CLASSES))
    asked = ("--plan", "tiny.json", "--data", "own.npz", "--held-out", "0.5", "--seconds", "0.2", "--json")
    done = run_bench(*asked, "--trainer-threads", "1", "--state", "not/yet", cwd=tmp_path)
    assert done.code == 0, done.err
    found = Report.model_validate_json(done.out)
    assert (found.plan, found.parameters, found.examples, found.data) == ("tiny", 43, 30, "own.npz")
    assert [each.codec for each in found.codecs] == list(compression.NAMES)
    assert all(each.mb_per_s > 0 and each.update_bytes > 0 for each in found.codecs)
    assert found.examples_per_s > 0
    assert found.round_s > 0
    assert (found.disk.directory, found.disk.times) == (str(tmp_path), 20)
    assert 0 < (found.agent_peak_mb or 0) < 55
    assert (found.trainer_peak_mb or 0) > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.npz", "tiny.json"]


@pytest.mark.parametrize("child", ["edge.bench_arrays", "edge.trainer.child"])
@pytest.mark.parametrize(("number", "code"), [*((one, -one) for one in ENDS), (signal.SIGINT, 130)])
def test_a_signal_leaves_neither_folder_nor_child(
    tmp_path: Path, child: str, number: signal.Signals, code: int
) -> None:
    """Seen to fail with SIGTERM and SIGHUP: its folder stayed, and whoever filled that worked on."""
    (scratch := tmp_path / "tmp").mkdir()
    environment = {"TMPDIR": str(scratch), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = (*EDGE, "bench", "--plan", "watch", "--seconds", "600")
    with Running(*command, cwd=tmp_path, env=environment) as bench:
        until(lambda: started(bench.pid, child), child)
        family = psutil.Process(bench.pid).children(recursive=True)
        bench.send(number)
        done = bench.end()
    assert (done.code, done.out, done.err.strip()) == (code, "", "")
    assert not list(scratch.iterdir())
    assert not list(tmp_path.glob(".edge-bench-*"))
    _, alive = psutil.wait_procs(family, LIMIT_S)
    assert not alive


def started(pid: int, module: str) -> bool:
    """Whether the process has a child that runs this module."""
    with suppress(psutil.NoSuchProcess):
        return any(module in each.cmdline() for each in psutil.Process(pid).children())
    return False


def test_what_can_not_be_measured_ends_in_a_sentence_and_its_exit_code(tmp_path: Path) -> None:
    """The plan is read in another process. Seen to fail with ``FedbeatError`` for all of ``_ERRORS``."""
    there = "there is no plan 'nope': give a file, or one of digits, ecg-beats, ecg-masked, ecg-weak, watch"
    run_bench("--plan", "nope", cwd=tmp_path).says(4, there)


def test_recordings_that_are_not_there_and_a_state_that_takes_nothing_are_told_at_once() -> None:
    with pytest.raises(DataError, match="there is nothing at nowhere: give the folder"):
        bench(EdgeSettings(data="nowhere"), "watch", 1.0)
    with pytest.raises(StateError, match=r"can't write in /proc: .*choose another place with --state"):
        bench(EdgeSettings(state=Path("/proc/state")), "watch", 1.0)
    with locked_folder() as folder, pytest.raises(StateError, match="Permission denied; choose another with --state"):
        bench(EdgeSettings(state=folder / "state"), "watch", 1.0)


@pytest.mark.parametrize("name", bundled())
def test_what_is_made_up_for_a_bundled_plan_can_be_trained_on(name: str, tmp_path: Path) -> None:
    found = bench_arrays.prepare(name, tmp_path, "")
    assert isinstance(found, Prepared)
    plan = bench_arrays.read_plan(name).plan
    data = fit(prepare(DataSpec(path=found.path, held_out="none"), plan.data).train, plan)
    assert len(data) == found.made_up > plan.train.batch_size
    assert min(data.class_counts().values()) > 0


def test_a_plan_comes_by_its_name_its_file_or_its_json(tmp_path: Path) -> None:
    named = bench_arrays.read_plan("watch").plan
    assert bench_arrays.read_plan(str(BUNDLED / "watch.plan")).plan == named
    (tmp_path / "watch.json").write_bytes(named.to_bytes())
    assert bench_arrays.read_plan(str(tmp_path / "watch.json")).plan == named


def test_a_plan_without_the_values_it_starts_from_says_what_to_give(tmp_path: Path) -> None:
    stored = [{**each, "init": {"kind": "stored"}} for each in fields()["parameters"]]
    (tmp_path / "net.json").write_bytes(tiny(parameters=tuple(stored)).to_bytes())
    with pytest.raises(PlanError, match=r"lacks the values its parameters start from: give the \.plan file"):
        bench_arrays.read_plan(str(tmp_path / "net.json"))


@given(SETTINGS, st.integers(1, 60))
def test_a_rounds_steps_are_those_that_training_takes(settings: TrainSettings, examples: int) -> None:
    chosen = min(examples, settings.max_examples or examples)
    taken = list(batches(chosen, settings.batch_size, steps(settings, examples), np.random.default_rng(0)))
    if settings.local_steps is None:
        assert sum(map(len, taken)) == settings.epochs * chosen
    else:
        assert len(taken) == settings.local_steps


@given(SETTINGS, st.integers(1, 60), st.integers(1, 40))
def test_examples_a_second_count_what_the_batches_held(settings: TrainSettings, examples: int, number: int) -> None:
    """Seen to fail with ``number * batch_size``."""
    chosen = min(examples, settings.max_examples or examples)
    taken = batches(chosen, settings.batch_size, number, np.random.default_rng(0))
    assert trained_on(settings, examples, number) == sum(map(len, taken))


@given(SETTINGS, st.integers(1, 60))
def test_a_rounds_time_is_that_of_the_examples_it_takes(settings: TrainSettings, examples: int) -> None:
    """Seen to fail with ``steps * batch_size``, which is three times as long for a round of 10 of many examples."""
    chosen = min(examples, settings.max_examples or examples)
    taken = batches(chosen, settings.batch_size, steps(settings, examples), np.random.default_rng(0))
    found = report(examples=examples, train=settings).round_s
    assert found == pytest.approx(sum(map(len, taken)) / 50 + 0.02)


def test_a_round_is_reckoned_for_as_many_examples_as_its_owner_has() -> None:
    assert report().round_s == pytest.approx(2 * 100 / 50 + 0.02)
    assert report(examples=1000).round_s == pytest.approx(2 * 1000 / 50 + 0.02)


def test_the_table_has_every_figure_with_its_unit() -> None:
    text = "\n".join(table(report()))
    for words in (
        *("plan tiny: 39 parameters, 2 epochs a round", "50 examples/s", "4.0 s  20 batches of 100 examples"),
        *("44 MB", "300 MB", "20.0 ms", "61 °C  50 °C before", "100.0           0.2", "2.0 s  more, where none"),
    ):
        assert words in text, text
    assert "note" not in text


def test_a_machine_that_tells_nothing_has_no_empty_lines_for_it() -> None:
    text = "\n".join(table(report(before=Health(), after=Health(), agent_peak_mb=None, trainer_peak_mb=None)))
    assert "temperature" not in text
    assert "memory" not in text
    assert "slowed" not in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"after": Health(throttled=True)}, "see to its power supply and cooling"),
        ({"disk": Disk(directory="state", median_ms=20.0, worst_ms=700.0, times=20)}, "took up to 700 ms"),
        ({"trainer_peak_mb": 500.0}, "the trainer took 500 MB, and 400 MB were free"),
    ],
)
def test_what_an_owner_should_see_to_is_said(changes: dict[str, Any], words: str) -> None:
    (said,) = remarks(report(**changes))
    assert words in said


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12 ms"), (1.0, "1.0 s"), (89.9, "89.9 s"), (600.0, "10.0 min")]
)
def test_a_duration_is_in_the_unit_that_reads_best(seconds: float, text: str) -> None:
    assert duration(seconds) == text
