"""How long training and uploads take this device, so that it declines deadlines it has learned it can't meet. Pure.

What is learned of training is of a plan together with how it is trained: more or fewer epochs are another thing. The
newest attempt counts half, so that a warm afternoon passes; so does an estimate that keeps the device out, by a tenth
each time.

What is learned of uploads is of a plan together with a codec. One may stall: the quicker of the newest two counts, and
one alone doesn't. An estimate that is a little too long would by tenths be tried again every other round, and a trial
costs bytes that may be dear. So it is tried every ``TRIED``th time, however much too long it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from schemas.messages import RunSettings

REMEMBERED: Final = 8  # plans, and as many of their uploads
TRIED: Final = 10  # times that uploads would keep the device out, the last of which it takes part all the same
QUICK_S: Final = 1.0  # what takes less keeps nobody out, and isn't worth a write to the disk
LONGEST_S: Final = 31_536_000.0  # a year; what a fraction near nothing would make of a minute
_DECAY: Final = 0.9
_NEWEST: Final = 0.5


@dataclass(frozen=True, slots=True)
class UploadTimes:
    """How long the newest one or two uploads of a kind took, the newest last."""

    about: str
    seconds: tuple[float, ...]
    kept_out: int = 0  # how often they have since they were last tried


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds from an announcement to the update on disk, by what is trained; the newest learned last.

    And seconds from there until the broker has all of it.
    """

    seconds: tuple[tuple[str, float], ...] = ()
    uploads: tuple[UploadTimes, ...] = ()

    def expected(self, about: str) -> float | None:
        """How long it will take; None where nothing is known."""
        return dict(self.seconds).get(about)

    def learn(self, about: str, seconds: float) -> Pace:
        """An attempt has taken, or would have taken, this long."""
        before = self.expected(about)
        blended = seconds if before is None else before + _NEWEST * (seconds - before)
        return self._with(about, blended)

    def decayed(self, about: str) -> Pace:
        """An estimate that kept the device out of a round is trusted less."""
        before = self.expected(about)
        return self if before is None else self._with(about, _DECAY * before)

    def _with(self, about: str, seconds: float) -> Pace:
        others = tuple(one for one in self.seconds if one[0] != about)
        return replace(self, seconds=(*others, (about, min(seconds, LONGEST_S)))[-REMEMBERED:])

    def upload_s(self, about: str) -> float | None:
        """How long an upload will take; None where too little is known."""
        known = self._uploads(about)
        return None if known is None or len(known.seconds) < 2 else min(known.seconds)  # noqa: PLR2004 - see the top

    def uploaded(self, about: str, seconds: float) -> Pace:
        """An upload has taken this long."""
        known = self._uploads(about)
        if known is None and seconds < QUICK_S:
            return self
        before = () if known is None else known.seconds[-1:]
        return self._with_uploads(UploadTimes(about, (*before, min(seconds, LONGEST_S))))

    def kept_out(self, about: str) -> tuple[Pace, bool]:
        """Uploads would keep the device out of a round; and whether they do, or are tried."""
        known = self._uploads(about)
        count = 1 if known is None else known.kept_out + 1
        kept = count < TRIED
        return (self if known is None else self._with_uploads(replace(known, kept_out=count if kept else 0))), kept

    def _uploads(self, about: str) -> UploadTimes | None:
        return next((one for one in self.uploads if one.about == about), None)

    def _with_uploads(self, known: UploadTimes) -> Pace:
        others = tuple(one for one in self.uploads if one.about != known.about)
        return replace(self, uploads=(*others, known)[-REMEMBERED:])


def subject(run: RunSettings) -> str:
    """What a run's training is known by."""
    return _digest(f"{run.plan.blob.digest}/{run.train.model_dump_json()}")


def upload_subject(run: RunSettings) -> str:
    """What the uploads of a run's updates are known by."""
    return _digest(f"{run.plan.blob.digest}/{run.codec}")


def why_not(needed_s: float, left_s: float) -> str:
    """What a device says that declines a deadline."""
    return (
        f"it would need about {needed_s:.0f} s, and the round leaves {left_s:.0f} s: "
        "a longer deadline or fewer epochs would let it take part"
    )


def why_no_upload(upload_s: float, trained_s: float, left_s: float) -> str:
    """What a device says that declines a deadline for its link's sake, having the update on disk in ``trained_s``."""
    after = f" after {trained_s:.0f} s of training" if trained_s else ""
    return f"it would need about {upload_s:.0f} s to upload its update{after}, {_leaves(left_s)}"


def why_not_yet(busy_s: float, trained_s: float, left_s: float) -> str:
    """The same of one that has been uploading for ``busy_s`` already, and isn't done."""
    trains = f", would train for {trained_s:.0f} s" if trained_s else ""
    return f"it has been uploading earlier updates for {busy_s:.0f} s{trains}, {_leaves(left_s)}"


def _leaves(left_s: float) -> str:
    return f"and the round leaves {left_s:.0f} s: a longer deadline or a codec of fewer bytes would let it take part"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
