import hashlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import parts
from schemas.errors import Reject, WireError
from schemas.messages import MAX_PARTS, BlobRef, Part

BLOB = bytes(range(256)) * 4
REF = parts.describe(BLOB, 300)  # four parts of 256 bytes


def _all(blob: bytes, ref: BlobRef) -> list[Part]:
    return [parts.cut(blob, ref, index) for index in range(ref.parts)]


def _refused(assembly: parts.Assembly, part: Part) -> Reject:
    with pytest.raises(WireError) as caught:
        assembly.add(part)
    return caught.value.reason


def test_a_reference_says_what_the_blob_is() -> None:
    assert BlobRef(digest=hashlib.sha256(BLOB).hexdigest(), size=1024, parts=4) == REF


@given(st.binary(min_size=1, max_size=500), st.integers(1, 600))
def test_parts_are_equally_long_but_the_last_and_never_over_the_part_size(blob: bytes, part_size: int) -> None:
    ref = parts.describe(blob, part_size)
    lengths = [len(part.payload) for part in _all(blob, ref)]
    assert len(set(lengths[:-1])) <= 1
    assert 1 <= lengths[-1] <= lengths[0] <= part_size
    assert b"".join(part.payload for part in _all(blob, ref)) == blob


@given(st.data())
def test_parts_in_any_order_and_repeated_make_the_blob(data: st.DataObject) -> None:
    blob = data.draw(st.binary(min_size=1, max_size=300))
    ref = parts.describe(blob, data.draw(st.integers(1, 60)))
    indices = data.draw(st.permutations(range(ref.parts)))
    indices = [*indices, *data.draw(st.lists(st.integers(0, ref.parts - 1)))]
    indices = data.draw(st.permutations(indices))
    assembly = parts.Assembly(ref, limit=300)
    seen: set[int] = set()
    for index in indices:
        assert assembly.add(parts.cut(blob, ref, index)) is (index not in seen)
        seen.add(index)
        assert assembly.missing() == tuple(sorted(set(range(ref.parts)) - seen))
        assert assembly.complete is (len(seen) == ref.parts)
    assert assembly.blob() == blob


def test_a_blob_with_parts_missing_says_so_and_goes_on() -> None:
    assembly = parts.Assembly(REF, limit=1024)
    for index in (3, 0):
        assembly.add(parts.cut(BLOB, REF, index))
    assert assembly.missing() == (1, 2)
    with pytest.raises(WireError, match="truncated: 2 of 4 parts"):
        assembly.blob()
    for index in (1, 2):
        assembly.add(parts.cut(BLOB, REF, index))
    assert assembly.blob() == BLOB


def test_a_joined_blob_stays_and_takes_no_more_parts() -> None:
    assembly = parts.Assembly(REF, limit=1024)
    for part in _all(BLOB, REF):
        assembly.add(part)
    assert assembly.blob() is assembly.blob()
    assert assembly.add(parts.cut(BLOB, REF, 0)) is False
    assert assembly.complete
    assert assembly.missing() == ()


def test_a_corrupted_part_is_found_by_the_digest_and_the_blob_begins_again() -> None:
    assembly = parts.Assembly(REF, limit=1024)
    for part in _all(BLOB, REF):
        assembly.add(part.model_copy(update={"payload": bytes(256)}) if part.index == 2 else part)
    with pytest.raises(WireError) as caught:
        assembly.blob()
    assert caught.value.reason is Reject.WRONG_DIGEST
    assert assembly.missing() == (0, 1, 2, 3)
    for part in _all(BLOB, REF):
        assert assembly.add(part)
    assert assembly.blob() == BLOB


def test_of_two_different_parts_for_one_place_the_first_stays() -> None:
    assembly = parts.Assembly(REF, limit=1024)
    for part in _all(BLOB, REF):
        assembly.add(part)
        assert assembly.add(part.model_copy(update={"payload": bytes(256)})) is False
    assert assembly.blob() == BLOB


