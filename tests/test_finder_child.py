"""Findings beside ``edge run``: counts on the broker where the owner wants it, and nothing else of the ECG."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from edge import model_file
from edge.config import EdgeSettings
from edge.core.personal_settings import Origin, PersonalSettings, Verdict
from edge.findings.finder_child import FinderChild, Finding
from edge.findings.newest_model import NewestModel
from edge.start import finding_of
from edge.store import Store, look
from schemas import codec, compression, parts
from schemas.errors import SettingsError
from schemas.findings import Findings
from schemas.link.address import BrokerAddress
from schemas.link.link import Inbound
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import ModelPointer
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.plan_file import find
from schemas.topics import Kind, Topics
from tests.link_bench import Ear
from tests.link_mosquitto import Mosquitto
from tests.running_commands import EDGE, MITDB, ROOT, Running
from tests.running_coordinator import RunningCoordinator
from tests.waiting import until

SETTINGS = EdgeSettings(findings=True)
MOST_BYTES = 2048


def ventricular() -> Parameters:
    """A model that takes every beat for V."""
    return always([0, 0, 9, 0, 0])


def always(logits: list[float]) -> Parameters:
    """A model that says so of every beat."""
    plan = find("ecg-beats").plan
    arrays = {one.name: np.zeros(one.shape, np.float32) for one in plan.parameters}
    arrays[plan.parameters[-1].name] = np.array(logits, np.float32)
    return Parameters.from_arrays(arrays)


def hold(state: Path, version: int = 3) -> None:
    """Have a device hold that model."""
    plan, model = find("ecg-beats").plan.to_bytes(), ventricular()
    blob = compression.encode("float32", model, np.random.default_rng(0))
    pointer = ModelPointer(
        run="run-1", version=version, digest=model.digest(), previous=None, blob=parts.describe(blob, 100_000)
    )
    store = Store(state, print)
    store.keep_plan(parts.describe(plan, 100_000).digest, plan, "run-1")
    store.keep_model(pointer, blob)


def hold_own(state: Path, version: int = 3, *, better: bool = True) -> None:
    """Have a device hold a model of its owner's own, made of that one: one that takes every beat for N."""
    loss = 0.25 if better else 0.75
    origin = Origin(
        run="run-1",
        version=version,
        model=ventricular().digest(),
        plan="0" * 64,
        data="",
        how=PersonalSettings(method="ditto"),
        verdict=Verdict(examples=48, personal_loss=loss, global_loss=0.5, personal_f1=0.75, global_f1=0.5),
    )
    Store(state, print).keep_personal(origin, model_file.to_bytes(always([9, 0, 0, 0, 0])))


