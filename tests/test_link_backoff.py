from __future__ import annotations

import random
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BrokerRefused, BrokerUnreachable
from schemas.link.backoff import Backoff, judge


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - jitter, no secret


@given(st.integers(1, 10**6), st.integers())
def test_a_wait_is_never_negative_nor_over_its_bound(failures: int, seed: int) -> None:
    backoff = Backoff(first_s=0.5, longest_s=30.0)
    assert 0.0 <= backoff.wait_s(failures, seeded(seed)) <= backoff.bound_s(failures) <= 30.0


def test_the_bound_doubles_until_it_is_reached() -> None:
    assert [Backoff(1.0, 10.0).bound_s(failures) for failures in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_waits_are_spread_over_the_whole_bound_and_repeat_with_their_seed() -> None:
    backoff = Backoff(first_s=1.0)
    waits = [backoff.wait_s(1, seeded(seed)) for seed in range(1000)]
    assert min(waits) < 0.05
    assert max(waits) > 0.95
    assert waits == [backoff.wait_s(1, seeded(seed)) for seed in range(1000)]


@pytest.mark.parametrize("code", [0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x90, 0x95, 0x9A, 0x9B, 0x9C, 0x9D])
def test_a_refusal_that_would_be_repeated_is_fatal(code: int) -> None:
    verdict = judge(code, "mqtt://h:1")
    assert verdict.fatal
    assert isinstance(verdict.error, BrokerRefused)
    assert "mqtt://h:1" in str(verdict.error)


@pytest.mark.parametrize("code", [0x80, 0x81, 0x82, 0x83, 0x88, 0x89, 0x8B, 0x8D, 0x8E, 0x93, 0x97, 0x98, 0x9F, 0xEE])
def test_a_refusal_that_may_pass_is_not_fatal(code: int) -> None:
    assert not judge(code, "mqtt://h:1").fatal


@pytest.mark.parametrize(
    ("error", "kind", "fatal", "advice"),
    [
        (ConnectionRefusedError(111, "Connection refused"), BrokerUnreachable, False, "connection refused"),
        (TimeoutError("timed out"), BrokerUnreachable, False, "timed out"),
        (OSError(), BrokerUnreachable, False, "oserror"),
        (socket.gaierror(-2, "Name or service not known"), BrokerUnreachable, False, "looked up"),
        (ssl.SSLEOFError(8, "EOF occurred"), BrokerUnreachable, False, "eof"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), BrokerRefused, True, "check the port"),
    ],
)
def test_a_failed_connection_is_judged_by_its_kind(error: OSError, kind: type, fatal: bool, advice: str) -> None:  # noqa: FBT001
    verdict = judge(error, "mqtts://h:1")
    assert (type(verdict.error), verdict.fatal) == (kind, fatal)
    assert advice in str(verdict.error)


@pytest.mark.parametrize(
    ("code", "fatal", "advice"),
    [(9, False, "clock"), (10, False, "a new one, unless it is this machine's clock"), (20, True, "ca")],
)
def test_a_certificate_out_of_date_may_be_the_fault_of_our_clock(code: int, fatal: bool, advice: str) -> None:  # noqa: FBT001
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "reason"
    verdict = judge(error, "mqtts://h:1")
    assert verdict.fatal is fatal
    assert advice in str(verdict.error)
