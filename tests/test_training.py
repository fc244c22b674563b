from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from coordinator.plans.ecg_beats import EcgBeats
from edge.dataset import Dataset, FloatArray
from edge.training.batches import batches, choose, class_weights
from edge.training.dropout import Layout, Masks
from edge.training.loop import Event, Trained, train
from schemas.errors import DataError, PlanError, TrainingError
from schemas.messages import TrainSettings
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.plan_file import PlanFile, find
from tests.plan_examples import tiny, windows, with_step

torch.set_num_threads(1)
START = PlanFile(tiny(), {}).initial(0)


def once(data: Dataset | None = None, plan: Plan | None = None, seed: int = 1, **settings: Any) -> Trained:
    data = windows() if data is None else data
    return train(START, data, plan or tiny(), TrainSettings(**settings), np.random.default_rng(seed))


def beats(examples: int) -> Dataset:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(examples, 12)).astype(np.float32), rng.normal(size=(examples, 19)).astype(np.float32)
    return Dataset(inputs, rng.integers(0, 5, examples), np.full(examples, "ada"), find("ecg-beats").plan.classes)


OPTIMISERS: dict[str, Callable[[Iterable[Tensor], TrainSettings], torch.optim.Optimizer]] = {
    "sgd": lambda parameters, settings: torch.optim.SGD(
        parameters, settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
    ),
    "adam": lambda parameters, settings: torch.optim.Adam(
        parameters, settings.learning_rate, weight_decay=settings.weight_decay
    ),
}


class Given(torch.nn.Module):
    """A dropout whose mask is given."""

    mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask

    @classmethod
    def instead_of(cls, module: EcgBeats) -> list[Given]:
        """Put into the places of the module's dropouts, in order."""
        places = [place for place, layer in enumerate(module.layers) if isinstance(layer, torch.nn.Dropout)]
        given = {place: cls() for place in places}
        for place, layer in given.items():
            module.layers[place] = layer
        return [*given.values()]

    @staticmethod
    def hand_out(dropouts: list[Given], layout: Layout, row: FloatArray, batch: int) -> None:
        """Each one's part of a step's row."""
        for dropout, share, shape in zip(dropouts, layout.shares, layout.shapes(batch), strict=True):
            dropout.mask = torch.from_numpy(row[share.start : share.start + math.prod(shape)].reshape(shape))


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings(learning_rate=0.02, momentum=0.9, weight_decay=0.01, epochs=2),
        TrainSettings(learning_rate=0.02, momentum=0.0),
        TrainSettings(optimizer="adam", learning_rate=0.003, weight_decay=0.01, epochs=2),
    ],
)
def test_it_gives_the_numbers_of_an_ordinary_torch_loop(settings: TrainSettings) -> None:
    """With the module itself and torch's optimisers, and with the same masks where the module has its dropouts."""
    file, data = find("ecg-beats"), beats(70)
    start = file.initial(0)
    trained = train(start, data, file.plan, settings, np.random.default_rng(1))

    module = EcgBeats()
    module.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in start.arrays().items()})
    optimiser = OPTIMISERS[settings.optimizer](module.parameters(), settings)
    rhythm, shape = map(torch.from_numpy, data.inputs)
    labels = torch.from_numpy(data.labels)
    rng = np.random.default_rng(1)
    layout = Layout(file.plan, settings.batch_size)
    masks = Masks(int(rng.integers(2**63)), layout, 3 * settings.epochs, settings.batch_size)
    dropouts = Given.instead_of(module)
    step = 0
    for _ in range(settings.epochs):
        losses = 0.0
        order = torch.from_numpy(rng.permutation(70))
        for batch in (order[place : place + settings.batch_size] for place in range(0, 70, settings.batch_size)):
            Given.hand_out(dropouts, layout, masks.row(step), len(batch))
            step += 1
            optimiser.zero_grad()
            loss = functional.cross_entropy(module(rhythm[batch], shape[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]  # torch's typing
            optimiser.step()
            losses += loss.item() * len(batch)
    end = Parameters.from_arrays({key: value.numpy() for key, value in module.state_dict().items()})
    np.testing.assert_allclose(trained.delta.flat, end.subtract(start).flat, atol=2e-6)
    assert trained.metrics.loss == pytest.approx(losses / 70, rel=1e-5)
    assert trained.metrics.steps == 3 * settings.epochs


def test_it_learns() -> None:
    first = once(learning_rate=0.05)
    assert once(learning_rate=0.05, epochs=30).metrics.loss < 0.7 * first.metrics.loss


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    assert once(seed=1).delta.equal(once(seed=1).delta)
    assert not once(seed=1).delta.equal(once(seed=2).delta)


def test_dropout_depends_on_the_seed_alone() -> None:
    plan = Plan.build(**with_step(1, op="dropout", args=("%conv1d", 0.5, True)))
    torch.manual_seed(1)
    one = once(plan=plan)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert once(plan=plan).delta.equal(one.delta)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_start_and_the_data_are_not_written_to() -> None:
    data, flat = windows(), START.flat.copy()
    kept = data.inputs[0].copy()
    once(data, weight_decay=0.1, proximal=0.1)
    assert np.array_equal(START.flat, flat)
    assert np.array_equal(data.inputs[0], kept)


def test_the_proximal_term_pulls_back_to_the_start() -> None:
    """FedProx: each step's gradient has mu (w - w_start) added, so that one more step from w is shorter by that."""
    free, held = (once(epochs=10, proximal=mu, momentum=0.0).delta.norm() for mu in (0.0, 5.0))
    assert held < 0.8 * free
    one_step = [once(local_steps=1, proximal=mu).delta for mu in (0.0, 5.0)]
    assert one_step[0].equal(one_step[1])
    two = [once(local_steps=2, proximal=mu, momentum=0.0, learning_rate=0.1).delta.flat for mu in (0.0, 2.0)]
    first = once(local_steps=1, momentum=0.0, learning_rate=0.1).delta.flat
    np.testing.assert_allclose(two[1], two[0] - 0.1 * 2.0 * first, atol=1e-6)


def test_local_steps_replace_epochs_and_go_round_the_data() -> None:
    assert once(batch_size=32, local_steps=1).metrics.steps == 1
    assert once(batch_size=32, local_steps=5, epochs=9).metrics.steps == 5
    assert once(batch_size=32, local_steps=4).delta.equal(once(batch_size=32, epochs=2).delta)


def test_a_round_may_use_a_part_of_the_data_drawn_anew_by_seed() -> None:
    assert once(max_examples=10).examples == 10
    assert once(max_examples=1000).examples == 60
    one, two = (choose(60, 10, np.random.default_rng(seed)) for seed in (1, 2))
    assert not np.array_equal(one, two)


def test_events_come_in_order_with_their_losses() -> None:
    events: list[Event] = []
    settings = TrainSettings(batch_size=25, epochs=2)
    trained = train(START, windows(), tiny(), settings, np.random.default_rng(1), events.append)
    kinds = [event.kind for event in events]
    assert kinds == ["start", *["batch"] * 3, "epoch", *["batch"] * 3, "epoch", "end"]
    assert [event.epoch for event in events] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert [event.step for event in events] == [0, 1, 2, 3, 3, 4, 5, 6, 6, 6]
    assert {event.steps for event in events} == {6}
    losses = [event.loss for event in events if event.kind == "batch"]
    mean = np.average(np.array(losses[3:], dtype=np.float64), weights=[25, 25, 10])
    assert events[-1].loss == trained.metrics.loss == pytest.approx(mean)


def test_an_observer_stops_the_training_by_raising() -> None:
    events: list[Event] = []

    def stop(event: Event) -> None:
        events.append(event)
        if event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(START, windows(), tiny(), TrainSettings(batch_size=8), np.random.default_rng(1), stop)
    assert events[-1].step == 2


def test_balanced_weights_make_present_classes_count_the_same() -> None:
    weights = class_weights(TrainSettings(class_weights="balanced"), np.array([0, 0, 0, 0, 0, 2]), 3)
    assert weights.tolist() == pytest.approx([0.6, 1.0, 3.0])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50))
