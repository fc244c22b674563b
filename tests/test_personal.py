"""A model of its owner's own: by which examples it learns, by which it is judged, and what it never touches."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from edge.core.personal_settings import FEWEST, FOLDS, PersonalSettings
from edge.dataset import Dataset
from edge.training import personal
from edge.training.evaluation import evaluate
from edge.training.loop import Event, Tether, Trained, train
from edge.training.personal import Personal, deal, local, personalise
from schemas.errors import DataError, PlanError
from schemas.messages import Counts, TrainSettings
from schemas.parameters import Parameters
from schemas.plan_file import PlanFile, find
from tests.plan_examples import CLASSES, tiny, windows, with_step

torch.set_num_threads(1)
GLOBAL = PlanFile(tiny(), {}).initial(0)
RUN = TrainSettings(learning_rate=0.1, weight_decay=0.01, max_examples=1, batch_size=8)
TUNED = PersonalSettings(method="fine-tune", steps=60)
DITTO = PersonalSettings(method="ditto", steps=60, pull=0.1)
HEAD = PersonalSettings(method="local-layers", steps=60, layers=("out",))


def made(
    data: Dataset | None = None,
    how: PersonalSettings = TUNED,
    shared: Parameters = GLOBAL,
    run: TrainSettings = RUN,
) -> Personal:
    data = windows() if data is None else data
    return personalise(shared, data, tiny(), run, how, np.random.default_rng(1))


class Watched(NamedTuple):
    """What came of it, and the examples that each fit saw and each judgement was of, by their places."""

    made: Personal
    fits: list[Parameters]
    seen: list[set[int]]
    judged: list[set[int]]


def watched(data: Dataset, how: PersonalSettings) -> Watched:
    """The real thing, with a look at what it trains on and what it judges by; examples are told by their owners."""
    numbered = dataclasses.replace(data, owners=np.arange(len(data)).astype(str))
    fits: list[Parameters] = []
    seen: list[set[int]] = []
    judged: list[set[int]] = []

    def training(shared: Parameters, some: Dataset, *more: Any, **named: Any) -> Trained:
        seen.append(set(map(int, some.owners)))
        return train(shared, some, *more, **named)

    def evaluating(model: Parameters, some: Dataset, *more: Any) -> Counts:
        if len(judged) < len(seen):
            fits.append(model)
            judged.append(set(map(int, some.owners)))
        return evaluate(model, some, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(personal, "train", training)
        patch.setattr(personal, "evaluate", evaluating)
        return Watched(made(numbered, how), fits, seen, judged)


def loss(model: Parameters, data: Dataset) -> float:
    counts = evaluate(model, data, tiny())
    return counts.loss_sum / counts.examples


@pytest.mark.parametrize("how", [TUNED, DITTO, HEAD])
def test_its_owners_examples_make_a_model_that_is_better_on_later_ones(how: PersonalSettings) -> None:
    own = made(how=how)
    assert own.verdict.personal
    assert loss(own.model, windows(seed=5)) < loss(GLOBAL, windows(seed=5)) - 0.1


LABELS = st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=FEWEST, max_size=60)


@settings(deadline=None, max_examples=15)
@given(labels=LABELS, how=st.sampled_from([TUNED, DITTO, HEAD]))
def test_every_example_is_judged_once_by_a_fit_that_has_not_seen_it_and_all_are_trained_on(
    labels: list[int], how: PersonalSettings
) -> None:
    """Whatever classes there are, one of a single example too. Seen to fail where a fit is of all examples."""
    data = dataclasses.replace(windows(len(labels)), labels=np.array(labels))
    found = watched(data, how.model_copy(update={"steps": 2}))
    assert len(found.seen) == len(found.judged) == FOLDS
    for seen, judged in zip(found.seen, found.judged, strict=True):
        assert not seen & judged
        assert seen | judged == set(range(len(labels)))
    assert sorted(place for judged in found.judged for place in judged) == list(range(len(labels)))


def test_the_mean_of_the_fits_is_used_and_the_loss_over_all_that_they_had_not_seen_decides() -> None:
    """Seen to fail with the last fit in place of the mean, and with the mean judged by what it has seen."""
    data = windows()
    found = watched(data, DITTO)
    mean = np.mean([fit.flat for fit in found.fits], axis=0, dtype=np.float64)
    np.testing.assert_allclose(found.made.model.flat, mean, rtol=1e-5, atol=1e-6)
    verdict = found.made.verdict
    fits = zip(found.fits, found.judged, strict=True)
    parts = [(fit, data.take(np.array(sorted(places)))) for fit, places in fits]
    assert verdict.personal_loss == pytest.approx(sum(loss(*part) * len(part[1]) for part in parts) / 60)
    assert verdict.global_loss == pytest.approx(loss(GLOBAL, data))
    assert (verdict.examples, verdict.personal) == (60, True)


def looking(kinds: NDArray[np.int64], seed: int = 3) -> Dataset:
    """Windows of noise whose classes nothing but their looks tells: near 0, 1 or 2, as ``kinds`` (n,) says."""
    noise = np.random.default_rng(seed).normal(size=(len(kinds), 2, 8)).astype(np.float32)
    looks = (kinds[:, None] + np.random.default_rng(seed).normal(0, 0.1, (len(kinds), 4))).astype(np.float32)
    return dataclasses.replace(windows(len(kinds)), inputs=(noise,), looks=looks)


def test_labelled_examples_decide_with_the_fits_as_they_do_with_the_model_that_is_used() -> None:
    """Seen to fail where the fits are judged alone."""
    labels = windows().labels
    found = made(looking(labels), DITTO.model_copy(update={"steps": 2}))
    assert found.verdict.personal_f1 is not None
    assert found.verdict.personal_f1 > 0.99
    assert found.neighbours is not None
    assert len(found.neighbours.looks) == len(labels)
    later = looking(labels, seed=4)
    assert later.looks is not None
    assert np.array_equal(found.neighbours.evidence(later.looks).argmax(axis=1), labels)


def test_an_example_is_never_judged_by_its_own_looks() -> None:
    """Looks that tell nothing but themselves would be sure of all. Seen to fail with neighbours of all examples."""
    found = made(looking(np.random.default_rng(9).permutation(windows().labels)), DITTO)
    assert found.verdict.personal_f1 is not None
    assert found.verdict.personal_f1 < 0.6
    assert found.neighbours is None
    assert found.model.equal(GLOBAL)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 9))
def test_a_fit_is_the_mean_of_where_the_second_half_of_its_batches_led(steps: int) -> None:
    """Seen to fail with the last batch's parameters, and with one batch more in the mean."""
    path: list[NDArray[np.float32]] = []
    settings, tether = DITTO.model_copy(update={"steps": steps}).training(RUN), Tether(GLOBAL)

    def observe(event: Event) -> None:
        if event.capture is not None:
            path.append(event.capture().parameters)

    train(GLOBAL, windows(), tiny(), settings, np.random.default_rng(1), observe, tether=tether)
    delta = personal.settled(GLOBAL, windows(), tiny(), settings, np.random.default_rng(1), tether)
    second = path[steps // 2 :]
    np.testing.assert_allclose(GLOBAL.add(delta).flat, np.mean(second, axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)


def test_nothing_of_hidden_layers_is_dropped_while_it_is_fitted() -> None:
    """Seen to fail where the plan is trained as in rounds: all that leaves the convolution is dropped then."""
    verdicts = [
        personalise(GLOBAL, windows(), plan, RUN, DITTO, np.random.default_rng(1)).verdict
        for plan in (tiny(**with_step(1, op="dropout", args=("%conv1d", share, True))) for share in (0.0, 1.0))
    ]
    assert verdicts[0] == verdicts[1]
    assert verdicts[0].personal_loss != pytest.approx(verdicts[0].global_loss)


@settings(deadline=None)
@given(labels=st.lists(st.integers(0, 3), max_size=40), folds=st.integers(1, 7))
def test_folds_are_stretches_of_time_of_each_class_and_none_is_empty(labels: list[int], folds: int) -> None:
    """Fewer examples than folds are each in one of their own. Seen to fail with each class dealt from the first on."""
    fold_of = deal(np.array(labels, np.int64), folds)
    assert len(set(fold_of.tolist())) == min(folds, len(labels))
    assert set(fold_of.tolist()) <= set(range(folds))
    for label in set(labels):
        own = fold_of[np.array(labels) == label]
        sizes = np.unique(own, return_counts=True)[1]
        assert len(sizes) == min(folds, len(own))
        assert sizes.max() - sizes.min() <= 1
        assert np.count_nonzero(np.diff(own)) == len(sizes) - 1  # each fold's come one after another


@pytest.mark.parametrize("how", [TUNED, DITTO, HEAD])
def test_what_has_learned_examples_of_no_meaning_by_heart_is_not_used(how: PersonalSettings) -> None:
    """The global model says nothing of them. Seen to fail where fits are judged by what they have seen."""
    undecided = Parameters(GLOBAL.manifest, np.where(local(GLOBAL.manifest, ("out",)), np.float32(0), GLOBAL.flat))
    labels = np.random.default_rng(5).integers(0, len(CLASSES), 40)
    data = dataclasses.replace(windows(40), labels=labels)
    own = made(data, how.model_copy(update={"steps": 100}), undecided)
    assert own.verdict.personal_loss > own.verdict.global_loss == pytest.approx(np.log(3))
    assert own.model.equal(undecided)


def test_ditto_stays_the_nearer_to_the_global_model_the_stronger_it_is_pulled() -> None:
    """Seen to fail where the pull is left out."""
    away = [
        made(how=PersonalSettings(method="ditto", steps=60, pull=pull)).model.subtract(GLOBAL).norm()
        for pull in (0.01, 0.3, 3.0)
    ]
    assert away == sorted(away, reverse=True)
    assert away[2] < away[0] / 2


def test_local_layers_are_its_own_and_all_others_the_global_models_to_the_bit() -> None:
    """Seen to fail where weight decay reaches what is held."""
    own = made(how=HEAD)
    assert own.verdict.personal
    for name, array in own.model.arrays().items():
        assert (name.startswith("out.")) != np.array_equal(array, GLOBAL.arrays()[name])


def test_a_layer_goes_by_its_whole_name() -> None:
    assert local(GLOBAL.manifest, ("out",)).sum() == 15
    assert local(GLOBAL.manifest, ("out.bias", "conv.")).sum() == 3 + 28
    for prefix in ("ou", "head"):
        with pytest.raises(PlanError, match=r"no layer .*conv\.weight"):
            local(GLOBAL.manifest, (prefix,))


def test_too_few_examples_are_told() -> None:
    for examples in (0, 1, FOLDS - 1, FEWEST - 1):
        with pytest.raises(DataError, match=f"^{examples} labelled example(s are| is) too few .* {FEWEST}$"):
            made(windows(examples))
    assert made(windows(FEWEST)).verdict.examples == FEWEST


def test_it_ends_at_the_batch_at_which_it_is_stopped_and_makes_the_same_when_it_begins_anew() -> None:
    """In each fit, and while it judges. Seen to fail where judging goes on."""
    calls = 0

    def run(last: float, batch: int = 256) -> Personal:
        nonlocal calls
        calls = 0

        def on_batch() -> None:
            nonlocal calls
            calls += 1
            if calls > last:
                raise InterruptedError

        rng = np.random.default_rng(1)
        return personalise(GLOBAL, windows(), tiny(), RUN, TUNED, rng, on_batch=on_batch, batch=batch)

    run(np.inf, batch=1)
    one_by_one = calls
    whole = run(np.inf)
    assert one_by_one - calls == (60 - FOLDS) + (60 - 1)  # of the fits, and of the global model
    for last in (0, calls // 2, calls - 1):
        with pytest.raises(InterruptedError):
            run(last)
        assert calls == last + 1
    assert run(np.inf).model.equal(whole.model)


@pytest.mark.parametrize("how", [{"method": "ditto", "layers": ("out",)}, {"method": "local-layers"}])
def test_layers_are_named_where_they_are_local_and_nowhere_else(how: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="names of layers"):
        PersonalSettings.model_validate(how)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first, again = made(how=DITTO), made(how=DITTO)
    assert first.model.equal(again.model)
    assert first.verdict == again.verdict
    other = personalise(GLOBAL, windows(), tiny(), RUN, DITTO, np.random.default_rng(2))
    assert not other.model.equal(first.model)


def test_a_model_that_tells_no_classes_apart_is_judged_by_its_loss_alone() -> None:
    """Seen to fail with a macro-F1 of 1.00 for both."""
    plan = find("ecg-masked").plan
    rng = np.random.default_rng(0)
    inputs = tuple(rng.normal(size=(40, *each.shape)).astype(np.float32) for each in plan.inputs)
    few = DITTO.model_copy(update={"steps": 5})
    beats = Dataset(inputs, np.zeros(40, np.int64), np.full(40, "one"), plan.classes)
    made = personalise(find("ecg-masked").initial(0), beats, plan, plan.train, few, rng)
    assert (made.verdict.personal_f1, made.verdict.global_f1) == (None, None)
    assert "F1" not in made.verdict.words()
