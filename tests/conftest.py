"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.link_mosquitto import Mosquitto


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running mosquitto of this test's own: ``port``, ``address``, ``restart()``, ``kill()``, ``start()``.

    Anybody may connect. It takes payloads up to 1 MiB and keeps retained messages over ``restart``.
    """
    directory = tmp_path / "mosquitto"
    directory.mkdir()
    with Mosquitto(directory) as broker:
        yield broker
