from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import SettingsError
from schemas.link.address import BrokerAddress


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mqtt://broker", BrokerAddress("broker", 1883)),
        ("mqtts://broker", BrokerAddress("broker", 8883, tls=True)),
        ("mqtt://pi.local:2883/", BrokerAddress("pi.local", 2883)),
        ("mqtt://user:secret@broker", BrokerAddress("broker", 1883, False, "user", "secret")),
        ("mqtts://user@broker", BrokerAddress("broker", 8883, tls=True, username="user")),
        ("mqtt://[::1]:99", BrokerAddress("::1", 99)),
        ("mqtt://[fe80::1%25eth0]", BrokerAddress("fe80::1%25eth0", 1883)),
        ("mqtt://u%40x:p%2F%3A@10.0.0.1", BrokerAddress("10.0.0.1", 1883, False, "u@x", "p/:")),
    ],
)
def test_an_address_is_read_with_its_default_port_and_login(text: str, expected: BrokerAddress) -> None:
    assert BrokerAddress.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "broker",
        "broker:1883",
        "http://broker",
        "mqtt:broker",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://broker:port",
        "mqtt://broker:70000",
        "mqtt://broker:0",
        "mqtt://broker/topic",
        "mqtt://broker?x=1",
        "mqtt://two words",
        "mqtt://a..b",
        "mqtt://[::1",
        "mqtt://[nonsense]",
        "mqtt://:secret@broker",
        "mqtt://user:se/cret@broker",
    ],
)
def test_what_is_no_address_is_refused_with_what_to_write_instead(text: str) -> None:
    with pytest.raises(SettingsError, match="mqtt://host") as refused:
        BrokerAddress.parse(text)
    assert "secret" not in str(refused.value)
    assert "se/cret" not in str(refused.value)


@given(st.text(max_size=40))
def test_no_text_raises_anything_but_a_settings_error(text: str) -> None:
    for candidate in (text, f"mqtt://{text}", f"mqtts://{text}:1@h"):
        try:
            BrokerAddress.parse(candidate)
        except SettingsError:
            continue


def test_the_printed_form_can_be_read_again_and_keeps_the_login_to_itself() -> None:
    for text in ("mqtts://user:secret@broker:99", "mqtt://user:secret@[::1]"):
        address = BrokerAddress.parse(text)
        assert "secret" not in f"{address} {address!r}"
        assert BrokerAddress.parse(str(address)).with_login("user", "secret") == address


def test_a_login_of_its_own_is_not_overridden_by_settings() -> None:
    assert BrokerAddress.parse("mqtt://a:b@h").with_login("c", "d") == BrokerAddress.parse("mqtt://a:b@h")
    assert BrokerAddress.parse("mqtt://h").with_login("", "") == BrokerAddress.parse("mqtt://h")


def test_a_password_without_a_user_name_is_refused() -> None:
    with pytest.raises(SettingsError, match="add username"):
        BrokerAddress.parse("mqtt://h").with_login("", "secret")
