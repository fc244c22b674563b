from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.dataset import Dataset
from edge.partitioning import by_dirichlet, by_owner, by_shards, deal_owners, evenly, partition
from schemas.errors import DataError, SettingsError


def labelled(labels: list[int], owners: list[str] | None = None) -> Dataset:
    count = len(labels)
    names = np.array(owners if owners is not None else ["somebody"] * count, dtype=np.str_)
    values = np.zeros((count, 1), dtype=np.float32)
    return Dataset((values,), np.array(labels, dtype=np.int64), names, tuple("abcdefghij"))


RULES = st.sampled_from(
    ["auto", "owner", "even", "dirichlet:0.01", "dirichlet:0.5", "dirichlet:100", "shards:1", "shards:3"]
)


@given(
    examples=st.lists(st.tuples(st.integers(0, 9), st.sampled_from("pqrst")), min_size=30, max_size=120),
    rule=RULES,
    devices=st.integers(1, 10),
    seed=st.integers(0, 2**32),
)
def test_every_rule_gives_every_example_to_exactly_one_device(
    examples: list[tuple[int, str]], rule: str, devices: int, seed: int
) -> None:
    dataset = labelled([label for label, _ in examples], [owner for _, owner in examples])
    if rule == "owner":
        devices = min(devices, len(np.unique(dataset.owners)))
    pieces = partition(dataset, rule, devices, seed)
    assert len(pieces) == devices
    assert sorted(np.concatenate(pieces).tolist()) == list(range(len(dataset)))
    assert all(len(piece) > 0 for piece in pieces)
    assert all(piece.tolist() == sorted(piece.tolist()) for piece in pieces)
    again = partition(dataset, rule, devices, seed)
    assert all(np.array_equal(one, other) for one, other in zip(pieces, again, strict=True))


@pytest.mark.parametrize("rule", ["even", "dirichlet:0.5", "shards:2"])
def test_another_seed_gives_another_partition(rule: str) -> None:
    dataset = labelled([n % 10 for n in range(200)])
    first, second = (partition(dataset, rule, 4, seed) for seed in (0, 1))
    assert any(not np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_by_owner_keeps_people_whole_and_deals_them_round_by_round() -> None:
    dataset = labelled([0] * 6, ["c", "a", "b", "a", "c", "b"])
    assert [piece.tolist() for piece in by_owner(dataset, 2)] == [[0, 1, 3, 4], [2, 5]]
    assert deal_owners(["x", "y", "x", "z"], 2) == [("x", "z"), ("y",)]


def test_more_devices_than_owners_says_what_to_do() -> None:
    with pytest.raises(
        DataError, match=r"2 owners can't be dealt to 3 devices: use at most 2 devices, or partition 'even'"
    ):
        by_owner(labelled([0, 1], ["a", "b"]), 3)


def test_even_pieces_differ_by_one_example_at_most() -> None:
    sizes = [len(piece) for piece in evenly(labelled([0] * 23), 5, seed=3)]
    assert sorted(sizes) == [4, 4, 5, 5, 5]


def skew(dataset: Dataset, pieces: list[np.ndarray]) -> float:
    """Mean over devices of the total variation between the device's class mixture and everybody's."""
    prior = np.bincount(dataset.labels, minlength=10) / len(dataset)
    return float(
        np.mean([np.abs(np.bincount(dataset.labels[p], minlength=10) / len(p) - prior).sum() / 2 for p in pieces])
    )


def test_dirichlet_skews_labels_the_more_the_smaller_alpha_is() -> None:
    dataset = labelled([n % 10 for n in range(5000)])
    skews = [skew(dataset, by_dirichlet(dataset, 20, alpha, seed=1)) for alpha in (0.01, 10.0, 1000.0)]
    assert skews[0] > 0.8
    assert 0.2 < skews[1] < 0.5
    assert skews[2] < 0.15


def test_dirichlet_gives_devices_equal_numbers_and_follows_the_prior() -> None:
    dataset = labelled([0] * 900 + [1] * 100)
    pieces = by_dirichlet(dataset, 10, 1e6, seed=0)
    assert {len(piece) for piece in pieces} == {100}
    assert all(80 <= int((dataset.labels[piece] == 0).sum()) <= 100 for piece in pieces[:-1])


def test_shards_leave_a_device_few_classes_dealt_at_random() -> None:
    dataset = labelled([n % 10 for n in range(1000)])
    pieces = by_shards(dataset, 10, 2, seed=0)
    classes = [len(np.unique(dataset.labels[piece])) for piece in pieces]
    assert max(classes) == 2
    assert classes.count(2) >= 5
    assert {len(piece) for piece in pieces} == {100}


def test_auto_is_by_owner_where_there_are_owners_enough_and_else_even() -> None:
    dataset = labelled([0] * 8, ["a", "b"] * 4)
    assert [piece.tolist() for piece in partition(dataset, "auto", 2, 0)] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [len(piece) for piece in partition(dataset, "auto", 4, 0)] == [2, 2, 2, 2]


@pytest.mark.parametrize("rule", ["even", "dirichlet:1", "shards:2"])
def test_too_few_examples_say_what_to_do(rule: str) -> None:
    with pytest.raises(DataError, match="use fewer devices or shards"):
        partition(labelled([0, 1, 2]), rule, 4, 0)


def test_an_unknown_rule_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="partition 'sideways' is not known"):
        partition(labelled([0]), "sideways", 1, 0)
