from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.config import EdgeSettings
from edge.record.recording import Recording, size
from schemas.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "count"), [("500kB", 500_000), ("2 GB", 2 * 10**9), ("1.5mb", 1_500_000), ("none", None), ("", None)]
)
def test_a_size_is_read_as_people_write_it(text: str, count: int | None) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["12", "0MB", "-1GB", "1TB", "many MB", "1GB/day"])
def test_what_is_no_size_is_told_with_how_to_write_one(text: str) -> None:
    with pytest.raises(SettingsError, match=r"is no size: write such as 500MB or 2GB, or none"):
        size(text)


def test_a_child_hears_all_that_the_settings_say(tmp_path: Path) -> None:
    settings = EdgeSettings.model_validate(
        {
            "broker": "mqtts://localhost:8884",
            "username": "pi-one",
            "password": "p w",
            "ca": tmp_path / "ca.pem",
            "keepalive": 77,
            "record": "mqtt:ward/7?rate=250",
            "record_to": tmp_path / "rec",
            "record_segment": 600,
            "record_sync": 5,
            "record_keep": "1GB",
            "record_days": 2,
        }
    )
    recording = Recording(**json.loads(Recording.of(settings).as_json()))
    assert recording == Recording.of(settings)
    kept = (recording.segment_s, recording.sync_s, recording.most, recording.age_s)
    assert kept == (600.0, 5.0, 10**9, 172_800.0)
    assert (recording.source, recording.directory) == ("mqtt:ward/7?rate=250", str(tmp_path / "rec"))
    assert recording.mqtt("recorder") == settings.mqtt("recorder")


def test_recordings_are_kept_beside_the_state_unless_told(tmp_path: Path) -> None:
    recording = Recording.of(EdgeSettings(record="tcp:x:1?rate=9", state=tmp_path))
    assert recording.directory == str(tmp_path / "recordings")
    assert (recording.most, recording.age_s, dict(recording.broker)) == (2 * 10**9, None, {})
