"""The benchmark of virtual devices ends with a reason where it can't measure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.running_commands import LIMIT_S, ROOT


def benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "virtual.py"), "--devices", "2", "--repeats", "1", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_recordings_that_are_not_there_are_told_rather_than_waited_for(tmp_path: Path) -> None:
    """Seen to fail: the reason was raised on a thread of the pool, and the benchmark waited for ever."""
    ended = benchmark("--data", str(tmp_path / "none"))
    assert ended.returncode == 1
    assert f"there is nothing at {tmp_path / 'none'}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_gpu_that_is_not_there_is_told(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    ended = benchmark("--data", str(tmp_path), "--accelerator", "cuda")
    assert ended.returncode == 1
    assert "PyTorch finds no CUDA here" in ended.stderr
    assert "Traceback" not in ended.stderr
