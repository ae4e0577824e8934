"""Row types: the bytes are those of torch's types, and what is stored means what it says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from engram_cli.store.tensors import STORAGE
from engram_cli.table.row_types import BLOCK, ROW_TYPES, matrix_scale

TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
ANY = st_numpy.arrays(np.uint32, (3, 2 * BLOCK), elements=st.integers(0, 2**32 - 1)).map(lambda bits: bits.view(np.float32))
USUAL = st_numpy.arrays(np.float32, (3, 2 * BLOCK), elements=st.floats(-1000, 1000, width=32))
BYTES = np.arange(256, dtype=np.uint8)
ONE = np.ones(1, np.float32)


def stored_in_torch(values: np.ndarray) -> np.ndarray:
    """E4M3 bytes of torch, which makes too large numbers NaN: they are clipped before."""
    clipped = np.where(np.isnan(values), values, np.clip(values, -448, 448))
    return torch.from_numpy(clipped).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def test_every_byte_means_what_it_means_in_torch() -> None:
    numbers = torch.from_numpy(BYTES).view(torch.float8_e4m3fn).float().numpy()
    scales = torch.from_numpy(BYTES).view(torch.float8_e8m0fnu).float().numpy()
    assert np.array_equal(ROW_TYPES["fp8-scalar"].decode(BYTES, ONE), numbers, equal_nan=True)
    ones = np.full((256, BLOCK), 0x38, np.uint8)
    assert np.array_equal(ROW_TYPES["fp8-block"].decode(ones, BYTES[:, None])[:, 0], scales, equal_nan=True)


def test_every_half_means_what_it_means_in_numpy_and_is_rounded_as_there() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = ROW_TYPES["f16"].decode(halves)
    assert np.array_equal(numbers, halves.astype(np.float32), equal_nan=True)
    finite = np.sort(numbers[np.isfinite(numbers)])
    between = (finite[1:] + finite[:-1]) / 2
    values = np.concatenate([between, np.nextafter(between, np.float32(0)), np.nextafter(between, np.float32(1e9)), numbers])
    with np.errstate(over="ignore"):
        assert np.array_equal(ROW_TYPES["f16"].encode(values)[0], values.astype(np.float16), equal_nan=True)


@given(values=ANY)
def test_e4m3_is_rounded_as_torch_rounds_it(values: np.ndarray) -> None:
    stored, _ = ROW_TYPES["fp8-scalar"].encode(values, ONE)
    expected = stored_in_torch(values)
    nan = np.isnan(values)
    assert np.array_equal(stored[~nan], expected[~nan])
    assert (stored[nan] & 0x7F == 0x7F).all()


def test_e4m3_is_rounded_as_torch_rounds_it_halfway_between_numbers() -> None:
    numbers = np.sort(ROW_TYPES["fp8-scalar"].decode(BYTES[:127], ONE))
    halves = (numbers[1:] + numbers[:-1]) / 2
    around = np.concatenate([halves, np.nextafter(halves, np.float32(0)), np.nextafter(halves, np.float32(500)), numbers])
    for values in (around, -around):
        assert np.array_equal(ROW_TYPES["fp8-scalar"].encode(values, ONE)[0], stored_in_torch(values))


@given(values=ANY, name=st.sampled_from(sorted(TORCH)))
def test_numbers_without_scales_are_rounded_as_torch_rounds_them(values: np.ndarray, name: str) -> None:
    expected = torch.from_numpy(values).to(TORCH[name]).float().numpy()
    assert np.array_equal(ROW_TYPES[name].decode(*ROW_TYPES[name].encode(values)), expected, equal_nan=True)


@given(values=USUAL, exponents=st_numpy.arrays(np.int8, (3, 1), elements=st.integers(-20, 20)))
def test_blocks_are_within_half_a_step_of_what_they_were(values: np.ndarray, exponents: np.ndarray) -> None:
    values = np.ldexp(values, exponents.astype(np.int32))
    numbers, scales = ROW_TYPES["fp8-block"].encode(values)
    assert scales is not None
    assert (numbers.shape, scales.shape) == ((3, 2 * BLOCK), (3, 2))
    decoded = ROW_TYPES["fp8-block"].decode(numbers, scales)
    largest = np.abs(values).reshape(3, 2, BLOCK).max(-1)
    assert (largest <= 448 * 2.0 ** (scales.astype(np.int32) - 127)).all(), "nothing is cut off"
    tight = largest > 224 * 2.0 ** (scales.astype(np.int32) - 127)
    assert (tight | (largest == 0) | (scales == 0)).all(), "no power of two is given away"
    finest = np.repeat(2.0 ** (scales.astype(np.int32) - 127 - 10), BLOCK, axis=1)
    assert (np.abs(decoded - values) <= np.maximum(np.abs(values) / 16, finest)).all()


@given(numbers=st_numpy.arrays(np.uint8, (2, 2 * BLOCK)), scales=st_numpy.arrays(np.uint8, (2, 2), elements=st.integers(0, 240)))
def test_what_was_decoded_is_encoded_without_loss(numbers: np.ndarray, scales: np.ndarray) -> None:
    values = ROW_TYPES["fp8-block"].decode(numbers, scales)
    again = ROW_TYPES["fp8-block"].decode(*ROW_TYPES["fp8-block"].encode(values))
    assert np.array_equal(again, values, equal_nan=True)


@given(values=USUAL)
def test_int8_rows_are_within_half_a_step_of_what_they_were(values: np.ndarray) -> None:
    numbers, scales = ROW_TYPES["int8-row"].encode(values)
    assert scales is not None
    assert (numbers.dtype, numbers.min() >= -127, scales.shape) == (np.int8, True, (3,))
    assert (np.abs(ROW_TYPES["int8-row"].decode(numbers, scales) - values) <= scales[:, None] * np.float32(0.5001) + 1e-37).all()


@pytest.mark.parametrize("name", ROW_TYPES)
def test_zeros_stay_zeros_and_what_is_no_number_is_never_one(name: str) -> None:
    row_type = ROW_TYPES[name]
    values = np.zeros((4, BLOCK), np.float32)
    values[1:, 3] = [np.nan, np.inf, 3e38]
    values[1:, 5] = 1
    decoded = row_type.decode(*row_type.encode(values, ONE))
    assert not decoded[0].any()
    assert np.isnan(decoded[1, 3])
    if name == "int8-row":
        assert np.isnan(decoded[1:3]).all()
        assert decoded[3, 3] == pytest.approx(3e38)
    elif name == "fp8-block":
        assert (decoded[2, 3], decoded[2, 5]) == (448 * 2.0**-8, 1)
        assert decoded[3, 3] == pytest.approx(3e38, rel=1 / 16)
    elif name == "fp8-scalar":
        assert (decoded[2, 3], decoded[3, 3]) == (448, 448)
    else:
        assert decoded[2, 3] == np.inf


def test_the_scale_of_a_matrix_takes_its_largest_number_to_the_end() -> None:
    values = np.array([[-0.7, 0.1]], np.float32)
    scale = matrix_scale(0.7)
    assert ROW_TYPES["fp8-scalar"].decode(*ROW_TYPES["fp8-scalar"].encode(values, scale))[0, 0] == pytest.approx(-0.7)
    assert matrix_scale(0.0) == 1


@pytest.mark.parametrize("name", ROW_TYPES)
def test_what_a_matrix_takes_on_disk(name: str) -> None:
    specs = ROW_TYPES[name].tensors(10, 64)
    numbers, scales = ROW_TYPES[name].encode(np.ones((10, 64), np.float32), ONE)
    assert (numbers.shape, numbers.dtype) == (specs["rows"].shape, STORAGE[specs["rows"].dtype])
    assert (scales is None) == ("scales" not in specs)
    if scales is not None:
        assert (scales.shape, scales.dtype) == (specs["scales"].shape, STORAGE[specs["scales"].dtype])
    own = sum(spec.bytes for spec in specs.values()) - (4 if name == "fp8-scalar" else 0)
    assert ROW_TYPES[name].row_bytes(64) * 10 == own
