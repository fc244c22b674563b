import shutil
from pathlib import Path

import pytest

from schemas.proto import generate


def test_the_generated_code_is_what_the_schema_gives() -> None:
    assert generate.stale() == ()


def test_code_that_is_missing_or_changed_is_found(tmp_path: Path) -> None:
    assert generate.stale(tmp_path) == generate.GENERATED
    for path in generate.GENERATED:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(generate.ROOT / path, tmp_path / path)
    assert generate.stale(tmp_path) == ()
    changed = tmp_path / generate.GENERATED[0]
    changed.write_text(changed.read_text() + "\n")
    assert generate.stale(tmp_path) == generate.GENERATED[:1]


def test_the_check_writes_nothing_and_fails_with_what_to_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--check"]) == 0
    monkeypatch.setattr(generate, "stale", lambda: generate.GENERATED)
    before = (generate.ROOT / generate.GENERATED[0]).stat().st_mtime_ns
    assert generate.main(["--check"]) == 1
    assert "federation_pb2.py is out of date: run python -m schemas.proto.generate" in capsys.readouterr().err
    assert (generate.ROOT / generate.GENERATED[0]).stat().st_mtime_ns == before
