"""`coordinator plan`, in process; the module of one's own that a run is started with is in `test_commands_plan`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.config import CoordinatorSettings
from coordinator.plan_commands import (
    check_plan,
    export_plan,
    parse_classes,
    parse_inputs,
    plan_json,
    resolve,
    show_plan,
)
from schemas import plan_file
from schemas.errors import PlanError, SettingsError, StateError
from schemas.plan import Plan

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(900, 7))

    def forward(self, signal):
        return self.layers(signal)

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.net = Net()

    def forward(self, signal):
        return self.net(self.norm(signal))

class Fill(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 8)

    def forward(self, signal):
        return self.layer(signal[:, :4])

class Sorted(Net):
    def forward(self, signal):
        return super().forward(torch.sort(signal).values)

class Needy(Net):
    def __init__(self, width):
        super().__init__()
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(NETS)
    (path.parent / "broken.py").write_text("class Net(:\n")
    return str(path)


def settings(model: str, **changes: object) -> CoordinatorSettings:
    asked = {"model": model, "input": ("6x150",), "classes": "7", "recipe": "watch", **changes}
    return CoordinatorSettings.model_validate(asked)


def test_a_module_becomes_a_plan_file_that_devices_would_take(nets: str, tmp_path: Path) -> None:
    target = tmp_path / "net.plan"
    said = export_plan(
        f"{nets}:Net", target, name=None, inputs=("signal=6x150",), classes="7", report="0,6", recipe="watch"
    )
    assert said == f"{target}: 4 operations, 6307 parameters"
    misspelt = export_plan(f"{nets}:Net", target, name=None, inputs=("6x150",), classes="7", recipe="wach")
    assert "note: devices know the recipes " in misspelt
    assert ", watch, windows; wach must be one of your own" in misspelt
    assert "note" not in export_plan(
        f"{nets}:Net", target, name="net", inputs=("signal=6x150",), classes="7", report="0,6", recipe="watch"
    )
    plan = plan_file.find(str(target)).plan
    assert (plan.name, plan.data, plan.report, plan.inputs[0].shape) == ("net", "watch", ("0", "6"), (6, 150))
    assert check_plan(str(target)).startswith("plan net: 4 operations, all allowed; a step with 32 examples takes")
    plan_of_run, model = resolve(settings(f"{nets}:Net"))
    assert (plan_of_run.name, model.flat.size) == ("net", 6307)


@pytest.mark.parametrize(
    ("file", "name"),
    [("mine.plan", "mine"), ("Ward 3, ECG.plan", "ward-3-ecg"), ("_.plan", "plan"), ("x" * 90 + ".plan", "x" * 64)],
)
def test_a_plan_without_a_name_has_its_files(nets: str, tmp_path: Path, file: str, name: str) -> None:
    """As the bundled ones do. Seen to fail: it had its class's, so that all of one's own were called "net"."""
    target = tmp_path / file
    export_plan(f"{nets}:Net", target, name=None, inputs=("6x150",), classes="7", recipe="watch")
    assert plan_file.find(str(target)).plan.name == name


def test_a_name_that_no_plan_can_have_is_refused_in_words(nets: str, tmp_path: Path) -> None:
    """Seen to fail with "String should match pattern", and as an error of the plan."""
    with pytest.raises(SettingsError, match="--name 'a/b': give a plan's name 1 to 64 letters, digits"):
        export_plan(f"{nets}:Net", tmp_path / "x.plan", name="a/b", inputs=("6x150",), classes="7")


@pytest.mark.parametrize("target", [Path(), Path("/")])
def test_a_plan_that_is_to_be_written_over_a_directory_is_refused(nets: str, target: Path) -> None:
    """Seen to fail with a traceback."""
    with pytest.raises(StateError, match="it is a directory; give a file's name"):
        export_plan(f"{nets}:Fill", target, name=None, inputs=("signal=8",), classes="window", loss="mse")


def test_a_reconstruction_has_one_class_and_is_shown_as_one(nets: str, tmp_path: Path) -> None:
    target = tmp_path / "fill.plan"
    export_plan(f"{nets}:Fill", target, name=None, inputs=("signal=8",), classes="window", loss="mse")
    assert "learns to make a window from parts of it; no labels" in show_plan(str(target))
    assert check_plan(str(target)).startswith("plan fill: ")
    with pytest.raises(SettingsError, match="at least 2"):
        export_plan(f"{nets}:Fill", target, name=None, inputs=("signal=8",), classes="window")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Normed", "layer norm (BatchNorm1d)"),
        ("Sorted", "sort"),
        ("Needy", "can't be loaded: TypeError"),
        ("Absent", "has no nn.Module called 'Absent'; it has: Net, Normed, Fill, Sorted, Needy"),
    ],
)
def test_a_module_that_can_not_be_a_plan_is_refused_with_the_reason(nets: str, name: str, words: str) -> None:
    with pytest.raises(PlanError) as error:
        resolve(settings(f"{nets}:{name}"))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nets", "write it as models.py:Net"),
        ("nowhere.py:Net", "write it as models.py:Net"),
        ("broken", "can't be loaded: SyntaxError"),
    ],
)
def test_a_source_that_is_none_is_refused_with_the_way_to_write_it(nets: str, model: str, words: str) -> None:
    if model == "broken":
        model = nets.replace("nets.py", "broken.py:Net")
    with pytest.raises(PlanError) as error:
        resolve(settings(model))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input": ()}, "add --input 6x150"),
        ({"input": ("6,150",)}, "--input '6,150' is not a shape: write it as 6x150"),
        ({"input": ("a=1", "a=2")}, "--input 'a' is given twice"),
        ({"classes": ""}, "add --classes 7"),
        ({"classes": "1"}, "at least 2"),
        ({"classes": "a,,b"}, "'a,,b'"),
        ({"plan": "watch"}, "--plan and --model exclude each other"),
    ],
)
def test_what_is_missing_about_a_module_is_asked_for(nets: str, changes: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError) as error:
        resolve(settings(f"{nets}:Net", **changes))
    assert words in str(error.value)


def test_a_run_without_a_plan_is_told_which_there_are() -> None:
    with pytest.raises(
        SettingsError, match="add --plan with a file or one of digits, ecg-beats, ecg-masked, ecg-weak, watch"
    ):
        resolve(CoordinatorSettings())
    with pytest.raises(
        PlanError,
        match="there is no plan 'heart': give a file, or one of digits, ecg-beats, ecg-masked, ecg-weak, watch",
    ):
        resolve(CoordinatorSettings(plan="heart"))


def test_shapes_and_classes_are_read_as_they_are_written() -> None:
    assert parse_inputs(("6x150",)) == {"input": (6, 150)}
    assert parse_inputs(("1x128", "rr=6")) == {"input0": (1, 128), "rr": (6,)}
    assert parse_classes("3") == ("0", "1", "2")
    assert parse_classes("calm, brisk") == ("calm", "brisk")


@pytest.mark.parametrize("name", plan_file.bundled())
def test_a_bundled_plan_is_shown_in_words_and_as_devices_get_it(name: str) -> None:
    plan = Plan.from_bytes(plan_json(name).encode())
    text = show_plan(name)
    assert text.startswith(f"plan {name}, digest {plan.digest[:12]}, ")
    for parameter in plan.operations:
        assert parameter.op in text
    assert json.loads(plan_json(name))["name"] == name


@pytest.mark.parametrize("name", plan_file.bundled())
def test_a_bundled_plan_passes_a_devices_check(name: str) -> None:
    assert f"plan {name}: " in check_plan(name)


def test_a_plan_outside_the_allow_list_fails_the_check_with_the_devices_words(tmp_path: Path) -> None:
    file = plan_file.find("watch")
    crafted = tmp_path / "crafted.plan"
    plan_file.write(file, crafted)
    raw = crafted.read_bytes()
    assert b"conv1d" in raw
    crafted.write_bytes(raw.replace(b"conv1d", b"system"))
    with pytest.raises(PlanError, match="system"):
        check_plan(str(crafted))
