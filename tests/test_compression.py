import inspect
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas import compression
from schemas.compression import HEADER, MARK, NAMES, TABLE
from schemas.errors import Reject, WireError
from schemas.parameters import Manifest, Parameters, TensorSpec

MANIFEST = Manifest((TensorSpec("weight", (4, 5)), TensorSpec("bias", (4,)), TensorSpec("scale", ())))


def _normal(manifest: Manifest, seed: int = 0) -> Parameters:
    values = np.random.default_rng(seed).standard_normal(manifest.size)
    return Parameters(manifest, (values * 1e-2).astype(np.float32))


def _encode(name: str, parameters: Parameters, seed: int = 0) -> bytes:
    return compression.encode(name, parameters, np.random.default_rng(seed))


def _refused(payload: bytes, manifest: Manifest = MANIFEST) -> Reject:
    with pytest.raises(WireError) as caught:
        compression.decode(payload, manifest)
    return caught.value.reason


# The most that a delta of normal values loses, as a fraction of its norm.
LOST = {
    "float32": 0,
    "bfloat16": 0.004,
    "float16": 0.001,
    "int8": 0.02,
    "int4": 0.5,
    "eden1": 0.8,
    "eden2": 0.4,
    "eden3": 0.2,
    "eden4": 0.11,
    "sign": 0.7,
    "topk": 1.0,  # never more than was there, for feedback to converge
    "topk10": 1.0,
    "randk": 1.0,
    "lowrank": 1.0,
}

every_codec = pytest.mark.parametrize("name", NAMES)


def test_there_is_one_codec_a_line_and_one_number_a_module() -> None:
    numbers = {codec.ID: Path(inspect.getfile(codec.encode)).stem for codec in TABLE.values()}
    assert len(set(numbers.values())) == len(numbers)
    assert all(1 <= number <= 255 for number in numbers)
    assert tuple(TABLE) == NAMES == tuple(LOST)


@every_codec
def test_both_halves_of_a_codec_stand_in_a_module_of_its_name(name: str) -> None:
    """The names of a family, ``eden1`` to ``eden4``, begin with their module's."""
    codec = TABLE[name]
    assert inspect.getmodule(codec.encode) is inspect.getmodule(codec.blocks) is inspect.getmodule(codec.check)
    assert Path(inspect.getfile(codec.encode)).stem in {name, name.rstrip("0123456789")}


@every_codec
@pytest.mark.parametrize(
    "shapes", [(), ((),), ((1,),), ((3, 2), (1, 1, 1), ()), ((40_000,), (7,))], ids=lambda shapes: f"{len(shapes)}"
)
def test_the_bytes_and_the_manifest_are_all_that_decoding_needs(name: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    manifest = Manifest(tuple(TensorSpec(f"t{index}", shape) for index, shape in enumerate(shapes)))
    parameters = _normal(manifest)
    decoded = compression.decode(_encode(name, parameters), manifest)
    assert decoded.manifest == manifest
    assert decoded.flat.flags.c_contiguous
    assert decoded.subtract(parameters).norm() <= LOST[name] * parameters.norm()


@every_codec
@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6), scale=st.sampled_from([1e-30, 1e-3, 1e4]))
def test_a_second_reading_gives_the_same_values_none_above_the_peak(name: str, sizes: list[int], scale: float) -> None:
    manifest = Manifest(tuple(TensorSpec(f"t{index}", (size,)) for index, size in enumerate(sizes)))
    parameters = _normal(manifest).scale(scale)
    held = compression.read(_encode(name, parameters), manifest)
    first, second = held.parameters(), held.parameters()
    assert first.equal(second)
    assert first.peak <= held.peak
    assert all(block.size <= 131_072 and block.dtype == np.float32 for block in held.blocks())


@every_codec
def test_the_same_generator_gives_the_same_bytes(name: str) -> None:
    assert _encode(name, _normal(MANIFEST), seed=5) == _encode(name, _normal(MANIFEST), seed=5)


@every_codec
def test_encoding_leaves_the_parameters_as_they_are(name: str) -> None:
    parameters = _normal(MANIFEST)
    before = parameters.flat.copy()
    parameters.flat.flags.writeable = False
    _encode(name, parameters)
    assert parameters.flat.tobytes() == before.tobytes()


@every_codec
@settings(max_examples=40)
@given(values=hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-60_000, 60_000, width=32)))
def test_a_payload_never_grows_beyond_its_header(name: str, values: np.ndarray) -> None:
    manifest = Manifest((TensorSpec("t", values.shape),))
    payload = _encode(name, Parameters(manifest, values))
    assert len(payload) <= HEADER.size + TABLE[name].limit(manifest)


@every_codec
def test_what_repeats_becomes_small(name: str) -> None:
    manifest = Manifest((TensorSpec("t", (100_000,)),))
    assert len(_encode(name, Parameters.zeros(manifest))) < 200


@every_codec
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_when_encoding(name: str, bad: float) -> None:
    parameters = _normal(MANIFEST)
    parameters.flat[7] = bad
    with pytest.raises(WireError, match=r"not-finite.*lower the learning rate"):
        _encode(name, parameters)


