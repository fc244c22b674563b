"""A model and its steps in one blob, and what the trainer child makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.lineage import Lineage
from edge.model_reader import ModelReader
from schemas import compression, steps
from schemas.errors import ModelError, WireError
from schemas.parameters import Manifest, Parameters, TensorSpec

MANIFEST = Manifest((TensorSpec("weight", (40, 3)), TensorSpec("bias", (7,))))


def chain(length: int, seed: int = 0) -> tuple[list[Parameters], Lineage]:
    """Versions, and what leads from the first to the last."""
    rng = np.random.default_rng(seed)
    models = [Parameters(MANIFEST, rng.standard_normal(MANIFEST.size, np.float32))]
    made: list[tuple[str, bytes]] = []
    for _ in range(length):
        target = Parameters(MANIFEST, models[-1].flat + rng.standard_normal(MANIFEST.size, np.float32) / np.float32(50))
        step = steps.encode("int4", models[-1], target)
        models.append(steps.apply(models[-1], step))
        made.append((models[-1].digest(), step))
    return models, Lineage(compression.encode("float32", models[0], np.random.default_rng(0)), tuple(made))


digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
lineages = st.builds(
    Lineage,
    st.binary(min_size=1).filter(lambda raw: not raw.startswith(b"{")),
    st.lists(st.tuples(digests, st.binary(min_size=1)), max_size=32).map(tuple),
)


@settings(max_examples=50)
@given(lineage=lineages)
def test_what_was_packed_comes_out_again(lineage: Lineage) -> None:
    assert Lineage.unpack(lineage.pack()) == lineage


@given(raw=st.binary(max_size=40).map(lambda tail: b"{" + tail))
def test_other_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        Lineage.unpack(raw)


@pytest.mark.parametrize("cut", [1, 30])
def test_a_blob_that_was_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(WireError, match="instead of"):
        Lineage.unpack(chain(2)[1].pack()[:-cut])


def test_a_blob_with_more_behind_it_is_refused() -> None:
    with pytest.raises(WireError, match="instead of"):
        Lineage.unpack(chain(2)[1].pack() + b"x")


def test_the_model_at_the_end_is_that_of_whoever_made_the_steps() -> None:
    models, lineage = chain(5)
    assert ModelReader().read(lineage.pack(), MANIFEST).equal(models[-1])
    assert ModelReader().read(lineage.snapshot, MANIFEST).equal(models[0])


def test_the_next_job_goes_on_from_the_model_of_the_one_before() -> None:
    """With a snapshot that is of no use any more. Seen to fail without ``_newest``."""
    models, lineage = chain(6)
    reader = ModelReader()
    for length in (3, 4, 4, 6):
        given = Lineage(lineage.snapshot if length == 3 else b"\0", lineage.steps[:length])
        assert reader.read(given.pack(), MANIFEST).equal(models[length])


@pytest.mark.parametrize("fault", ["another snapshot", "another step", "a step missing", "no step at all"])
def test_steps_that_lead_elsewhere_are_never_used(fault: str) -> None:
    """Seen to fail without the comparison of digests."""
    models, lineage = chain(3)
    made = list(lineage.steps)
    if fault == "another snapshot":
        lineage = Lineage(compression.encode("float32", models[1], np.random.default_rng(0)), lineage.steps)
    elif fault == "another step":
        made[1] = (made[1][0], chain(3, seed=9)[1].steps[1][1])
    elif fault == "a step missing":
        del made[1]
    else:
        made[1] = (made[1][0], b"no step at all")
    reader = ModelReader()
    says = rf"{models[-1].digest()[:8]}( can't be taken \(.+\))?: it is fetched whole"
    with pytest.raises(ModelError, match=says):
        reader.read(
            Lineage(lineage.snapshot, lineage.steps if fault == "another snapshot" else tuple(made)).pack(), MANIFEST
        )
    assert reader.read(chain(3)[1].pack(), MANIFEST).equal(models[-1])  # and nothing of it stays


def test_a_model_that_was_read_is_none_for_a_plan_of_another_shape() -> None:
    """However the digests agree. Seen to fail: the model of the plan before was given to it."""
    _, lineage = chain(2)
    reader = ModelReader()
    reader.read(lineage.pack(), MANIFEST)
    with pytest.raises(ModelError, match="fetched whole"):
        reader.read(lineage.pack(), Manifest((TensorSpec("weight", (40, 2)),)))