def test_a_part_of_another_blob_is_refused() -> None:
    other = parts.describe(BLOB[::-1], 300)
    assert _refused(parts.Assembly(REF, limit=1024), parts.cut(BLOB[::-1], other, 0)) is Reject.WRONG_DIGEST
    same_digest = REF.model_copy(update={"parts": 2})
    assert _refused(parts.Assembly(REF, limit=1024), parts.cut(BLOB, same_digest, 0)) is Reject.WRONG_DIGEST


@pytest.mark.parametrize(
    ("index", "length", "reason"),
    [
        (4, 256, Reject.OUT_OF_RANGE),
        (MAX_PARTS - 1, 256, Reject.OUT_OF_RANGE),
        (0, 255, Reject.TRUNCATED),
        (0, 0, Reject.TRUNCATED),
        (3, 257, Reject.TOO_LARGE),
    ],
)
def test_a_part_that_does_not_fit_is_refused_and_changes_nothing(index: int, length: int, reason: Reject) -> None:
    assembly = parts.Assembly(REF, limit=1024)
    assert _refused(assembly, Part(blob=REF, index=index, payload=bytes(length))) is reason
    assert assembly.missing() == (0, 1, 2, 3)


def test_the_last_part_has_just_the_rest() -> None:
    ref = parts.describe(b"x" * 10, 4)  # 4, 4, 2
    assembly = parts.Assembly(ref, limit=10)
    assert _refused(assembly, Part(blob=ref, index=2, payload=b"xxxx")) is Reject.TOO_LARGE
    assert assembly.add(Part(blob=ref, index=2, payload=b"xx"))


def test_a_blob_over_the_limit_is_refused_before_any_part() -> None:
    with pytest.raises(WireError, match="too-large: a blob of 1024 bytes; at most 1023"):
        parts.Assembly(REF, limit=1023)


@pytest.mark.parametrize(("size", "count"), [(10, 11), (10, 6), (1, 2), (100_000, 99_999)])
def test_a_reference_whose_parts_can_not_be_equal_is_refused(size: int, count: int) -> None:
    with pytest.raises(WireError, match="malformed"):
        parts.Assembly(BlobRef(digest="0" * 64, size=size, parts=count), limit=2**33)


def test_there_is_no_part_beyond_the_last_or_before_the_first() -> None:
    """A receipt names the parts to send again: what it names may be anything."""
    for index in (-1, 4, 10**9):
        with pytest.raises(IndexError):
            parts.cut(BLOB, REF, index)


def test_a_blob_that_takes_too_many_parts_is_refused_with_what_to_do() -> None:
    assert parts.describe(bytes(MAX_PARTS), 1).parts == MAX_PARTS
    with pytest.raises(WireError, match="use a larger part size"):
        parts.describe(bytes(MAX_PARTS + 1), 1)
    for blob, part_size in ((b"", 10), (b"x", 0)):
        with pytest.raises(ValueError, match="at least one byte"):
            parts.describe(blob, part_size)


def test_a_large_blob_is_copied_once_and_never_by_cutting() -> None:
    size = 8 * 2**20
    blob = bytes(size)
    tracemalloc.start()
    try:
        ref = parts.describe(blob, 120_000)
        parts.cut(blob, ref, 5)
        assert tracemalloc.get_traced_memory()[1] < 200_000
        assembly = parts.Assembly(ref, limit=size)
        assert tracemalloc.get_traced_memory()[0] < 10_000  # what a reference announces is not allocated
        pieces = _all(blob, ref)
        held = tracemalloc.get_traced_memory()[0]
        for piece in pieces:
            assembly.add(piece)
        assert tracemalloc.get_traced_memory()[0] - held < 20_000  # parts are kept, not copied
        assembly.blob()
        assert tracemalloc.get_traced_memory()[1] - held < size + 100_000
        del pieces, piece
        assert tracemalloc.get_traced_memory()[0] < size + 100_000  # the joined blob replaces its parts
    finally:
        tracemalloc.stop()
