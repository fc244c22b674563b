from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.dataset import Dataset
from edge.federated_dataset import Batch, FederatedDataLoader, FederatedDataset, federate
from schemas.errors import DataError, SettingsError


def numbered(count: int, first: int = 0) -> Dataset:
    values = np.arange(first, first + count, dtype=np.float32)[:, None]
    return Dataset((values,), np.arange(count, dtype=np.int64) % 2, np.full(count, "p"), ("a", "b"))


def spread(**sizes: int) -> FederatedDataset:
    """Workers with these many examples, whose values are distinct over all of them."""
    starts = np.cumsum([0, *sizes.values()])
    return FederatedDataset(
        {name: numbered(size, int(at)) for (name, size), at in zip(sizes.items(), starts, strict=False)}
    )


def values(batch: Batch) -> list[int]:
    return [int(value) for value in batch.data[0][:, 0]]


def steps(loader: FederatedDataLoader) -> list[dict[str, list[int]]]:
    """One epoch as worker -> values, a step each."""
    return [
        {batch.worker: values(batch) for batch in ([step] if isinstance(step, Batch) else step.values())}
        for step in loader
    ]


def test_federate_cuts_in_order_into_pieces_of_equal_size() -> None:
    federated = federate(numbered(10), ["bob", "alice", "eve"])
    assert federated.workers == ("bob", "alice", "eve")
    assert [len(federated[worker]) for worker in federated.workers] == [4, 4, 2]
    assert len(federated) == 10
    assert federated["alice"].inputs[0][:, 0].tolist() == [4, 5, 6, 7]


def test_federate_leaves_out_workers_for_whom_nothing_is_left() -> None:
    assert federate(numbered(4), ["a", "b", "c"]).workers == ("a", "b")


def test_federate_refuses_repeated_or_missing_workers() -> None:
    for workers in ([], ["a", "a"]):
        with pytest.raises(SettingsError, match="distinct names"):
            federate(numbered(4), workers)
    with pytest.raises(DataError, match="at least one worker"):
        FederatedDataset({})


def test_a_batch_unpacks_as_data_and_target_and_knows_its_worker() -> None:
    batch = next(iter(FederatedDataLoader(spread(bob=3), batch_size=2)))
    assert isinstance(batch, Batch)
    data, target = batch
    assert isinstance(data, tuple)
    assert data[0].shape == (2, 1)
    assert isinstance(target, np.ndarray)
    assert target.tolist() == [0, 1]
    assert batch.worker == "bob"


def test_plain_loading_takes_one_worker_after_another() -> None:
    loader = FederatedDataLoader(spread(bob=3, eve=2), batch_size=2)
    assert steps(loader) == [{"bob": [0, 1]}, {"bob": [2]}, {"eve": [3, 4]}]
    assert len(loader) == 3


def test_drop_last_leaves_out_smaller_batches() -> None:
    loader = FederatedDataLoader(spread(bob=3, eve=2), batch_size=2, drop_last=True)
    assert steps(loader) == [{"bob": [0, 1]}, {"eve": [3, 4]}]
    assert len(loader) == 2


def test_iter_per_worker_gives_a_batch_of_each_until_the_shortest_ends() -> None:
    loader = FederatedDataLoader(spread(bob=5, eve=3), batch_size=2, iter_per_worker=True)
    assert steps(loader) == [{"bob": [0, 1], "eve": [5, 6]}, {"bob": [2, 3], "eve": [7]}]
    assert len(loader) == 2


def test_iter_per_worker_gives_dictionaries_for_a_single_worker_too() -> None:
    assert steps(FederatedDataLoader(spread(bob=1), iter_per_worker=True)) == [{"bob": [0]}]
    assert isinstance(next(iter(FederatedDataLoader(spread(bob=1), iter_per_worker=True))), dict)


def test_several_iterators_are_always_at_distinct_workers() -> None:
    loader = FederatedDataLoader(spread(a=2, b=2, c=2), batch_size=2, num_iterators=2)
    assert steps(loader) == [{"a": [0, 1], "b": [2, 3]}, {"c": [4, 5], "a": [0, 1]}, {"b": [2, 3], "c": [4, 5]}]


def test_there_are_fewer_iterators_than_workers() -> None:
    assert FederatedDataLoader(spread(a=1, b=1, c=1), num_iterators=9).num_iterators == 2
    assert FederatedDataLoader(spread(a=1), num_iterators=9).num_iterators == 1


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), batch=st.integers(1, 4), shuffle=st.booleans())
def test_an_epoch_gives_every_example_of_every_worker_once(sizes: list[int], batch: int, *, shuffle: bool) -> None:
    federated = spread(**{f"w{i}": size for i, size in enumerate(sizes)})
    loader = FederatedDataLoader(federated, batch_size=batch, shuffle=shuffle, seed=4)
    epoch = steps(loader)
    seen = Counter(value for step in epoch for chunk in step.values() for value in chunk)
    assert seen == Counter(range(sum(sizes)))
    assert len(epoch) == len(loader)


def test_shuffling_is_new_each_epoch_and_the_same_for_a_seed() -> None:
    one, other = (FederatedDataLoader(spread(bob=40), batch_size=40, shuffle=True, seed=5) for _ in range(2))
    first, second = steps(one), steps(one)
    assert first != second
    assert (first, second) == (steps(other), steps(other))


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        FederatedDataLoader(spread(bob=1), batch_size=0)
