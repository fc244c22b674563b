"""The child process that finds beats beside ``edge run``: recordings as they grow in, counts of each window out.

It has the device's newest model and no connection; the agent has the connection and none of the signal. It is told what
to do by one line of JSON on its standard input, tells what it finds by lines of JSON, and ends when its input does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from edge.findings.alerts import alerts, parse, words
from edge.findings.beat_windows import Window
from edge.findings.finder_child import Finding
from edge.findings.live_findings import SHORTEST_S, LiveFindings
from edge.findings.newest_model import NewestModel
from edge.findings.segment_tail import Piece, SegmentTail
from edge.record.recording import when_over
from schemas.errors import FedbeatError

_TICK_S: Final = 0.25  # between two looks whether to stop
LOOK_S: Final = 1.0  # between two looks at what the recorder has written
AGAIN_S: Final = 5.0  # and for a model, where there is none


class Finder:
    """Follows one directory of recordings with the newest model there is. ``stop`` may be called from anywhere."""

    def __init__(
        self,
        finding: Finding,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises ``SettingsError``. ``clock`` is monotonic, in seconds; ``pause`` waits for some."""
        self._finding = finding
        self._clock = clock
        self._pause = pause
        self._stopping = False  # no Event: a signal handler that sets one while it is waited for would hang
        self._limits = parse(finding.alerts)
        self._model = NewestModel(Path(finding.state), personal=finding.personal)
        self._said = ""  # of its trouble
        self._ready = False  # whether there is one
        self._at = 0.0  # when the newest sample was taken, by the signal's clock
        self._read_at = clock()  # and when it was read, by ours
        self._lag_s = 0.0  # of signal in a piece, at most: a recorder that writes so seldom isn't silent

    def stop(self) -> None:
        """Have ``run`` tell what it has, and return."""
        self._stopping = True

    def run(self) -> Iterator[dict[str, Any]]:
        """What to tell, until stopped."""
        while not self._model.look():
            yield from self._trouble()
            self._wait(AGAIN_S)
            if self._stopping:
                return
        self._ready = True
        live = LiveFindings(self._model.classify, self._finding.window_s)
        tail = SegmentTail(Path(self._finding.directory))
        yield {"event": "ready", "text": f"findings begin with {self._model.name}"}
        unread = ""
        while not self._stopping:
            if tail.trouble not in {"", unread}:
                unread = tail.trouble
                yield {"event": "trouble", "text": unread}
            self._wait(LOOK_S)
            while not self._stopping and (piece := tail.read()) is not None:
                yield from self._hear(live, piece)
            if lapsed := live.lapsed(self._now_s - self._lag_s):
                self._lag_s = 0.0
                yield from self._tell(lapsed)
        if (piece := tail.read()) is not None:  # what came since the newest look; whoever stops us won't wait for more
            yield from self._hear(live, piece)
        yield from self._tell(live.finish(self._now_s))

    def _wait(self, seconds: float) -> None:
        until = self._clock() + seconds
        while not self._stopping and self._clock() < until:
            self._pause(_TICK_S)

    def _hear(self, live: LiveFindings, piece: Piece) -> Iterator[dict[str, Any]]:
        if piece.anew:
            yield from self._tell(live.finish(self._now_s))
        elif piece.gap:
            live.part()
        self._at, self._read_at = piece.at, self._clock()
        self._lag_s = max(self._lag_s, len(piece.samples) / piece.rate)
        yield from self._tell(live.feed(piece.samples, piece.rate, piece.at))

    @property
    def _now_s(self) -> float:
        """Now by the signal's clock."""
        return self._at + self._clock() - self._read_at

    def _tell(self, windows: Sequence[Window]) -> Iterator[dict[str, Any]]:
        now_s = self._now_s
        for window in windows:
            yield self._told(window, now_s)
        if windows and not self._stopping:
            self._model.look()
            yield from self._trouble()

    def _trouble(self) -> Iterator[dict[str, Any]]:
        """Why the newest model isn't used, once."""
        if self._model.trouble not in {"", self._said}:
            kept = f"; going on with {self._model.name}" if self._ready else ""
            yield {"event": "trouble", "text": f"{self._model.trouble}{kept}"}
        self._said = self._model.trouble

    def _told(self, window: Window, now_s: float) -> dict[str, Any]:
        """A window as the agent publishes it; one that was cut short as it logs it. ``now_s`` is now, likewise."""
        found = alerts(window, self._limits)
        said = "; ".join(map(words, found))
        if round(window.ended_s - window.began_s, 3) < SHORTEST_S:
            return {"event": "short", "text": f"in the last {window.signal_s:g} s of signal: {said or 'no alert'}"}
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
        return {"event": "findings", "text": said, "findings": findings}


def main() -> None:
    """The child process."""
    with open(0, "rb", buffering=0) as parent:  # unbuffered: what follows the line is the end, and nothing else
        finding = Finding(**json.loads(parent.readline()))
        os.nice(finding.nice)
        code = 0
        try:
            finder = Finder(finding)
            for each in (signal.SIGTERM, signal.SIGHUP):  # both come where a login session ends with all in it
                signal.signal(each, lambda *_: finder.stop())
            threading.Thread(target=when_over, args=(parent, finder.stop), name="parent", daemon=True).start()
            for told in finder.run():
                _say(told)
        except FedbeatError as error:
            _say({"event": "failed", "text": str(error)})
            code = error.exit_code
        except BrokenPipeError:
            pass  # our parent is gone: nobody is there to be told
        os._exit(code)  # the thread that waits for our parent would keep us


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(told)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
