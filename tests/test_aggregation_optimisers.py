"""The server optimisers against independent float64 formulas, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.aggregation import RULES, rule
from coordinator.aggregation.rule import BLOCK
from schemas.errors import SettingsError
from schemas.messages import StrategySettings
from schemas.parameters import Manifest, Parameters, TensorSpec

MANIFEST = Manifest((TensorSpec("a", (BLOCK,)), TensorSpec("b", (5, 7))))  # more than one block
ROUNDS = 12
SETTINGS = StrategySettings(learning_rate=0.03, momentum=0.8, beta2=0.95, tau=0.01)

Wide = NDArray[np.float64]


def deltas(seed: int) -> list[Parameters]:
    """Deltas over six orders of magnitude, some exactly zero."""
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((ROUNDS, MANIFEST.size)) * 10.0 ** rng.uniform(-5, 1, MANIFEST.size)
    drawn[:, ::17] = 0
    return [Parameters(MANIFEST, row.astype(np.float32)) for row in drawn]


def adaptive(second: Callable[[Wide, Wide], Wide]) -> Callable[[Wide, list[Wide]], Wide]:
    """Reddi et al. (2021), Algorithm 2, written out in float64."""

    def run(x: Wide, steps: list[Wide]) -> Wide:
        m = np.zeros_like(x)
        v = np.full_like(x, SETTINGS.tau**2)
        for d in steps:
            m = SETTINGS.momentum * m + (1 - SETTINGS.momentum) * d
            v = second(v, d)
            x = x + SETTINGS.learning_rate * m / (v**0.5 + SETTINGS.tau)
        return x

    return run


def averaging(x: Wide, steps: list[Wide]) -> Wide:
    return x + SETTINGS.learning_rate * sum(steps)


def momentum(x: Wide, steps: list[Wide]) -> Wide:
    """Hsu et al. (2019): v = b v + d, x = x + rate v, unrolled: the delta of round i counts in every round after it."""
    b = SETTINGS.momentum
    weights = [sum(b**k for k in range(ROUNDS - i)) for i in range(ROUNDS)]
    return x + SETTINGS.learning_rate * sum(w * d for w, d in zip(weights, steps, strict=True))


def yogi(v: Wide, d: Wide) -> Wide:
    step = (1 - SETTINGS.beta2) * d**2
    return np.where(v > d**2, v - step, np.where(v < d**2, v + step, v))


REFERENCES: dict[str, Callable[[Wide, list[Wide]], Wide]] = {
    "fedavg": averaging,
    "fedavgm": momentum,
    "fedadam": adaptive(lambda v, d: SETTINGS.beta2 * v + (1 - SETTINGS.beta2) * d**2),
    "fedyogi": adaptive(yogi),
    "fedadagrad": adaptive(lambda v, d: v + d**2),
}


def test_every_rule_of_the_table_has_a_reference_here() -> None:
    assert set(REFERENCES) == set(RULES)


@pytest.mark.parametrize("name", list(REFERENCES))
def test_a_run_of_rounds_agrees_with_float64(name: str) -> None:
    chosen = rule(name)
    model = Parameters(MANIFEST, np.random.default_rng(0).standard_normal(MANIFEST.size).astype(np.float32))
    steps = deltas(5)
    expected = REFERENCES[name](model.flat.astype(np.float64), [d.flat.astype(np.float64) for d in steps])
    start = moments = chosen.start(MANIFEST, SETTINGS)
    for delta in steps:
        moments, model = chosen.apply(moments, model, delta, SETTINGS)
    np.testing.assert_allclose(model.flat, expected, rtol=2e-5, atol=2e-6)
    for state in (start, moments):
        assert all(values.dtype == np.float32 and values.shape == (MANIFEST.size,) for values in state.values())


@pytest.mark.parametrize("name", list(REFERENCES))
def test_apply_is_pure_and_repeats_bit_for_bit(name: str) -> None:
    """A restart applies the same delta to the state from the checkpoint, and must get the same model."""
    chosen = rule(name)
    model, delta = Parameters.zeros(MANIFEST), deltas(9)[0]
    moments, model = chosen.apply(chosen.start(MANIFEST, SETTINGS), model, delta, SETTINGS)
    copies = {key: values.copy() for key, values in moments.items()}, model.flat.copy(), delta.flat.copy()
    first, second = (chosen.apply(moments, model, delta, SETTINGS) for _ in range(2))
    assert first[1].equal(second[1])
    assert {k: v.tobytes() for k, v in first[0].items()} == {k: v.tobytes() for k, v in second[0].items()}
    for key, values in copies[0].items():
        np.testing.assert_array_equal(moments[key], values)
    np.testing.assert_array_equal(model.flat, copies[1])
    np.testing.assert_array_equal(delta.flat, copies[2])


def test_fedavg_at_learning_rate_one_adds_the_mean_delta_exactly_once() -> None:
    chosen, plain = rule("fedavg"), StrategySettings()
    model, delta = deltas(1)[0], deltas(2)[0]
    total = chosen.init(MANIFEST, plain, 100)
    for examples in (3, 40):
        total = chosen.fold(total, delta, examples)
    moments, following = chosen.apply(chosen.start(MANIFEST, plain), model, chosen.finish(total), plain)
    assert following.equal(model.add(delta))
    assert moments == {}


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_adaptive_steps_are_about_the_learning_rate_whatever_the_delta(name: str) -> None:
    """What adaptivity is for: parameters with large and small deltas move alike."""
    manifest = Manifest((TensorSpec("w", (2,)),))
    chosen, strategy = rule(name), StrategySettings(learning_rate=0.01, momentum=0.0, beta2=0.0, tau=1e-6)
    delta = Parameters(manifest, np.array([5.0, 0.005], np.float32))
    _, moved = chosen.apply(chosen.start(manifest, strategy), Parameters.zeros(manifest), delta, strategy)
    np.testing.assert_allclose(moved.flat, 0.01, rtol=1e-3)


def test_fedyogi_rests_where_the_second_moment_is_the_squared_delta() -> None:
    """The sign of nothing is 0. Seen to fail with it 1."""
    strategy = StrategySettings(beta2=0.5, tau=0.25)
    delta = Parameters(MANIFEST, np.full(MANIFEST.size, 0.25, np.float32))
    chosen = rule("fedyogi")
    moments, _ = chosen.apply(chosen.start(MANIFEST, strategy), Parameters.zeros(MANIFEST), delta, strategy)
    assert (moments["second_moment"] == 0.0625).all()


def test_an_unknown_strategy_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"'fedsgd'.*fedavg, fedavgm, fedadam, fedyogi, fedadagrad"):
        rule("fedsgd")
