"""Packing against a loop over bits, and every refusal."""

import numpy as np
import pytest

from dyadiq.core.errors import QuantError
from dyadiq.core.packing import code_dtype, pack, packed_size_bytes, unpack
from dyadiq.core.qtype import QType

BIPOLAR = QType.parse("bipolar")
COUNTS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65)


def packed_bit_by_bit(codes, qtype):
    """Oracle: write every bit of every code into one long list."""
    bits = []
    for code in codes:
        stored = int(code > 0) if qtype.bipolar else int(code)
        bits += [stored >> i & 1 for i in range(qtype.bits)]
    bits += [0] * (-len(bits) % 8)
    return bytes(sum(bits[i + j] << j for j in range(8)) for i in range(0, len(bits), 8))


def random_codes(rng, qtype, shape):
    codes = rng.integers(qtype.qmin, qtype.qmax, shape, endpoint=True)
    return np.where(codes >= 0, 1, -1) if qtype.bipolar else codes


def all_types():
    types = [QType(bits, signed) for bits in range(1, 33) for signed in (True, False)]
    types += [QType(bits, signed, narrow=True) for bits in range(2, 33) for signed in (True, False)]
    return [*types, BIPOLAR]


@pytest.mark.parametrize("qtype", all_types(), ids=str)
def test_pack_equals_bit_loop_when_tail_is_ragged(qtype):
    rng = np.random.default_rng(qtype.bits)
    for count in COUNTS:
        codes = random_codes(rng, qtype, count)
        codes[:2] = [qtype.qmin, qtype.qmax][:count]
        packed = pack(codes, qtype)
        assert packed.dtype == np.uint8
        assert packed.tobytes() == packed_bit_by_bit(codes, qtype)
        assert packed.size == packed_size_bytes(count, qtype.bits)
        back = unpack(packed, qtype, count)
        assert back.dtype == code_dtype(qtype)
        assert np.array_equal(back, codes)


@pytest.mark.parametrize("bits", [1, 3, 4, 8, 11, 16, 23, 32])
def test_pack_round_trips_when_larger_than_a_chunk(bits):
    rng = np.random.default_rng(0)
    qtype = QType(bits, signed=True)
    codes = random_codes(rng, qtype, (1 << 18) + 13)
    packed = pack(codes, qtype)
    assert np.array_equal(unpack(packed, qtype, codes.size), codes)
    if bits in (3, 11):
        assert packed.tobytes() == packed_bit_by_bit(codes, qtype)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64, ">i4"])
def test_pack_ignores_dtype_when_codes_are_equal(dtype):
    codes = np.array([0, 5, 3, 7, 1], dtype=dtype)
    qtype = QType(3, signed=False)
    assert pack(codes, qtype).tobytes() == packed_bit_by_bit([0, 5, 3, 7, 1], qtype)


def test_pack_reads_row_major_when_array_is_strided():
    codes = np.arange(-8, 8).reshape(4, 4)
    qtype = QType(4, signed=True)
    assert pack(codes.T, qtype).tobytes() == packed_bit_by_bit(codes.T.ravel(), qtype)
    assert pack(np.int64(3), qtype).tobytes() == b"\x03"


def test_pack_leaves_its_argument_alone():
    codes = np.arange(-8, 8, dtype=np.int8)
    pack(codes, QType(4, signed=True))
    assert codes.tolist() == list(range(-8, 8))


@pytest.mark.parametrize("text", ["uint1", "bipolar", "uint2", "int4", "uint8", "int16", "uint32"])
def test_unpack_leaves_its_buffer_alone_when_it_is_read_only(text):
    raw = b"\x21\x43\x65\x87\x21\x43\x65\x87"
    buffer = np.frombuffer(raw, dtype=np.uint8)
    codes = unpack(buffer, QType.parse(text), 64 // QType.parse(text).bits)
    codes[:] = 1
    assert buffer.tobytes() == raw


@pytest.mark.parametrize(
    ("text", "codes", "message"),
    [
        ("int4", [[0, 7], [8, -9]], r"int4 has no code 8 \(element \[1, 0\] of \[2, 2\]\); expected -8 to 7"),
        ("int4n", [1, -8], r"int4n has no code -8 \(element \[1\] of \[2\]\); expected -7 to 7"),
        ("uint4", [-1], r"uint4 has no code -1 .*expected 0 to 15"),
        ("uint4n", [15], r"uint4n has no code 15 .*expected 0 to 14"),
        ("bipolar", [1, -1, 0], r"bipolar has no code 0 \(element \[2\] of \[3\]\); expected -1 or 1"),
        ("bipolar", [2], r"bipolar has no code 2"),
        ("uint32", [1 << 32], r"uint32 has no code 4294967296"),
        ("uint1", [0, 1, 2], r"uint1 has no code 2 .*Clip the codes or choose a wider type"),
    ],
)
def test_pack_names_the_first_offender_when_a_code_is_out_of_range(text, codes, message):
    with pytest.raises(QuantError, match=message):
        pack(np.array(codes), QType.parse(text))


def test_pack_names_the_first_offender_when_it_is_in_a_later_chunk():
    codes = np.zeros((3, 1 << 17), dtype=np.int8)
    codes[2, 5] = codes[2, 9] = 99
    with pytest.raises(QuantError, match=r"no code 99 \(element \[2, 5\]"):
        pack(codes, QType(4, signed=True))


def test_pack_refuses_when_codes_are_floats():
    with pytest.raises(QuantError, match="must be integers, got dtype float64"):
        pack(np.zeros(3), QType(4, signed=True))


def test_packing_refuses_when_type_is_too_wide():
    with pytest.raises(QuantError, match="int33: at most 32 bits"):
        pack(np.zeros(3, dtype=int), QType(33, signed=True))
    with pytest.raises(QuantError, match="int33: at most 32 bits"):
        unpack(np.zeros(3, dtype=np.uint8), QType(33, signed=True), 0)


@pytest.mark.parametrize("size", [1, 3])
def test_unpack_refuses_when_buffer_has_wrong_length(size):
    with pytest.raises(QuantError, match=f"3 codes take 2 bytes, got {size}"):
        unpack(np.zeros(size, dtype=np.uint8), QType(4, signed=True), 3)


def test_unpack_refuses_when_bits_follow_the_last_code():
    with pytest.raises(QuantError, match="bits are set after the last of 3 codes"):
        unpack(np.array([0, 16], dtype=np.uint8), QType(4, signed=True), 3)


def test_unpack_refuses_when_narrow_type_holds_its_missing_code():
    with pytest.raises(QuantError, match="int4n has no code -8"):
        unpack(np.array([0x80], dtype=np.uint8), QType.parse("int4n"), 2)