def test_must_37_findings_are_published_where_the_owner_wants_it_and_say_no_more_than_counts(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """A real device that records 208 sixty times as fast, without PyTorch. Seen to fail with a retained message."""
    hold(tmp_path / "state")
    (tmp_path / "torch.py").write_text("raise ImportError('there is none here')")
    ear, topics = Ear(), Topics("home")
    link = MqttLink(MqttSettings(BrokerAddress.parse(mosquitto.address), "listener"), ear)
    link.subscribe(topics.filter(Kind.FINDINGS))
    link.open()
    ear.until_connected()
    flags = ("--broker", mosquitto.address, "--device", "pi-one", "--state", "state", "--heartbeat", "1")
    source = f"replay:{MITDB / '208'}?speed=60"
    more = {"FEDBEAT_RECORD_SYNC": "0.2", "FEDBEAT_FINDINGS_WINDOW": "60", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = (*EDGE, "run", *flags, "--record", source, "--findings")
    with Running(*command, cwd=tmp_path, env=more):
        until(lambda: len(ear.payloads()) >= 2, "two windows")
    link.close(None, 0.0)
    for said in ear.all(Inbound):
        assert (said.topic, said.retained) == ("fl/v1/home/devices/pi-one/findings", False)
        found = codec.decode(Kind.FINDINGS, said.payload)
        assert isinstance(found, Findings)
        assert set(found.beats) <= {"V"}
        assert 50 < found.beats["V"] < 150
        assert (found.device, found.run, found.model_version, found.signal_s) == ("pi-one", "run-1", 3, 60.0)
        assert {"v_run", "v_share"} <= {alert.rule for alert in found.alerts}
        assert len(said.payload) < MOST_BYTES
        assert re.findall(r"\d\d:\d\d:\d\d", said.payload.decode()) == [
            text[11:19] for text in (found.began, found.ended)
        ]


def test_a_model_that_nobody_has_trained_finds_nothing(tmp_path: Path) -> None:
    """Seen to fail where version 0 is taken: its weights are drawn at random, and it said Q of every beat, or V."""
    hold(tmp_path, version=0)
    model = NewestModel(tmp_path)
    assert not model.look()
    assert "nobody has trained" in model.trouble
    hold(tmp_path, version=1)
    assert model.look()
    assert (model.trouble, model.about) == ("", {"run": "run-1", "model_version": 1})


def test_the_window_that_is_open_when_a_device_is_stopped_reaches_the_broker(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Seen to fail where the finder ends after the agent: its window was in the log, and nowhere else."""
    hold(tmp_path / "state")
    ear, topics = Ear(), Topics("home")
    link = MqttLink(MqttSettings(BrokerAddress.parse(mosquitto.address), "listener"), ear)
    link.subscribe(topics.filter(Kind.FINDINGS))
    link.open()
    ear.until_connected()
    flags = ("--broker", mosquitto.address, "--device", "pi-one", "--state", "state")
    more = {"FEDBEAT_RECORD_SYNC": "0.2", "FEDBEAT_FINDINGS_WINDOW": "3600"}
    command = (*EDGE, "run", *flags, "--record", f"replay:{MITDB / '208'}?speed=100", "--findings")

    def recorded() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "state" / "recordings").glob("*.dat"))

    with Running(*command, cwd=tmp_path, env=more) as device:
        device.wait_for("findings begin with")
        before = recorded()
        until(lambda: recorded() > before + 120 * 360 * 4, "two minutes of two leads")
        device.send(signal.SIGTERM)
        done = device.end()
    assert done.code == 0
    until(ear.payloads, "the open window")
    link.close(None, 0.0)
    (said,) = ear.payloads()
    found = codec.decode(Kind.FINDINGS, said)
    assert isinstance(found, Findings)
    assert 60 < found.signal_s < 3600
    assert set(found.beats) == {"V"}


def test_must_37_nothing_is_found_unless_the_owner_says_so(tmp_path: Path) -> None:
    """Seen to fail with ``findings`` on by itself."""
    assert finding_of(EdgeSettings(), str(tmp_path)) is None
    found = finding_of(SETTINGS, str(tmp_path))
    assert found is not None
    assert (found.window_s, found.directory) == (300, str(tmp_path))
    with pytest.raises(SettingsError, match="add --record SOURCE"):
        finding_of(SETTINGS, "watch")
    with pytest.raises(SettingsError, match="no alert's threshold"):
        finding_of(SETTINGS.model_copy(update={"findings_alerts": "v"}), str(tmp_path))
    with pytest.raises(ValueError, match="greater than or equal to 60"):
        EdgeSettings(findings_window=59)


def test_must_37_a_coordinator_has_no_use_for_findings(tmp_path: Path) -> None:
    with RunningCoordinator(tmp_path / "state") as running:
        before = len(running.log)
        running.say("devices/dev-9/findings", b'{"device":"dev-9"}')
        running.handled()
        assert not [said for said in running.log[before:] if said.client == "coordinator" and "dev-9" in said.topic]


def test_what_the_child_says_becomes_a_message_or_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    found: list[Findings] = []
    child = FinderChild(Finding("recordings", "state"), "pi-one", "fedbeat 0", found.append)
    about = {"began": "", "ended": "", "signal_s": 60, "quality": 1, "beats": {"N": 60}, "run": "run-1"}
    child.heard("findings", "", {"findings": {**about, "model_version": 2}})
    assert [(one.device, one.beats) for one in found] == [("pi-one", {"N": 60})]
    for wrong in ({}, {"findings": about}, {"findings": {**about, "model_version": 2, "beats": {"N": -1}}}):
        child.heard("findings", "", wrong)
    assert len(found) == 1
    assert caplog.text.count("is no window") == 3


def test_the_agent_has_no_arrays_for_it() -> None:
    code = "import sys, edge.start, edge.findings.finder_child, edge.findings.alerts; print(*sys.modules)"
    with Running("-c", code, cwd=ROOT) as running:
        assert not {"numpy", "torch", "scipy", "onnx", "onnxruntime"} & set(running.end().out.split())


def test_a_line_that_is_no_message_changes_nothing(tmp_path: Path) -> None:
    child = FinderChild(Finding(str(tmp_path), str(tmp_path)), "pi-one", "", lambda _: None)
    assert [child._hear(line) for line in ("", "[]", "{", '{"event": 1}', json.dumps({"event": "x", "text": ""}))] == [
        *[""] * 4,
        "x",
    ]


def test_a_model_that_is_too_large_or_of_other_data_is_not_used_and_that_is_said(tmp_path: Path) -> None:
    """Seen to fail without the bound in ``Session``: a plan of a few kB could have the finder take all memory."""
    hold(tmp_path)
    newest = NewestModel(tmp_path, "onnx")
    assert newest.look()
    assert (newest.trouble, newest.about) == ("", {"run": "run-1", "model_version": 3})
    found = look(tmp_path)
    assert found is not None
    store, pointer = Store(tmp_path, print), found[0].pointer
    large = json.loads(find("ecg-beats").plan.to_bytes())
    wide = [{"out": "wide0", "op": "constant_pad_nd", "args": ["%cat", [0, 2**17]]}]
    wide += [{"out": f"wide{n + 1}", "op": "t", "args": [f"%wide{n}"]} for n in range(9)]  # free in PyTorch
    large["operations"][1:1] = wide
    for plan, says in ((Plan.build(**large), "would take [0-9]+ MiB"), (find("watch").plan, "not for ECGs")):
        blob = plan.to_bytes()
        store.keep_plan(parts.describe(blob, 100_000).digest, blob, "run-1")
        fresh = NewestModel(tmp_path, "onnx")
        assert not fresh.look()
        assert re.search(says, fresh.trouble), fresh.trouble
    assert newest.look()  # the one before stays
    store.keep_model(pointer.model_copy(update={"version": 4}), b"noise")
    assert newest.look()
    assert newest.about["model_version"] == 3


def test_an_older_version_of_a_run_takes_no_newer_ones_place_and_another_plan_does(tmp_path: Path) -> None:
    """But no model is judged by another run's plan. Seen to fail where the pointer alone is compared, where versions
    aren't, and where ``look`` doesn't ask whose plan it is."""
    hold(tmp_path)
    newest, store = NewestModel(tmp_path, "onnx"), Store(tmp_path, print)
    assert newest.look()
    held, found = store.model(), look(tmp_path)
    assert held is not None
    assert found is not None
    older = held.pointer.model_copy(update={"version": 2})
    store.keep_model(older, held.lineage.snapshot)
    assert newest.look()
    assert (newest.trouble, newest.about["model_version"]) == ("", 3)
    store.keep_model(older.model_copy(update={"run": "run-2"}), held.lineage.snapshot)
    assert newest.look()
    assert newest.about == {"run": "run-1", "model_version": 3}
    store.keep_plan(parts.describe(found[1], 100_000).digest, found[1], "run-2")
    assert newest.look()
    assert newest.about == {"run": "run-2", "model_version": 2}
    watch = find("watch").plan.to_bytes()
    store.keep_plan(parts.describe(watch, 100_000).digest, watch, "run-2")
    assert newest.look()
    assert "not for ECGs" in newest.trouble
    store.keep_plan(parts.describe(found[1], 100_000).digest, found[1], "run-2")
    assert newest.look()
    assert newest.trouble == ""


def test_a_model_of_the_owners_own_is_used_where_it_is_wanted_the_better_one_and_of_the_newest(tmp_path: Path) -> None:
    """Seen to fail where findings knew of the global model alone, while the log said that the owner's own was used."""
    newest = NewestModel(tmp_path, "onnx", personal=True)
    of_the_global = {"run": "run-1", "model_version": 3}
    hold(tmp_path)
    hold_own(tmp_path, better=False)
    assert newest.look()
    assert (newest.about, newest.name) == (of_the_global, "model 3 of run run-1")
    hold_own(tmp_path)
    assert newest.look()
    assert (newest.about, newest.name) == (
        {**of_the_global, "personal": True},
        "the owner's own of model 3 of run run-1",
    )
    unwanted = NewestModel(tmp_path, "onnx")
    assert unwanted.look()
    assert unwanted.about == of_the_global
    held = Store(tmp_path, print).model()
    assert held is not None
    pointer = held.pointer.model_copy(update={"version": 4, "digest": "4" * 64})
    Store(tmp_path, print).keep_model(pointer, held.lineage.snapshot)
    assert newest.look()
    assert newest.about == {"run": "run-1", "model_version": 4}


@pytest.mark.parametrize("personal", ["off", "ditto"])
def test_findings_are_told_whether_the_owner_wants_a_model_of_their_own(tmp_path: Path, personal: str) -> None:
    """Seen to fail where the finder isn't told."""
    settings = EdgeSettings.model_validate({"findings": True, "personal": personal})
    finding = finding_of(settings, str(tmp_path))
    assert finding is not None
    assert finding.personal == (personal != "off")
