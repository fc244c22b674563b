"""The child process that finds beats beside ``edge run``: recordings as they grow in, counts of each window out.

It has the device's newest model and no connection; the agent has the connection and none of the signal. It is told what
to do by one line of JSON on its standard input, tells what it finds by lines of JSON, and ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final

from edge.alerts import alerts, parse, words
from edge.beat_windows import Window
from edge.finding import Finding
from edge.live_findings import LiveFindings
from edge.newest_model import NewestModel
from edge.segment_tail import SegmentTail
from schemas.errors import FedbeatError

LOOK_S: Final = 1.0  # between two looks at what the recorder has written
AGAIN_S: Final = 5.0  # and for a model, where there is none


class Finder:
    """Follows one directory of recordings with the newest model there is."""

    def __init__(self, finding: Finding, stopping: threading.Event) -> None:
        """Raises ``SettingsError``."""
        self._finding = finding
        self._stopping = stopping
        self._limits = parse(finding.alerts)
        self._model = NewestModel(Path(finding.state))

    def run(self) -> Iterator[dict[str, Any]]:
        """What to tell, until stopped."""
        said = ""
        while not self._model.look():
            if self._model.trouble != said:
                said = self._model.trouble
                yield {"event": "trouble", "text": said}
            if self._stopping.wait(AGAIN_S):
                return
        yield {"event": "ready", "text": f"findings begin with {self._model.name}"}
        live = LiveFindings(self._model.classify, self._finding.window_s)
        tail = SegmentTail(Path(self._finding.directory))
        while not self._stopping.wait(LOOK_S):
            while not self._stopping.is_set() and (piece := tail.read()) is not None:
                if piece.gap:
                    live.part()
                windows = live.feed(piece.samples, piece.rate, piece.at)
                for window in windows:
                    yield self._told(window, piece.at)
                if windows:
                    self._model.look()

    def _told(self, window: Window, now_s: float) -> dict[str, Any]:
        """A window as the agent publishes it. ``now_s`` is now by the signal's clock."""
        found = alerts(window, self._limits)
        ended = datetime.now(UTC) - timedelta(seconds=max(0.0, now_s - window.ended_s))
        began = ended - timedelta(seconds=window.ended_s - window.began_s)
        findings = {
            "began": began.isoformat(timespec="seconds"),
            "ended": ended.isoformat(timespec="seconds"),
            "signal_s": window.signal_s,
            "quality": round(window.quality, 3),
            "beats": dict(window.beats),
            "rate": window.rate,
            "alerts": [alert.model_dump() for alert in found],
            **self._model.about,
        }
        return {"event": "findings", "text": "; ".join(map(words, found)), "findings": findings}


def main() -> None:
    """The child process."""
    stopping = threading.Event()
    with open(0, "rb", buffering=0) as parent:  # unbuffered: what follows the line is the end, and nothing else
        finding = Finding(**json.loads(parent.readline()))
        threading.Thread(target=_when_over, args=(parent, stopping), name="parent", daemon=True).start()
        os.nice(finding.nice)
        code = 0
        try:
            for told in Finder(finding, stopping).run():
                _say(told)
        except FedbeatError as error:
            _say({"event": "failed", "text": str(error)})
            code = error.exit_code
        os._exit(code)  # the thread that waits for our parent would keep us


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(told)}\n")
    sys.stdout.flush()


def _when_over(parent: IO[bytes], stopping: threading.Event) -> None:
    while parent.read(4096):
        pass
    stopping.set()


if __name__ == "__main__":
    main()
