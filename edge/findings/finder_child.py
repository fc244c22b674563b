"""The agent's side of findings: a child process that finds beats, what it is told, and its windows as messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from edge.kept_child import KeptChild
from schemas.findings import Findings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """What to follow, and what to make of it. ``state`` is the device's, where its models lie."""

    directory: str
    state: str
    window_s: float = 300.0
    alerts: str = ""
    nice: int = 10
    personal: bool = False  # whether a model that is the owner's own is used, where it is better than the global one

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


class FinderChild(KeptChild):
    """Finds beats in a process of its own, for as long as it is entered. ``found`` is called on a thread of its own."""

    def __init__(self, finding: Finding, device: str, software: str, found: Callable[[Findings], None]) -> None:
        """Nothing is started yet."""
        super().__init__("edge.findings.finder", finding.as_json(), "the finder of beats", "findings")
        self._device = device
        self._software = software
        self._found = found

    def heard(self, event: str, text: str, told: Mapping[str, Any]) -> None:
        """Hand on what was found; log all else, and alerts."""
        if event == "findings":
            try:
                about = {**told["findings"], "device": self._device, "software": self._software}
                self._found(Findings.model_validate(about))
            except (KeyError, TypeError, ValidationError) as error:
                _log.warning("what the finder of beats said is no window: %.200s", error)
            if text:
                _log.info("findings: %s", text)
        else:
            _log.log(logging.WARNING if event in {"failed", "trouble"} else logging.INFO, "%s", text)
