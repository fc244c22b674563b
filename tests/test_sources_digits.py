from __future__ import annotations

import numpy as np

from edge.dataspec import DataSpec
from edge.sources import load, prepare
from edge.sources.digits import enlarge, standardise


def test_digits_are_enlarged_to_the_size_of_mnist() -> None:
    dataset = load("sklearn-digits", "digits")
    assert dataset.shapes == ((1, 28, 28),)
    assert dataset.classes == tuple("0123456789")
    assert len(dataset) == 1797


def test_each_pixel_becomes_a_square_within_a_margin() -> None:
    images = np.arange(64).reshape(1, 8, 8)
    large = enlarge(images)
    assert large.shape == (1, 28, 28)
    np.testing.assert_array_equal(large[0, 3:26:3, 3:26:3], images[0])
    assert not large[0, :2].any()
    assert not large[0, :, -2:].any()


def test_pixels_are_standardised_by_constants() -> None:
    values = standardise(np.array([[[0, 255]]], dtype=np.uint8), 255)
    np.testing.assert_allclose(values.ravel(), [-0.4242, 2.8215], atol=1e-3)
    assert values.dtype == np.float32


def test_devices_share_four_fifths_and_the_evaluator_has_the_rest() -> None:
    devices = [prepare(DataSpec(path="sklearn-digits", devices=3, index=index), "digits") for index in (-1, 0, 1, 2)]
    assert [len(device.train) for device in devices] == [0, 480, 479, 479]
    assert [len(device.held_out) for device in devices] == [359, 0, 0, 0]
    pixels = [
        example.tobytes()
        for device in devices
        for part in (device.train, device.held_out)
        for example in part.inputs[0]
    ]
    assert sorted(pixels) == sorted(example.tobytes() for example in load("sklearn-digits", "digits").inputs[0])