def test_balanced_weights_have_mean_one_over_the_examples(labels: list[int]) -> None:
    weights = class_weights(TrainSettings(class_weights="balanced"), np.array(labels), 5)
    assert weights[labels].mean() == pytest.approx(1, rel=1e-5)
    totals = [weights[label] * labels.count(label) for label in set(labels)]
    assert totals == pytest.approx([totals[0]] * len(totals), rel=1e-5)


def test_class_weights_change_what_is_learned_and_must_fit() -> None:
    weighted = once(class_weights=(1.0, 1.0, 50.0))
    assert not weighted.delta.equal(once().delta)
    with pytest.raises(PlanError, match="2 class weights for 3 classes"):
        once(class_weights=(1.0, 1.0))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 20))
def test_batches_pass_over_all_examples_before_any_comes_again(examples: int, size: int, steps: int) -> None:
    drawn = [batch.indices.tolist() for batch in batches(examples, size, steps, np.random.default_rng(0))]
    assert len(drawn) == steps
    assert all(1 <= len(batch) <= size for batch in drawn)
    per_pass = math.ceil(examples / size)
    for start in range(0, steps - per_pass + 1, per_pass):
        assert sorted(chain.from_iterable(drawn[start : start + per_pass])) == list(range(examples))


def test_without_examples_there_is_nothing_to_train() -> None:
    data = windows(1).take(np.array([], np.int64))
    with pytest.raises(DataError, match="no example to train on"):
        once(data)


def test_a_loss_that_is_not_finite_is_an_error_and_no_update() -> None:
    big = replace(windows(), inputs=(windows().inputs[0] * np.float32(1e30),))
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at batch \d+: lower the learning rate"):
        once(big, learning_rate=1e6, epochs=3)


def test_parameters_that_leave_the_numbers_in_the_last_step_are_an_error_too() -> None:
    with pytest.raises(TrainingError, match="NaN or infinite parameters"):
        once(replace(windows(), inputs=(windows().inputs[0] * np.float32(1e30),)), learning_rate=1e9, local_steps=1)


def test_every_parameter_takes_part() -> None:
    assert all(np.abs(array).max() > 0 for array in once(epochs=3).delta.arrays().values())
