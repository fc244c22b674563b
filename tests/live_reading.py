"""Reading a live source in a test: open it by its setting, and take what it gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge.live import open_source
from edge.live.setting import Surroundings
from edge.live.source import Chunk, LiveSource
from schemas.link.mqtt_settings import MqttSettings
from tests.waiting import until


@contextmanager
def opened(setting: str, mqtt: Callable[[str], MqttSettings] | None = None) -> Iterator[LiveSource]:
    """The source of this setting, closed in the end."""
    source = open_source(setting, Surroundings(time.monotonic, mqtt))
    try:
        yield source
    finally:
        source.close()


def gather(source: LiveSource, samples: int) -> list[Chunk]:
    """Chunks until so many samples have come, lost ones included."""
    chunks: list[Chunk] = []

    def enough() -> bool:
        if (chunk := source.read(0.2)) is not None:
            chunks.append(chunk)
        return sum(len(each.samples[0]) + each.lost for each in chunks) >= samples

    until(enough, f"{samples} samples")
    return chunks


def values(chunks: list[Chunk], lead: int = 0) -> list[float]:
    """A lead's samples, one after the other."""
    return [value for chunk in chunks for value in chunk.samples[lead]]
