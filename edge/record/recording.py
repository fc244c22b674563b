"""``edge record``, and the child process that records beside ``edge run``: what to record in, a running recorder out.

Puts the pieces together, decides nothing, and imports no settings: the child, ``python -m edge.record.recording``, is
to be small. It is told what to record by one line of JSON on its standard input, tells what happens by lines of JSON,
and ends when its input does, which a parent that is killed can't forget to close.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

from schemas.counted import counted
from schemas.errors import DataError, FedbeatError, SettingsError, StateError
from schemas.output import Output

if TYPE_CHECKING:  # what a child has no use for, or what the agent, which only starts one, has none for
    from edge.config import EdgeSettings
    from edge.live.setting import Surroundings
    from edge.record.recorder import Recorder, Told
    from schemas.link.mqtt_settings import MqttSettings

_UNITS: Final = {"kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(kB|MB|GB)", re.IGNORECASE)
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Recording:
    """What to record, where to, and how much of it is kept. ``broker`` is how the device's own one is reached."""

    source: str
    directory: str
    segment_s: float = 1800.0
    sync_s: float = 1.0
    most: int | None = None  # bytes
    age_s: float | None = None  # seconds of running
    broker: Mapping[str, Any] = field(default_factory=dict)  # the settings that say how, as they are written

    @classmethod
    def of(cls, settings: EdgeSettings) -> Self:
        """What the settings say. Raises ``SettingsError``."""
        named = ("broker", "username", "ca", "cert", "key", "keepalive")
        broker = {
            name: value if isinstance(value, int) else str(value)
            for name in named
            if (value := getattr(settings, name))
        }
        broker |= {"password": settings.password.get_secret_value()}
        return cls(
            settings.record,
            str(settings.record_to or settings.state / "recordings"),
            settings.record_segment,
            settings.record_sync,
            size(settings.record_keep),
            settings.record_days and settings.record_days * _DAY_S,
            broker if settings.broker else {},
        )

    def check(self) -> None:
        """Raises ``SettingsError`` where the source can never work; one that is only absent may come."""
        from edge.live import read  # noqa: PLC0415 - likewise

        read(self.source, self.surroundings())

    def surroundings(self) -> Surroundings:
        """What its source is given beside its setting."""
        from edge.live.setting import Surroundings  # noqa: PLC0415 - likewise

        return Surroundings(time.monotonic, self.mqtt if self.broker else None)

    def as_json(self) -> str:
        """One line, a password included."""
        return json.dumps(asdict(self))

    def mqtt(self, client_id: str) -> MqttSettings:
        """How this client connects to the device's own broker."""
        from schemas.settings import LinkSettings  # noqa: PLC0415 - pydantic, for who records from MQTT

        return LinkSettings.model_validate(self.broker).mqtt(client_id)


@contextmanager
def recorder(recording: Recording, tell: Callable[[Told], None]) -> Iterator[Recorder]:
    """What records, once it is ``run``; the directory is its own meanwhile. Raises any ``FedbeatError``."""
    from edge.live import open_source  # noqa: PLC0415 - the agent that starts a child has no use for all this
    from edge.record.recorder import Recorder, Retention, Told  # noqa: PLC0415
    from edge.record.recordings import Recordings, claim  # noqa: PLC0415
    from edge.record.segments import Rules  # noqa: PLC0415

    if not recording.source:
        raise SettingsError("no source is chosen: add --source, or record = in the settings; --source help lists them")
    directory = Path(recording.directory)
    with claim(directory):
        yield Recorder(
            recording.source,
            partial(open_source, recording.source, recording.surroundings()),
            Recordings(directory, datetime.now, lambda text: tell(Told("trouble", text))),
            Rules(recording.segment_s, recording.sync_s),
            Retention(recording.most, recording.age_s),
            time.monotonic,
            tell,
        )


def clear(directory: Path, keep: str, days: float | None, *, trial: bool) -> Iterator[str]:
    """``edge data prune``: what went, one line each. Raises ``SettingsError``, ``DataError``."""
    from edge.record.recorder import line  # noqa: PLC0415 - likewise
    from edge.record.segment_files import prune, segments  # noqa: PLC0415 - likewise

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
    yield f"{counted(len(gone), 'segment')} {'would go' if trial else 'went'}"


def size(text: str) -> int | None:
    """Bytes of such as ``500MB``; None for ``none``. Raises ``SettingsError``."""
    if text.lower() in {"", "none"}:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None or not (count := round(float(found[1]) * _UNITS[found[2].lower()])):
        raise SettingsError(f"{text!r} is no size: write such as 500MB or 2GB, or none")
    return count


def main() -> None:
    """The child process."""
    output = Output()  # where our parent is gone, nobody is there to be told
    with open(0, "rb", buffering=0) as parent:  # unbuffered: what follows the line is the end, and nothing else
        recording = Recording(**json.loads(parent.readline()))
        try:
            with recorder(recording, lambda told: output.tell(told.as_json())) as at_work:
                for each in (signal.SIGTERM, signal.SIGHUP):  # both come where a login session ends with all in it
                    signal.signal(each, lambda *_: at_work.stop())
                threading.Thread(target=when_over, args=(parent, at_work.stop), name="parent", daemon=True).start()
                at_work.run(patient=True)
        except FedbeatError as error:
            output.tell(json.dumps({"event": "failed", "text": str(error)}))
            os._exit(error.exit_code)  # the thread that waits for our parent would keep us
        os._exit(0)


def when_over(parent: IO[bytes], stop: Callable[[], None]) -> None:
    """Stop where whoever started this process closes its end of the pipe, or dies."""
    while parent.read(4096):
        pass
    stop()


if __name__ == "__main__":
    main()
