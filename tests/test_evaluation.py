from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from coordinator.plans.ecg_beats import EcgBeats
from edge.dataset import Dataset
from edge.training.evaluation import evaluate
from edge.training.neighbours import Neighbours
from schemas.errors import DataError, TrainingError
from schemas.parameters import Parameters
from schemas.plan_file import PlanFile, find
from tests.plan_examples import tiny, windows

torch.set_num_threads(1)
MODEL = PlanFile(tiny(), {}).initial(0)


def test_counts_are_those_of_the_module_itself() -> None:
    """Against the nn.Module in evaluation mode: without dropout, and with the plain mean loss."""
    file = find("ecg-beats")
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(50, 12)).astype(np.float32), rng.normal(size=(50, 19)).astype(np.float32)
    data = Dataset(inputs, rng.integers(0, 5, 50), np.full(50, "ada"), file.plan.classes)
    counts = evaluate(file.initial(0), data, file.plan, 16)
    module = EcgBeats().eval()
    module.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in file.initial(0).arrays().items()})
    with torch.no_grad():
        logits = module(*map(torch.from_numpy, inputs))
    expected = np.zeros((5, 5), int)
    np.add.at(expected, (data.labels, logits.argmax(1).numpy()), 1)
    assert np.array_equal(counts.confusion, expected)
    loss = functional.cross_entropy(logits, torch.from_numpy(data.labels), reduction="sum")
    assert counts.loss_sum == pytest.approx(loss.item(), rel=1e-5)


def test_labelled_examples_decide_with_the_model_before_it_is_judged() -> None:
    """In any batches. Seen to fail with the loss of the model alone, and with the first batch's looks for all."""
    rng = np.random.default_rng(1)
    data = replace(windows(30), looks=rng.normal(size=(30, 4)).astype(np.float32))
    zeros = Parameters.from_arrays({name: 0 * array for name, array in MODEL.arrays().items()})
    neighbours = Neighbours(rng.normal(size=(3, 4)).astype(np.float32), np.arange(3), np.arange(3))
    assert data.looks is not None
    evidence = neighbours.evidence(data.looks)
    loss = functional.cross_entropy(torch.from_numpy(evidence), torch.from_numpy(data.labels), reduction="sum")
    for batch in (7, 30):
        counts = evaluate(zeros, data, tiny(), batch, neighbours=neighbours)
        assert counts.loss_sum == pytest.approx(loss.item(), rel=1e-5)
        assert np.trace(np.array(counts.confusion)) == (evidence.argmax(axis=1) == data.labels).sum()


def test_rows_are_what_is_true_and_columns_what_was_said() -> None:
    zeros = {name: 0 * array for name, array in MODEL.arrays().items()}
    always_brisk = Parameters.from_arrays(zeros | {"out.bias": np.array([0.0, 9.0, 0.0])})
    data = windows(30)
    counts = evaluate(always_brisk, data, tiny())
    assert np.array_equal(np.array(counts.confusion)[:, 1], np.bincount(data.labels, minlength=3))
    assert sum(map(sum, counts.confusion)) == counts.examples == 30


def test_counts_add_up_over_devices_exactly() -> None:
    data = windows(60)
    whole = evaluate(MODEL, data, tiny())
    parts = [evaluate(MODEL, data.take(np.arange(start, start + 20)), tiny()) for start in (0, 20, 40)]
    assert np.array_equal(sum(np.array(part.confusion) for part in parts), whole.confusion)
    assert sum(part.examples for part in parts) == whole.examples
    assert sum(part.loss_sum for part in parts) == pytest.approx(whole.loss_sum, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 60, 1000])
def test_the_batch_size_does_not_matter(batch: int) -> None:
    counts = evaluate(MODEL, windows(60), tiny(), batch)
    assert counts.confusion == evaluate(MODEL, windows(60), tiny()).confusion
    assert counts.examples == 60


def test_an_observer_stops_it_by_raising_between_batches() -> None:
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(MODEL, windows(60), tiny(), 10, stop)
    assert calls == 2


def test_without_held_out_examples_there_is_nothing_to_count() -> None:
    with pytest.raises(DataError, match="no held-out example"):
        evaluate(MODEL, windows(1).take(np.array([], np.int64)), tiny())


def test_a_diverged_model_is_an_error_and_not_a_count() -> None:
    with pytest.raises(TrainingError, match="diverged"):
        evaluate(Parameters(MODEL.manifest, np.full(43, 1e30, np.float32)), windows(), tiny())


def test_a_loss_that_is_finite_and_larger_than_counts_may_say_is_a_diverged_model_too() -> None:
    """Seen to fail, with an error that ended the trainer, where only a loss that isn't finite was refused."""
    biased = {name: 0 * array for name, array in MODEL.arrays().items()} | {"out.bias": np.array([0.0, 1e9, 0.0])}
    with pytest.raises(TrainingError, match=r"is [0-9.e+]+: the global model has diverged"):
        evaluate(Parameters.from_arrays(biased), windows(60), tiny())
