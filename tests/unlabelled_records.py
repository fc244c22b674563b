"""Real recordings as they are on a Pi that nobody has been at: MIT-BIH's without their annotations."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.running_commands import MITDB

SAMPLES = 180_000  # of each, 500 s at 360 Hz: enough, and quicker than half an hour


def unlabelled(folder: Path, *names: str) -> Path:
    """``folder`` with the first ``SAMPLES`` of these records in it."""
    for name in names:
        shutil.copy(MITDB / f"{name}.dat", folder)
        header = (MITDB / f"{name}.hea").read_text()
        (folder / f"{name}.hea").write_text(header.replace(" 650000", f" {SAMPLES}", 1))
    return folder
