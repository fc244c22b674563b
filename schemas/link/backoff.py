"""When to try again: how long to wait as a value, and the one decision whether trying again can help.

Waiting follows full jitter (M. Brooker, "Exponential Backoff and Jitter", AWS 2015): uniform between zero and an
exponentially growing bound, so that a fleet that lost its broker in one moment doesn't come back in one moment.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Final, Protocol

from schemas.errors import BrokerRefused, BrokerUnreachable, LinkError


class Draw(Protocol):
    """Where jitter comes from: ``random.Random`` is one."""

    def random(self) -> float:
        """A number in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait after the n-th failure in a row is uniform in [0, min(longest_s, first_s x factor^(n-1)))."""

    first_s: float = 0.5
    longest_s: float = 30.0
    factor: float = 2.0
    settled_s: float = 5.0  # a connection that held this long ends the row of failures

    def bound_s(self, failures: int) -> float:
        """The longest wait after ``failures`` >= 1 in a row, in seconds."""
        # Past 64 doublings any bound is reached; a larger exponent would overflow a float after a week offline.
        return min(self.longest_s, self.first_s * self.factor ** min(failures - 1, 64))

    def wait_s(self, failures: int, draw: Draw) -> float:
        """Seconds to wait after ``failures`` >= 1 in a row."""
        return draw.random() * self.bound_s(failures)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failure to connect means, and whether only a person can mend it."""

    error: LinkError
    fatal: bool


# MQTT 5 reason codes of CONNACK and DISCONNECT; the six of MQTT 3.1.1 are translated to these by the client.
UNSUPPORTED_VERSION: Final = 0x84
_FATAL: Final = {
    UNSUPPORTED_VERSION: "it speaks neither MQTT 5 nor 3.1.1",
    0x85: "it does not take our client id: choose another name",
    0x86: "wrong user name or password: check them, and the broker's password file",
    0x87: "we are not authorised: give user name and password, and check the broker's password file and acl",
    0x8A: "we are banned",
    0x8C: "it wants another way of authentication",
    0x90: "it does not take the topic of our last will: check its acl",
    0x95: "it takes no packet as large as one of ours: lower part_size",
    0x9A: "it keeps no retained messages, which a federation rests on: switch them on, or use another broker",
    0x9B: "it offers no QoS 1, which a federation rests on: use another broker",
    0x9C: "it wants us to use another server",
    0x9D: "it has moved to another server",
}
_TRANSIENT: Final = {
    0x88: "it is unavailable",
    0x89: "it is busy",
    0x8B: "it is shutting down",
    0x8D: "it heard nothing from us for too long",
    0x8E: "another client connects with our client id: give every device its own name",
    0x93: "we sent more at once than it takes",
    0x97: "our quota is used up",
    0x98: "its operator disconnected us",
    0x9F: "we connect too often",
}
_OUT_OF_DATE: Final = {  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED
    9: "check this machine's clock",
    10: "give the broker a new one, unless it is this machine's clock that is wrong",
}


def judge(cause: int | OSError, broker: str) -> Verdict:
    """Decide what a refusal (its MQTT 5 reason code) or a failed connection (its exception) means.

    Refused credentials, identities and protocols are fatal: the same again would be refused again. Nothing that a
    broker's restart, a network or a clock may mend by itself is.
    """
    if isinstance(cause, int):
        if cause in _FATAL:
            return Verdict(BrokerRefused(f"the broker at {broker} refuses us: {_FATAL[cause]}"), fatal=True)
        why = _TRANSIENT.get(cause, f"reason code {cause:#x}")
        return Verdict(BrokerRefused(f"the broker at {broker} turned us away: {why}"), fatal=False)
    if isinstance(cause, ssl.SSLCertVerificationError):
        # A Pi has no clock of its own: until it hears the time, any certificate looks out of date.
        advice = _OUT_OF_DATE.get(cause.verify_code, "check the ca setting, and the name it was issued for")
        text = f"the certificate of {broker} can't be trusted: {cause.verify_message}; {advice}"
        return Verdict(BrokerRefused(text), fatal=cause.verify_code not in _OUT_OF_DATE)
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        text = f"no TLS with {broker}: {cause}; check the port, and whether it wants our certificate"
        return Verdict(BrokerRefused(text), fatal=True)
    if isinstance(cause, socket.gaierror):
        return Verdict(BrokerUnreachable(f"the broker's name in {broker} can't be looked up: check it"), fatal=False)
    reason = cause.strerror or str(cause) or type(cause).__name__
    text = f"no broker answers at {broker} ({reason.lower()}): check that it runs there and that nothing blocks the way"
    return Verdict(BrokerUnreachable(text), fatal=False)
