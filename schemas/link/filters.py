"""What MQTT lets stand in a topic and in a subscription filter, and which topics a filter matches (MQTT 5, 4.7)."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 65_535  # bytes of UTF-8


def check_topic(topic: str) -> None:
    """Raise ``ValueError`` where nothing can be published to ``topic``."""
    if not topic or "+" in topic or "#" in topic or "\0" in topic or len(topic.encode()) > _LONGEST:
        raise ValueError(f"can't publish to {topic!r}: a topic has 1 to {_LONGEST} bytes, no wildcards and no NUL")


def check_filter(pattern: str) -> None:
    """Raise ``ValueError`` where ``pattern`` is no subscription filter."""
    levels = pattern.split("/")
    misplaced = any(("+" in level or "#" in level) and len(level) > 1 for level in levels) or "#" in levels[:-1]
    if not pattern or misplaced or "\0" in pattern or len(pattern.encode()) > _LONGEST:
        raise ValueError(f"can't subscribe to {pattern!r}: '+' stands for a whole level, '#' for all that follow")


def matches(pattern: str, topic: str) -> bool:
    """Whether a subscription to ``pattern`` receives what is published to ``topic``."""
    if topic.startswith("$") and pattern[:1] in {"+", "#"}:
        return False
    levels = topic.split("/")
    for place, level in enumerate(pattern.split("/")):
        if level == "#":
            return True
        if place == len(levels) or level not in {"+", levels[place]}:
            return False
    return pattern.count("/") == topic.count("/")
