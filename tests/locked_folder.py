"""A folder of recordings that the service's user may not read, for root too."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65_534


@contextmanager
def locked_folder(mode: int = 0) -> Iterator[Path]:
    """A folder with a window in it, with no permissions or those of ``mode``; meanwhile we are nobody, if root."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "recordings"
        folder.mkdir()
        (folder / "mine.csv").write_text("label,a,b\nwalk,1,2\n")
        Path(parent).chmod(0o755)
        folder.chmod(mode)
        if root:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o700)
