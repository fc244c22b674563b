"""JSON documents taken apart, changed in what they mean, and written again as no JSON library would."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import dataclass
from typing import Any

_DEEP = 20_000
LONGEST = 1 << 20  # bytes of a document


class Raw(str):
    """Text that stands in the document as it is."""

    __slots__ = ()


@dataclass
class Object:
    """An object that may have a key twice."""

    pairs: list[tuple[str, Any]]


HOSTILE: tuple[Any, ...] = (
    *(Raw(text) for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-0", "0x10", "01", "1.", "+1", "nul")),
    *(
        Raw(text)
        for text in ("9" * 5000, "-" + "9" * 400, "0." + "0" * 5000 + "1", "1" + "0" * 309, "1e-400", "5e-324")
    ),
    *(-1, 0, 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**100, -(2**63) - 1, 0.5, 1e308, True, False, None),
    *("", "\ud800", "\0", "\n", "\u202e", "\x1b[2J", "\ufeff", "1", "..", "../../x", "+", "#", "x" * 70_000, "♥" * 500),
    *("__class__", "__import__('os')", "%labels", "%" * 100, "a" * 128, Raw('"\\ud800"'), Raw('"\\q"'), Raw("'x'")),
    *(Raw("[" * _DEEP), Raw("[" * 150 + "]" * 150), Raw('{"a":' * _DEEP + "1" + "}" * _DEEP), Raw('{"a":1,"a":1}')),
    *([], Object([]), [[]], [0] * 20_000, Raw("[" + "-1," * 60_000 + "-1]"), [None] * 5000, Object([("", 1)])),
    Raw("{" + ",".join(f'"{number:x}":0' for number in range(20_000)) + "}"),
)


def hostile(rng: random.Random) -> Any:
    """Something that stands in no message."""
    return copy.deepcopy(rng.choice(HOSTILE))


def parse(text: bytes) -> Any:
    """A document, with ``Object`` for its objects."""
    return json.loads(text, object_pairs_hook=Object)


def render(value: Any) -> bytes:
    """The text of a document, whatever stands in it."""
    return _text(value).encode("utf-8", "surrogatepass")[:LONGEST]


def _text(value: Any) -> str:
    match value:
        case Raw():
            return value
        case Object(pairs):
            return "{" + ",".join(f"{json.dumps(key)}:{_text(item)}" for key, item in pairs) + "}"
        case list():
            return "[" + ",".join(map(_text, value)) + "]"
        case str() if any(0xD800 <= ord(char) < 0xE000 for char in value):
            return f'"{value}"'  # in bytes that are no UTF-8
        case _:
            return json.dumps(value)


def mutate(rng: random.Random, document: Any, other: Any = None) -> Any:
    """``document``, changed in place or replaced, in one to three places; ``other`` lends pieces of itself."""
    for _ in range(rng.randint(1, 3)):
        holders = list(_holders(document))
        if not holders:
            return hostile(rng)
        holder = rng.choice(holders)
        _change(rng, holder, _piece(rng, other) if rng.random() < 0.2 else hostile(rng))
    return document


def _change(rng: random.Random, holder: Object | list[Any], value: Any) -> None:
    items: list[Any] = holder.pairs if isinstance(holder, Object) else holder
    at = rng.randrange(len(items))
    how = rng.choice(("replace", "replace", "replace", "remove", "repeat", "add", "swap"))
    if how == "remove":
        del items[at]
    elif how == "repeat":
        item = items[at]
        text = Raw(_text(item[1] if isinstance(item, tuple) else item))  # copies that no later change reaches
        copies = min(rng.choice((1, 2, 70, 3000)), LONGEST // (len(text) + 1))
        items[at:at] = [(item[0], text) if isinstance(item, tuple) else text] * copies
    elif how == "swap" and isinstance(holder, Object):
        to = rng.randrange(len(items))
        (key, mine), (name, theirs) = holder.pairs[at], holder.pairs[to]
        holder.pairs[at], holder.pairs[to] = (key, theirs), (name, mine)
    elif isinstance(holder, Object):
        key = holder.pairs[at][0] if how == "replace" else rng.choice(("later", "__proto__", "", "x" * 300, "\ud800"))
        holder.pairs[at if how == "replace" else len(items) :] = [
            (key, value),
            *(holder.pairs[at + 1 :] if how == "replace" else []),
        ]
    else:
        items[at] = value


def _holders(value: Any) -> Any:
    """Every object and list in a document that isn't empty."""
    items = [item for _, item in value.pairs] if isinstance(value, Object) else value if isinstance(value, list) else []
    if items:
        yield value
    for item in items[:200]:
        yield from _holders(item)


def _piece(rng: random.Random, other: Any) -> Any:
    holders = list(_holders(other))
    return copy.deepcopy(rng.choice(holders)) if holders else hostile(rng)
