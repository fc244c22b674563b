"""Dividing examples among devices for experiments. Every rule gives each example to exactly one device.

All are deterministic for a seed. A real fleet needs none of this: there, each device has its own recordings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge.dataset import Dataset, IndexArray
from edge.dataspec import parse_partition
from schemas.counted import counted
from schemas.errors import DataError, SettingsError


def deal_owners(owners: Sequence[str], devices: int) -> list[tuple[str, ...]]:
    """Deal the distinct ``owners`` round by round in their given order, so that device i has owner i first."""
    distinct = tuple(dict.fromkeys(owners))
    if len(distinct) < devices:
        raise DataError(
            f"{counted(len(distinct), 'owner')} can't be dealt to {devices} devices: "
            f"use at most {counted(len(distinct), 'device')}, or partition 'even', 'dirichlet:0.5' or 'shards:2'"
        )
    return [distinct[device::devices] for device in range(devices)]


def by_owner(dataset: Dataset, devices: int) -> list[IndexArray]:
    """Each owner's examples stay together on one device; owners are dealt in order of their names."""
    groups = deal_owners([str(owner) for owner in np.unique(dataset.owners)], devices)
    return [np.flatnonzero(np.isin(dataset.owners, group)) for group in groups]


def evenly(dataset: Dataset, devices: int, seed: int) -> list[IndexArray]:
    """Shuffled, in pieces whose sizes differ by at most one: the identically distributed case."""
    _enough(len(dataset), devices)
    order = np.random.default_rng(seed).permutation(len(dataset))
    return [np.sort(piece) for piece in np.array_split(order, devices)]


def by_dirichlet(dataset: Dataset, devices: int, alpha: float, seed: int) -> list[IndexArray]:
    """Label skew after Hsu, Qi and Brown (2019): each device draws its class mixture from Dirichlet(alpha x prior).

    The prior is the dataset's own class mixture. Devices get equal numbers of examples (within one) without
    replacement; a class that runs out is left out of the later devices' mixtures. Small ``alpha``: one class a device.
    """
    _enough(len(dataset), devices)
    rng = np.random.default_rng(seed)
    left = np.bincount(dataset.labels, minlength=len(dataset.classes)).astype(np.int64)
    prior = left / left.sum()
    pools = [rng.permutation(np.flatnonzero(dataset.labels == label)) for label in range(len(dataset.classes))]
    sizes = [len(piece) for piece in np.array_split(np.arange(len(dataset)), devices)]
    pieces = []
    for size in sizes:
        mixture = np.zeros(len(prior))
        mixture[prior > 0] = rng.dirichlet(np.maximum(alpha * prior[prior > 0], 1e-12))
        taken = _draw_from(mixture, left, size, rng)
        drawn = [pool[rest - take : rest] for pool, rest, take in zip(pools, left, taken, strict=True)]
        pieces.append(np.sort(np.concatenate(drawn)))
        left = left - taken
    return pieces


def by_shards(dataset: Dataset, devices: int, shards: int, seed: int) -> list[IndexArray]:
    """Label skew after McMahan et al. (2017): sort by label, cut into shards, deal ``shards`` to each device."""
    _enough(len(dataset), devices * shards)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(dataset))
    by_label = shuffled[np.argsort(dataset.labels[shuffled], kind="stable")]
    cut = np.array_split(by_label, devices * shards)
    dealt = rng.permutation(devices * shards).reshape(devices, shards)
    return [np.sort(np.concatenate([cut[shard] for shard in hand])) for hand in dealt]


def partition(dataset: Dataset, rule: str, devices: int, seed: int) -> list[IndexArray]:
    """The indices of each device's examples under a rule as ``DataSpec.partition`` writes it ("auto" included)."""
    try:
        name, number = parse_partition(rule)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if name == "auto":
        name = "owner" if len(np.unique(dataset.owners)) >= devices else "even"
    if name == "owner":
        return by_owner(dataset, devices)
    if name == "even":
        return evenly(dataset, devices, seed)
    if name == "dirichlet":
        return by_dirichlet(dataset, devices, number, seed)
    return by_shards(dataset, devices, int(number), seed)


def _draw_from(mixture: np.ndarray, left: IndexArray, size: int, rng: np.random.Generator) -> IndexArray:
    """How many to take of each class: ``size`` in all, by ``mixture``, never more than are ``left``."""
    taken = np.zeros(len(left), dtype=np.int64)
    while (need := size - int(taken.sum())) > 0:
        free = left - taken
        weights = np.where(free > 0, mixture, 0.0)
        if weights.sum() <= 0:  # the whole mixture ran out, or underflowed: follow what is left
            weights = free.astype(np.float64)
        taken += np.minimum(rng.multinomial(need, weights / weights.sum()), free)
    return taken


def _enough(examples: int, pieces: int) -> None:
    if examples < pieces:
        raise DataError(
            f"{counted(examples, 'example')} can't be cut into {pieces} pieces: use fewer devices or shards"
        )