def test_an_unknown_codec_is_refused_with_the_known_ones() -> None:
    with pytest.raises(WireError, match=f"unknown-codec: 'int7': use one of {', '.join(NAMES)}"):
        _encode("int7", _normal(MANIFEST))
    payload = bytearray(_encode("int8", _normal(MANIFEST)))
    payload[1] = 200
    assert _refused(bytes(payload)) is Reject.UNKNOWN_CODEC


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [(0, 0, Reject.MALFORMED), (0, ord("F"), Reject.MALFORMED), (2, 9, Reject.MALFORMED), (3, 1, Reject.TOO_LARGE)],
    ids=["mark", "the layout before", "packing", "size"],
)
def test_a_header_of_another_form_is_refused(place: int, value: int, reason: Reject) -> None:
    payload = bytearray(_encode("float32", _normal(MANIFEST)))
    payload[place] = value
    assert _refused(bytes(payload)) is reason


@every_codec
def test_a_payload_cut_anywhere_is_refused(name: str) -> None:
    payload = _encode(name, _normal(MANIFEST))
    for length in range(len(payload)):
        assert _refused(payload[:length]) in {Reject.TRUNCATED, Reject.MALFORMED}


@every_codec
@pytest.mark.parametrize("parameters", [_normal(MANIFEST), Parameters.zeros(MANIFEST)], ids=["stored", "zstd"])
def test_a_payload_with_something_behind_it_is_refused(name: str, parameters: Parameters) -> None:
    assert _refused(_encode(name, parameters) + b"\0") in {Reject.TOO_LARGE, Reject.MALFORMED}


@every_codec
def test_the_parameters_of_another_model_are_refused(name: str) -> None:
    payload = _encode(name, _normal(MANIFEST))
    for size in (1, 24, 26, 1000):
        assert _refused(payload, Manifest((TensorSpec("t", (size,)),))) in {Reject.TOO_LARGE, Reject.WRONG_SHAPE}


@every_codec
@settings(max_examples=150)
@given(data=st.data())
def test_any_body_makes_finite_parameters_or_a_wire_error(name: str, data: st.DataObject) -> None:
    codec = TABLE[name]
    limit = codec.limit(MANIFEST)
    body = data.draw(st.binary(min_size=limit, max_size=limit) | st.binary(max_size=limit))
    payload = HEADER.pack(MARK, codec.ID, 0, len(body)) + body
    try:
        decoded = compression.decode(payload, MANIFEST)
    except WireError:
        return
    assert decoded.is_finite()
    assert decoded.peak <= compression.read(payload, MANIFEST).peak


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_wire_error(payload: bytes) -> None:
    _refused(payload)


@every_codec
@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_payload_makes_finite_parameters_or_a_wire_error(name: str, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([_normal(MANIFEST), Parameters.zeros(MANIFEST)]))
    payload = bytearray(_encode(name, whole))
    for place in data.draw(st.lists(st.integers(0, len(payload) - 1), min_size=1, max_size=4)):
        payload[place] ^= 1 << data.draw(st.integers(0, 7))
    payload[data.draw(st.integers(1, len(payload))) :] = data.draw(st.binary(max_size=10))
    try:
        decoded = compression.decode(bytes(payload), MANIFEST)
    except WireError:
        return
    assert decoded.is_finite()
    assert decoded.flat.shape == (MANIFEST.size,)


def test_a_bomb_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    """200 MB in a few kB, in a process with 64 MB to spare; the same limit stops the library on its own."""
    size = 200_000_000
    frame = zstandard.ZstdCompressor(level=19).compress(bytes(size))
    assert len(frame) < 20_000
    honest, lying = (HEADER.pack(MARK, 1, 1, said) + frame for said in (size, 100))
    (tmp_path / "honest").write_bytes(honest)
    (tmp_path / "lying").write_bytes(lying)
    script = f"""
        import pathlib, resource, zstandard
        from schemas import compression
        from schemas.errors import WireError
        from schemas.parameters import Manifest, TensorSpec

        manifest = Manifest((TensorSpec("t", (25,)),))
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 64 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for name in ("honest", "lying"):
            payload = (pathlib.Path({str(tmp_path)!r}) / name).read_bytes()
            try:
                zstandard.ZstdDecompressor().decompress(payload[{HEADER.size}:], max_output_size=100)
            except (MemoryError, zstandard.ZstdError) as error:
                print(type(error).__name__)
            try:
                compression.decode(payload, manifest)
            except WireError as error:
                print(error.reason)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.split() == ["MemoryError", "too-large"] * 2


@every_codec
def test_decoding_takes_no_more_memory_than_the_body_and_the_values(name: str) -> None:
    """Unpacked once, written once (twice where a dtype changes), and a byte a value to look for NaN."""
    manifest = Manifest((TensorSpec("t", (1_000_000,)),))
    payload = _encode(name, _normal(manifest))
    tracemalloc.start()
    try:
        compression.decode(payload, manifest)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * manifest.size + 2 * TABLE[name].limit(manifest) + 1_500_000
