"""``edge record``: settings in, a running recorder out. Puts the pieces together, decides nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from edge.config import EdgeSettings
from edge.live import SOURCES, open_source
from edge.live.setting import Surroundings
from edge.recorder import Recorder, Retention, Told, line
from edge.recordings import Recordings, claim, prune, segments
from edge.segments import Rules
from schemas.command_line import stopping_on_signals
from schemas.errors import DataError, SettingsError, StateError

_UNITS: Final = {"kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(kB|MB|GB)", re.IGNORECASE)
_DAY_S: Final = 86_400.0


def record(settings: EdgeSettings, *, patient: bool, tell: Callable[[Told], None]) -> None:
    """Record until SIGINT or SIGTERM, or until the source ends. Raises any ``FedbeatError``."""
    if not settings.record or settings.record == "list":
        forms = "\n".join(f"  {kind.form}\n      {kind.what}" for kind in SOURCES.values())
        raise SettingsError(f"no source is chosen: add --source, or record = in the settings, as one of\n{forms}")
    retention = Retention(size(settings.record_keep), settings.record_days and settings.record_days * _DAY_S)
    directory = place(settings)
    surroundings = Surroundings(time.monotonic, settings.mqtt if settings.broker else None)
    with claim(directory):
        recorder = Recorder(
            settings.record,
            partial(open_source, settings.record, surroundings),
            Recordings(directory, datetime.now, lambda text: tell(Told("trouble", text))),
            Rules(settings.record_segment, settings.record_sync),
            retention,
            time.monotonic,
            tell,
        )
        with stopping_on_signals(recorder.stop):
            recorder.run(patient=patient)


def place(settings: EdgeSettings) -> Path:
    """Where recordings go."""
    return settings.record_to or settings.state / "recordings"


def clear(directory: Path, keep: str, days: float | None, *, trial: bool) -> Iterator[str]:
    """``edge data prune``: what went, one line each. Raises ``SettingsError``, ``DataError``."""
    if not directory.is_dir():
        raise DataError(f"there is no folder {directory}: give the one that is recorded to")
    most = size(keep)
    if most is None and days is None:
        raise SettingsError("nothing is said of what is to go: add --keep BYTES or --days D")
    reports: list[str] = []
    running_s = max((segment.ended_s for segment in segments(directory)), default=0.0)
    age_s = None if days is None else days * _DAY_S
    gone = prune(directory, most, age_s, running_s, reports.append, trial=trial)
    for segment in gone:
        yield f"{'would remove' if trial else 'removed'} {line(segment)}"
    if reports:
        raise StateError(reports[0])
    yield f"{len(gone)} segments {'would go' if trial else 'went'}"


def size(text: str) -> int | None:
    """Bytes of such as ``500MB``; None for ``none``. Raises ``SettingsError``."""
    if text.lower() in {"", "none"}:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None or not (count := round(float(found[1]) * _UNITS[found[2].lower()])):
        raise SettingsError(f"{text!r} is no size: write such as 500MB or 2GB, or none")
    return count
