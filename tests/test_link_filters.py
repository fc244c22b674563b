from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.link.filters import check_filter, check_topic, matches

LEVEL = st.text("abc", max_size=2)
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b/c", "a/b", False),
        ("a/+", "a/", True),
        ("+", "/a", False),
        ("+/+", "/a", True),
        ("a/#", "a", True),
        ("a/#", "ab", False),
        ("#", "a/b/c", True),
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/#", "$SYS/a", True),
        ("a/+/c/#", "a/b/c/d/e", True),
    ],
)
def test_filters_match_as_the_standard_says(pattern: str, topic: str, expected: bool) -> None:  # noqa: FBT001
    assert matches(pattern, topic) is expected


@given(TOPIC)
def test_a_topic_matches_itself_and_every_weakening_of_itself(topic: str) -> None:
    levels = topic.split("/")
    check_topic(topic)
    assert matches(topic, topic)
    for place in range(len(levels)):
        for pattern in ("/".join([*levels[:place], "+", *levels[place + 1 :]]), "/".join([*levels[:place], "#"])):
            check_filter(pattern)
            assert matches(pattern, topic)


@given(TOPIC, TOPIC)
def test_without_wildcards_only_the_same_matches(one: str, other: str) -> None:
    assert matches(one, other) is (one == other)
