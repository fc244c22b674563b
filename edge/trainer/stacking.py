"""Which trainings that wait are done together, and how a trainer child is asked for it. Pure; the agent imports it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from edge.core.jobs import MAX_KEY, MAX_TOGETHER, Accelerator, Job, Together, Train, Warm


class Stacking(NamedTuple):
    """How trainings are done together."""

    width: int | None = None  # devices in one step; by the plan's size if None
    accelerator: Accelerator = "cpu"


def alike(
    first: Job | Warm, others: Iterable[Job | Warm], children: int, running: Iterable[Job | Warm] = ()
) -> list[int]:
    """The places among ``others`` of what one of ``children`` does together with ``first``.

    That is its share of all alike, those that are ``running`` elsewhere included: the last child takes what is left
    rather than half of it. A training beside layers of the device's own has a model of its own, and is done alone.
    """
    if not isinstance(first, Train) or first.local:
        return []
    keys = {first.key}
    places = []
    for place, other in enumerate(others):
        if isinstance(other, Train) and other.key not in keys and _subject(other) == _subject(first):
            keys.add(other.key)
            places.append(place)
    elsewhere = sum(isinstance(other, Train) and _subject(other) == _subject(first) for other in running)
    share = math.ceil((1 + len(places) + elsewhere) / children)
    return places[: min(share, MAX_TOGETHER) - 1]


def sharing(job: Job, newest: Train | None) -> Job:
    """``job`` with the plan and model of ``newest`` where they are equal, so that a waiting fleet holds them once."""
    if isinstance(job, Train) and newest is not None and (job.plan, job.model) == (newest.plan, newest.model):
        return job.model_copy(update={"plan": newest.plan, "model": newest.model})
    return job


def request(jobs: Sequence[Job | Warm], stacking: Stacking | None) -> Iterator[bytes]:
    """The frames that ask for ``jobs``: one as it is, several together, with their plan and model sent once."""
    first = jobs[0]
    single = len(jobs) == 1 and (stacking is None or stacking.accelerator == "cpu")
    if stacking is None or not isinstance(first, Train) or first.local or single:
        yield from first.frames()
        return
    together = Together(
        key=f"{first.key}+"[-MAX_KEY:],
        plan=first.plan,
        model=first.model,
        jobs=len(jobs),
        width=stacking.width,
        accelerator=stacking.accelerator,
    )
    yield from together.frames()
    for job in jobs:
        yield from job.model_copy(update={"plan": b"", "model": b""}).frames()


def _subject(job: Train) -> tuple[object, ...]:
    return job.settings, job.plan, job.model, job.local
