"""A dataset spread over named workers and a loader of its batches, with the meaning they had in PySyft 0.2.

For experiments in one process. Here a worker is a name and its examples plain arrays; nothing is sent anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge.dataset import Dataset, FloatArray, IndexArray, LabelArray
from schemas.errors import DataError, SettingsError


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Some examples of one worker. Unpacks as the pair ``data, target``; ``data`` has one array for each input."""

    worker: str
    data: tuple[FloatArray, ...]
    target: LabelArray

    def __iter__(self) -> Iterator[tuple[FloatArray, ...] | LabelArray]:
        yield self.data
        yield self.target


class FederatedDataset:
    """Each worker's dataset by the worker's name; ``len`` is the number of examples of all workers together."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        if not datasets:
            raise DataError("a federated dataset needs at least one worker")
        self._datasets = dict(datasets)

    def __getitem__(self, worker: str) -> Dataset:
        return self._datasets[worker]

    def __len__(self) -> int:
        return sum(map(len, self._datasets.values()))

    @property
    def workers(self) -> tuple[str, ...]:
        """The workers' names, in the order they were given."""
        return tuple(self._datasets)


def federate(dataset: Dataset, workers: Sequence[str]) -> FederatedDataset:
    """Cut ``dataset`` in its order into pieces of ceil(n / workers) examples, one a worker; the last may be smaller.

    Workers for whom nothing is left are left out, as they were in PySyft. See ``edge.partitioning`` for other rules.
    """
    if not workers or len(set(workers)) != len(workers):
        raise SettingsError(f"workers must be there and have distinct names, not {list(workers)}")
    size = math.ceil(len(dataset) / len(workers))
    starts = range(0, len(dataset), max(size, 1))
    return FederatedDataset(
        {
            worker: dataset.take(np.arange(start, min(start + size, len(dataset))))
            for worker, start in zip(workers, starts, strict=False)
        }
    )


class FederatedDataLoader:
    """Batches of a federated dataset; each ``iter`` is one epoch and is shuffled anew where asked.

    Plain: a ``Batch`` at a time, one worker after another. ``num_iterators`` = k > 1: each step is a dict worker ->
    ``Batch`` from k distinct workers (at most workers - 1, since an iterator that has finished a worker moves on to
    one that no other is at); each of the k walks over the workers by itself, and the epoch ends when one of them
    finds nowhere to go. ``iter_per_worker``: each step is a dict with one batch of every worker, and the epoch ends
    with the shortest worker.
    """

    def __init__(
        self,
        federated_dataset: FederatedDataset,
        *,
        batch_size: int = 8,
        shuffle: bool = False,
        num_iterators: int = 1,
        drop_last: bool = False,
        iter_per_worker: bool = False,
        seed: int = 0,
    ) -> None:
        if batch_size < 1 or num_iterators < 1:
            raise SettingsError(f"batch_size {batch_size} and num_iterators {num_iterators} must be at least 1")
        self.federated_dataset = federated_dataset
        self.workers = federated_dataset.workers
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.iter_per_worker = iter_per_worker
        self.num_iterators = min(num_iterators, max(1, len(self.workers) - 1))
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Steps of one epoch; for ``num_iterators`` > 1, of one iterator that walks over all workers."""
        steps = [self._steps(len(self.federated_dataset[worker])) for worker in self.workers]
        return min(steps) if self.iter_per_worker else sum(steps)

    def __iter__(self) -> Iterator[Batch | dict[str, Batch]]:
        if self.iter_per_worker:
            return self._one_batch_of_each()
        if self.num_iterators > 1:
            return self._side_by_side()
        return (batch for worker in self.workers for batch in self._batches(worker))

    def _steps(self, examples: int) -> int:
        return examples // self.batch_size if self.drop_last else math.ceil(examples / self.batch_size)

    def _batches(self, worker: str) -> Iterator[Batch]:
        dataset = self.federated_dataset[worker]
        order: IndexArray = self._rng.permutation(len(dataset)) if self.shuffle else np.arange(len(dataset))
        for step in range(self._steps(len(dataset))):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield Batch(worker, tuple(array[chosen] for array in dataset.inputs), dataset.labels[chosen])

    def _one_batch_of_each(self) -> Iterator[dict[str, Batch]]:
        streams = [self._batches(worker) for worker in self.workers]
        for batches in zip(*streams, strict=False):
            yield {batch.worker: batch for batch in batches}

    def _side_by_side(self) -> Iterator[dict[str, Batch]]:
        at = list(self.workers[: self.num_iterators])  # where each iterator is
        to_visit = [[worker for worker in self.workers if worker != here] for here in at]
        streams = [self._batches(worker) for worker in at]
        while True:
            step: dict[str, Batch] = {}
            for position in range(self.num_iterators):
                while (batch := next(streams[position], None)) is None:
                    idle = [worker for worker in to_visit[position] if worker not in at]
                    if not idle:
                        return
                    at[position] = idle[0]
                    to_visit[position].remove(idle[0])
                    streams[position] = self._batches(idle[0])
                step[batch.worker] = batch
            yield step
