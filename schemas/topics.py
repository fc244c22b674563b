"""The topic tree: build, parse, and for each topic its QoS, retain flag and publisher. The only topic strings.

A topic is ``<root>/v1/<federation>/<below>``. ``RULES`` is the table of what stands below; ``Topics`` builds the
strings of one federation and ``Topics.parse`` turns a topic back into an ``Address`` or ``None``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from schemas.errors import SettingsError

VERSION: Final = "v1"
NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")  # devices and federations; also what an MQTT wildcard can't be


class Kind(StrEnum):
    """What a topic carries; the value is the pattern below the federation's root."""

    COORDINATOR = "coordinator"
    RUN = "run"
    PLAN_PART = "plan/{digest}/{part}"
    MODEL = "model"
    MODEL_PART = "model/{number}/{part}"
    DELTA_PART = "model/{number}/delta/{part}"
    ROUND = "rounds/current"
    SUMMARY = "rounds/{number}"
    JOIN = "rounds/{number}/join/{device}"
    UPDATE_PART = "rounds/{number}/update/{device}/{part}"
    RECEIPT = "rounds/{number}/receipt/{device}"
    DEVICE = "devices/{device}"
    COMMAND = "devices/{device}/command"
    FINDINGS = "devices/{device}/findings"


Publisher = Literal["coordinator", "device"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a kind of topic is used: who may publish it, whether it is retained, its QoS, and JSON or protobuf."""

    publisher: Publisher
    retain: bool
    qos: Literal[0, 1]
    form: Literal["json", "protobuf"]
    bulk: bool = False  # travels in a bounded window behind everything else


RULES: Final[dict[Kind, Rule]] = {
    Kind.COORDINATOR: Rule("coordinator", retain=True, qos=1, form="json"),
    Kind.RUN: Rule("coordinator", retain=True, qos=1, form="json"),
    Kind.PLAN_PART: Rule("coordinator", retain=True, qos=1, form="protobuf", bulk=True),
    Kind.MODEL: Rule("coordinator", retain=True, qos=1, form="json"),
    Kind.MODEL_PART: Rule("coordinator", retain=True, qos=1, form="protobuf", bulk=True),
    Kind.DELTA_PART: Rule("coordinator", retain=True, qos=1, form="protobuf", bulk=True),
    Kind.ROUND: Rule("coordinator", retain=True, qos=1, form="json"),
    Kind.SUMMARY: Rule("coordinator", retain=True, qos=1, form="json"),
    Kind.JOIN: Rule("device", retain=False, qos=1, form="json"),
    Kind.UPDATE_PART: Rule("device", retain=False, qos=1, form="protobuf", bulk=True),
    Kind.RECEIPT: Rule("coordinator", retain=False, qos=1, form="json"),
    Kind.DEVICE: Rule("device", retain=True, qos=1, form="json"),
    Kind.COMMAND: Rule("coordinator", retain=False, qos=1, form="json"),
    Kind.FINDINGS: Rule("device", retain=False, qos=1, form="json"),
}


@dataclass(frozen=True, slots=True)
class Address:
    """One topic below a federation's root, parsed: its kind and the fields its pattern names."""

    kind: Kind
    number: int | None = None  # a round, or a model version
    device: str | None = None
    digest: str | None = None
    part: int | None = None

    @property
    def rule(self) -> Rule:
        """How this topic is used."""
        return RULES[self.kind]

    def below(self) -> str:
        """The topic below the federation's root."""
        return self.kind.value.format(number=self.number, device=self.device, digest=self.digest, part=self.part)


def _pattern(kind: Kind) -> re.Pattern[str]:
    groups = {
        "{number}": r"(?P<number>0|[1-9][0-9]{0,8})",
        "{part}": r"(?P<part>0|[1-9][0-9]{0,8})",
        "{device}": r"(?P<device>[a-z0-9][a-z0-9-]{2,62})",
        "{digest}": r"(?P<digest>[0-9a-f]{64})",
    }
    text = kind.value
    for field, group in groups.items():
        text = text.replace(field, group)
    return re.compile(text)


_PATTERNS: Final[dict[str, tuple[tuple[Kind, re.Pattern[str]], ...]]] = {  # by the first level, the longest first
    first: tuple((kind, _pattern(kind)) for kind in sorted(Kind, key=len, reverse=True) if kind.split("/")[0] == first)
    for first in {kind.split("/")[0] for kind in Kind}
}


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it can stand in a topic, else raise ``SettingsError``."""
    if not NAME.fullmatch(name):
        raise SettingsError(
            f"{what} {name!r} can't stand in a topic: use 3 to 63 lower-case letters, digits and hyphens, "
            "beginning with a letter or digit"
        )
    return name


class Topics:
    """The topics of one federation."""

    def __init__(self, federation: str, root: str = "fl") -> None:
        """``root`` may have several levels; ``federation`` is one."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", root):
            raise SettingsError(f"topic root {root!r}: use letters, digits, '_', '.', '-', and '/' between levels")
        self.federation = check_name(federation, "federation")
        self.prefix = f"{root}/{VERSION}/{federation}/"

    def parse(self, topic: str) -> Address | None:
        """The address of ``topic``, or None where it is not one of this federation's topics."""
        if not topic.startswith(self.prefix):
            return None
        below = topic[len(self.prefix) :]
        for kind, pattern in _PATTERNS.get(below.partition("/")[0], ()):
            if match := pattern.fullmatch(below):
                fields = match.groupdict()
                number, part = fields.get("number"), fields.get("part")
                return Address(
                    kind,
                    number=None if number is None else int(number),
                    device=fields.get("device"),
                    digest=fields.get("digest"),
                    part=None if part is None else int(part),
                )
        return None

    def topic(self, address: Address) -> str:
        """The whole topic of ``address``."""
        return self.prefix + address.below()

    def filter(
        self,
        kind: Kind,
        *,
        device: str | None = None,
        number: int | None = None,
        digest: str | None = None,
        part: int | None = None,
    ) -> str:
        """A subscription filter for every topic of ``kind``, narrowed by what of it is given."""
        return self.prefix + kind.value.format(
            number="+" if number is None else number,
            device=device or "+",
            digest=digest or "+",
            part="+" if part is None else part,
        )
