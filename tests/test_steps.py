"""Steps from version to version: both ends hold one model, whatever the steps were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas import compression, steps
from schemas.compression import grid, int4
from schemas.errors import WireError
from schemas.parameters import Flat, Manifest, Parameters, TensorSpec

MANIFEST = Manifest((TensorSpec("weight", (5, 2)), TensorSpec("bias", (3,)), TensorSpec("scale", ())))

values = hnp.arrays(
    np.float32,
    MANIFEST.size,
    elements=st.floats(-1e3, 1e3, width=32) | st.floats(-1, 1, width=32) | st.floats(-(2.0**-100), 2.0**-100, width=32),
)
codecs = st.sampled_from(steps.CODECS)


def parameters(flat: Flat) -> Parameters:
    return Parameters(MANIFEST, flat)


@settings(max_examples=80)
@given(codec=codecs, model=values, target=values)
def test_a_step_is_rounded_to_the_nearest_and_the_same_each_time(codec: str, model: Flat, target: Flat) -> None:
    """Seen to fail with a generator that draws as usual."""
    step = steps.encode(codec, parameters(model), parameters(target))
    assert step == steps.encode(codec, parameters(model), parameters(target))
    change = parameters(target - model)
    decoded = compression.decode(step, MANIFEST)
    deviation = float(np.sqrt(np.square(change.flat, dtype=np.float64).mean()))
    for name, part in change.arrays().items():
        largest = float(np.abs(part).max())
        if codec == "int8":
            bound = largest / 127 / 2 * (1 + 1e-5) + 1e-37
        elif codec == "int4":
            own = float(np.sqrt(np.square(part, dtype=np.float64).mean()))
            step = max(int4.STEPS.width * (own * deviation) ** 0.5, largest / 32_767)
            bound = step / 2 * (1 + 2.0**-7) + largest * 1e-6 + 1e-37  # a step is rounded up to a bfloat16
        else:
            bound = largest * 2.0**-8 + 2.0**-24  # half a unit of bfloat16, and float16's smallest number
        assert np.abs(decoded.arrays()[name].astype(np.float64) - part).max() <= bound


@settings(max_examples=50)
@given(codec=codecs, model=values, targets=st.lists(values, max_size=5))
def test_whoever_follows_the_steps_holds_the_model_of_who_makes_them_bit_for_bit(
    codec: str, model: Flat, targets: list[Flat]
) -> None:
    """From the bytes alone. Seen to fail with the target instead of what the step leads to."""
    made = followed = parameters(model)
    for target in targets:
        step = steps.encode(codec, made, parameters(target))
        made = steps.apply(made, step)
        followed = steps.apply(parameters(followed.flat.copy()), bytes(step))
        assert followed.digest() == made.digest()


@pytest.mark.parametrize("codec", steps.CODECS)
def test_a_step_is_added_where_it_belongs_however_large_the_model_is(codec: str) -> None:
    """It is decoded in blocks. Seen to fail with each of them added to the model's beginning."""
    manifest = Manifest((TensorSpec("weight", (2 * grid.BLOCK + 5,)), TensorSpec("bias", (7,))))
    rng = np.random.default_rng(3)
    model, target = (Parameters(manifest, rng.standard_normal(manifest.size, np.float32)) for _ in range(2))
    step = steps.encode(codec, model, target)
    assert np.array_equal(steps.apply(model, step).flat, model.flat + compression.decode(step, manifest).flat)


def test_what_is_no_step_of_a_model_is_refused() -> None:
    model = Parameters.zeros(MANIFEST)
    other = Parameters.zeros(Manifest((TensorSpec("weight", (50,)),)))
    for raw in (b"", b"nothing", steps.encode("int4", other, other)):
        with pytest.raises(WireError):
            steps.apply(model, raw)


def test_a_step_into_the_infinite_is_neither_made_nor_taken() -> None:
    large = parameters(np.full(MANIFEST.size, 2.5e38, np.float32))
    with pytest.raises(WireError):
        steps.encode("bfloat16", large, parameters(-large.flat))
    step = compression.encode("float32", large, np.random.default_rng(0))
    with pytest.raises(WireError, match="infinite"):
        steps.apply(large, step)
