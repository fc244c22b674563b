from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import SettingsError
from schemas.topics import RULES, Address, Kind, Topics

DIGEST = "0f" * 32
TOPICS = Topics("home")

# Each kind's address and the topic it must have, as docs/protocol.md lists them.
EXAMPLES = {
    Kind.COORDINATOR: (Address(Kind.COORDINATOR), "coordinator"),
    Kind.RUN: (Address(Kind.RUN), "run"),
    Kind.PLAN_PART: (Address(Kind.PLAN_PART, digest=DIGEST, part=3), f"plan/{DIGEST}/3"),
    Kind.MODEL: (Address(Kind.MODEL), "model"),
    Kind.MODEL_PART: (Address(Kind.MODEL_PART, number=7, part=0), "model/7/0"),
    Kind.DELTA_PART: (Address(Kind.DELTA_PART, number=7, part=0), "model/7/delta/0"),
    Kind.ROUND: (Address(Kind.ROUND), "rounds/current"),
    Kind.SUMMARY: (Address(Kind.SUMMARY, number=12), "rounds/12"),
    Kind.JOIN: (Address(Kind.JOIN, number=12, device="pi-1"), "rounds/12/join/pi-1"),
    Kind.UPDATE_PART: (Address(Kind.UPDATE_PART, number=12, device="pi-1", part=4), "rounds/12/update/pi-1/4"),
    Kind.RECEIPT: (Address(Kind.RECEIPT, number=12, device="pi-1"), "rounds/12/receipt/pi-1"),
    Kind.DEVICE: (Address(Kind.DEVICE, device="pi-1"), "devices/pi-1"),
    Kind.COMMAND: (Address(Kind.COMMAND, device="pi-1"), "devices/pi-1/command"),
    Kind.FINDINGS: (Address(Kind.FINDINGS, device="pi-1"), "devices/pi-1/findings"),
}


def _matches(pattern: str, topic: str) -> bool:
    """MQTT's rule for filters without ``#``: level by level, ``+`` for any one."""
    levels, wanted = topic.split("/"), pattern.split("/")
    return len(levels) == len(wanted) and all(w in {"+", level} for w, level in zip(wanted, levels, strict=True))


def test_there_is_a_rule_and_an_example_for_every_kind() -> None:
    assert set(RULES) == set(Kind) == set(EXAMPLES)


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_a_topic_is_built_and_parsed_back(kind: Kind) -> None:
    address, below = EXAMPLES[kind]
    assert TOPICS.topic(address) == f"fl/v1/home/{below}"
    assert TOPICS.parse(f"fl/v1/home/{below}") == address
    assert address.rule is RULES[kind]


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_a_filter_takes_its_kind_and_no_other(kind: Kind) -> None:
    taken = {other for other, (address, _) in EXAMPLES.items() if _matches(TOPICS.filter(kind), TOPICS.topic(address))}
    # An MQTT filter can't tell a round's number from "current"; ``parse`` does.
    assert taken - {kind} <= ({Kind.ROUND} if kind is Kind.SUMMARY else set())
    assert kind in taken


def test_a_filter_is_narrowed_to_a_device_and_a_round() -> None:
    assert TOPICS.filter(Kind.RECEIPT, device="pi-1") == "fl/v1/home/rounds/+/receipt/pi-1"
    assert TOPICS.filter(Kind.UPDATE_PART, number=0) == "fl/v1/home/rounds/0/update/+/+"
    assert TOPICS.filter(Kind.COMMAND, device="pi-1") == "fl/v1/home/devices/pi-1/command"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fl/v1/home",
        "fl/v1/home/",
        "fl/v1/home/unknown",
        "fl/v1/homes/run",
        "fl/v2/home/run",
        "fl/v1/other/run",
        "x/fl/v1/home/run",
        "fl/v1/home/run/",
        "fl/v1/home/run\n",
        "fl/v1/home//run",
        "fl/v1/home/RUN",
        "fl/v1/home/rounds/01",
        "fl/v1/home/rounds/-1",
        "fl/v1/home/rounds/1000000000",
        "fl/v1/home/rounds/१",
        "fl/v1/home/rounds/1/join/UP",
        "fl/v1/home/rounds/1/join/ab",
        "fl/v1/home/rounds/1/join/pi-1\n",
        "fl/v1/home/rounds/1/join/" + "a" * 64,
        "fl/v1/home/rounds/1/update/pi-1/",
        "fl/v1/home/rounds/1/update/pi-1/+",
        "fl/v1/home/devices/#",
        f"fl/v1/home/plan/{DIGEST.upper()}/0",
        f"fl/v1/home/plan/{DIGEST}0/0",
        "fl/v1/home/model/1/delta",
    ],
)
def test_a_topic_of_nobodys_is_not_parsed(topic: str) -> None:
    assert TOPICS.parse(topic) is None


alphabet = st.sampled_from(
    ["rounds", "current", "join", "update", "model", "delta", "devices", "pi-1", "0", "12", "x\n"]
)


@settings(max_examples=300)
@given(st.lists(alphabet, max_size=6).map("/".join) | st.text(max_size=40))
def test_what_is_parsed_is_exactly_what_would_be_built(below: str) -> None:
    topic = TOPICS.prefix + below
    address = TOPICS.parse(topic)
    assert address is None or TOPICS.topic(address) == topic


def test_devices_publish_only_below_their_own_names() -> None:
    for kind, (address, below) in EXAMPLES.items():
        if RULES[kind].publisher == "device":
            assert replace(address, device="pi-2").below() == below.replace("pi-1", "pi-2") != below


def test_what_a_late_joiner_needs_is_retained_and_what_is_said_once_is_not() -> None:
    retained = {kind for kind, rule in RULES.items() if rule.retain}
    once = {Kind.JOIN, Kind.UPDATE_PART, Kind.RECEIPT, Kind.COMMAND, Kind.FINDINGS}
    assert retained == set(Kind) - once
    assert {kind for kind, rule in RULES.items() if rule.bulk} == {k for k, r in RULES.items() if r.form == "protobuf"}
    assert all(rule.qos == 1 for rule in RULES.values())


@pytest.mark.parametrize(
    "name", ["", "ab", "a" * 64, "Home", "my home", "a/b", "home/", "+++", "###", "-home", "home\n"]
)
def test_a_federation_that_can_not_stand_in_a_topic_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"federation .* can't stand in a topic: use 3 to 63"):
        Topics(name)


@pytest.mark.parametrize("root", ["", "/", "fl/", "/fl", "fl//x", "fl/+", "#", "$SYS", "f l", "fl\n"])
def test_a_root_that_can_not_begin_a_topic_is_refused(root: str) -> None:
    with pytest.raises(SettingsError, match="topic root"):
        Topics("home", root)


def test_a_root_may_have_several_levels() -> None:
    topics = Topics("home", "lab/north-2/fl.x")
    assert topics.topic(Address(Kind.RUN)) == "lab/north-2/fl.x/v1/home/run"
    assert topics.parse("lab/north-2/fl.x/v1/home/run") == Address(Kind.RUN)
    assert topics.parse("fl/v1/home/run") is None
