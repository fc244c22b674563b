"""Every way to fail, in one tree; each message says what the user should do next.

    FedbeatError
    |-- SettingsError     a setting is missing, malformed or contradicts another      (exit 2)
    |-- DataError         recordings are missing, empty or of the wrong kind           (exit 3)
    |-- PlanError         a plan is malformed, outside the allow-list or over a bound  (exit 4)
    |-- LinkError         the broker can't be used                                     (exit 5)
    |   |-- BrokerUnreachable   nothing answers there
    |   |-- BrokerRefused       it answers, and refuses us
    |   `-- PayloadTooLarge     the broker would throw this payload away
    |-- FederationError   the broker works, the federation doesn't: no device came   (exit 6)
    |   `-- Superseded          another coordinator serves it
    |       `-- Outranked           one with a higher session did: go on with a higher one
    |-- StateError        the state directory can't be read or written                 (exit 7)
    |   |-- DiskFull            it takes no more for now; the same write may succeed later
    |   `-- ModelError          a device's model is not the one it should be: fetched anew
    |-- TrainingError     training went wrong in the numbers: a loss that isn't finite (exit 8)
    `-- WireError         bytes from outside are not what the protocol allows

``WireError`` is the one error a decoder raises, and it never reaches a user: it becomes a counted rejection.
"""

from __future__ import annotations

from enum import StrEnum


class FedbeatError(Exception):
    """The root; ``exit_code`` is what a command ends with when this reaches the user."""

    exit_code = 1


class SettingsError(FedbeatError):
    """A setting is missing, malformed or contradicts another one."""

    exit_code = 2


class DataError(FedbeatError):
    """Recordings are missing, empty, unlabelled or of the wrong kind."""

    exit_code = 3


class PlanError(FedbeatError):
    """A plan is malformed, uses an operation outside the allow-list, or is over a bound."""

    exit_code = 4


class LinkError(FedbeatError):
    """The broker can't be used."""

    exit_code = 5


class BrokerUnreachable(LinkError):
    """Nothing answers at the broker's address."""


class BrokerRefused(LinkError):
    """The broker answers and refuses the connection: credentials, client id, protocol."""


class PayloadTooLarge(LinkError):
    """A payload is larger than the broker takes; refused before it was queued."""


class FederationError(FedbeatError):
    """The broker works but the federation doesn't: no device came, or a second coordinator is at work."""

    exit_code = 6


class Superseded(FederationError):
    """Another coordinator serves the federation: this one may publish nothing there, not even a goodbye.

    ``session`` is the other one's.
    """

    def __init__(self, message: str, session: int = 0) -> None:
        super().__init__(message)
        self.session = session


class Outranked(Superseded):
    """Another coordinator with a higher session, which devices follow, has ended: this one can go on above that."""


class StateError(FedbeatError):
    """The state directory can't be read or written."""

    exit_code = 7


class DiskFull(StateError):
    """The disk takes no more for now: it is full, over a quota, or a write failed (EIO).

    Nothing of what was to be written is kept, and all that was written before is. The same may succeed later.
    """


class ModelError(StateError):
    """A device's model is not the one it should be; it never reaches a user, since the device fetches it anew."""


class TrainingError(FedbeatError):
    """Training or evaluation went wrong in the numbers: the loss isn't finite."""

    exit_code = 8


class Reject(StrEnum):
    """Why a message or an update was refused; the words are also the counters' names."""

    MALFORMED = "malformed"  # not the bytes of any message
    TOO_LARGE = "too-large"  # over a bound, checked before allocating
    TRUNCATED = "truncated"  # ends before it should
    WRONG_DIGEST = "wrong-digest"  # the bytes are not the ones announced
    WRONG_SHAPE = "wrong-shape"  # tensors don't match the model's manifest
    NOT_FINITE = "not-finite"  # NaN or infinity
    OUT_OF_RANGE = "out-of-range"  # a number outside its declared range
    WRONG_SENDER = "wrong-sender"  # the message names another device than its topic
    WRONG_RUN = "wrong-run"  # another run, round, task, nonce or model version
    UNKNOWN_DEVICE = "unknown-device"
    UNKNOWN_CODEC = "unknown-codec"
    NOT_SELECTED = "not-selected"
    EQUIVOCATION = "equivocation"  # another update for a round than the one that counts already
    UNEXPECTED = "unexpected"  # a topic nobody should have published to


class WireError(FedbeatError):
    """Bytes from outside are not what the protocol allows; ``reason`` is for counting, the text for reading."""

    def __init__(self, reason: Reject, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
