from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.inbox import BLOCK
from coordinator.spool import Slot, Spool
from schemas.errors import DiskFull, StateError
from schemas.parts import Assembly, cut, describe


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8), st.integers(1, 100), st.randoms())
def test_blobs_that_arrive_intermingled_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, blobs: list[bytes], size: int, shuffle: random.Random
) -> None:
    with Spool(tmp_path_factory.mktemp("spool")) as spool:
        refs = [describe(blob, size) for blob in blobs]
        assemblies = [Assembly(ref, 300, spool.slot(ref)) for ref in refs]
        pieces = [(which, index) for which, ref in enumerate(refs) for index in range(ref.parts)]
        shuffle.shuffle(pieces)
        for which, index in pieces:
            assemblies[which].add(cut(blobs[which], refs[which], index))
        assert [assembly.blob() for assembly in assemblies] == blobs


def test_a_cleared_place_is_used_again_and_by_one_blob_only(tmp_path: Path) -> None:
    ref = describe(b"x" * 100, 100)
    with Spool(tmp_path) as spool:
        for _ in range(1000):
            slot = spool.slot(ref)
            slot.put(0, b"x" * 100)
            slot.clear()
            slot.clear()  # the second time nothing happens
        first, second = spool.slot(ref), spool.slot(ref)
        first.put(0, b"1" * 100)
        second.put(0, b"2" * 100)
        assert (first.join(), second.join()) == (b"1" * 100, b"2" * 100)
        assert os.fstat(spool._file.fileno()).st_size == BLOCK + 100


@settings(max_examples=25)
@given(st.sampled_from([1000, BLOCK, 9000]), st.randoms(use_true_random=True))
def test_invariant_11_the_file_is_never_larger_than_what_was_in_it_at_one_time(
    tmp_path_factory: pytest.TempPathFactory, size: int, draw: random.Random
) -> None:
    """Blobs come, and for each None one goes. Seen to fail with slots as large as the largest blob: a small one that
    followed a large one kept all of its room. Seen to fail too with blocks taken for neighbours that aren't, so that
    one blob was written over another: lists that hypothesis makes are too short for that to happen.
    """
    comings = [draw.choice([None, draw.randint(1, 5 * BLOCK)]) for _ in range(40)]
    here: list[tuple[bytes, Slot]] = []
    in_use = most = 0
    with Spool(tmp_path_factory.mktemp("spool")) as spool:
        for length in comings:
            if length is not None:
                blob = draw.randbytes(length)
                slot = spool.slot(describe(blob, size))
                for offset in draw.sample(range(0, length, size), len(range(0, length, size))):
                    slot.put(offset, blob[offset : offset + size])
                here.append((blob, slot))
                in_use += -(-length // BLOCK)
                most = max(most, in_use)
            elif here:
                blob, slot = here.pop(draw.randrange(len(here)))
                assert slot.join() == blob
                slot.clear()
                in_use -= -(-len(blob) // BLOCK)
            file_size = os.fstat(spool._file.fileno()).st_size
            assert file_size <= most * BLOCK
            assert here or file_size == 0
        assert all(slot.join() == blob for blob, slot in here)


def test_nothing_is_left_on_disk(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        Slot(spool, [0], 5).put(0, b"12345")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="Check the directory"):
        Spool(tmp_path / "nowhere")


def test_a_full_disk_is_an_error_with_advice() -> None:
    with Spool(Path("/dev/shm")) as spool:  # noqa: S108  - a file there, to be replaced by a device that is full
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, spool._file.fileno())
        os.close(full)
        with pytest.raises(DiskFull, match="Free some disk space"):
            spool.slot(describe(b"x" * 100, 10)).put(0, b"x")


def test_a_blob_in_many_places_is_in_memory_once(tmp_path: Path) -> None:
    """Seen to fail with pieces that were joined."""
    with Spool(tmp_path) as spool:
        small = [spool.slot(describe(b"x", 1)) for _ in range(500)]
        for slot in small[::2]:
            slot.clear()
        blob = os.urandom(500 * BLOCK)
        slot = spool.slot(describe(blob, len(blob)))
        slot.put(0, blob)
        tracemalloc.start()
        found = slot.join()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found == blob
        assert peak < 1.2 * len(blob)
