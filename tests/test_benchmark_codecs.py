"""The benchmarks of codecs end with a reason where they can't measure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running_commands import LIMIT_S, ROOT


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ecg_codecs.py", (), "the coordinator ended with exit code 3"),
        ("update_codecs.py", ("--sizes",), "give the folder or file of the recordings"),
    ],
)
def test_recordings_that_are_not_there_are_told_without_a_traceback(
    tmp_path: Path, name: str, options: tuple[str, ...], words: str
) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--data", str(tmp_path / "none"), *options]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 1
    assert f"there is nothing at {tmp_path / 'none'}" in ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
