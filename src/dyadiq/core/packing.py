"""Dense packing of integer codes, 1 to 32 bits each, and back.

Used by `core.container`, cost and whoever reads packed weights; numpy only, knows no file and no scale.

Code k occupies bits ``[k*b, (k+1)*b)`` of the buffer, bit i being bit ``i % 8`` of byte ``i // 8`` (little-endian).
Signed codes are stored in two's complement, bipolar -1 as 0 and +1 as 1. Bits after the last code are zero.

How: eight codes always fill ``b`` whole bytes. Codes are put into lanes of 8, 16 or 32 bits, viewed as 64-bit words;
neighbouring lanes are pushed together with masks and shifts (log2 steps), words are joined, and the ``b`` bytes of
each eight codes are copied out. Work goes in chunks that stay in the cache. Layout: docs/spec/dyq.md.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import QuantError
from dyadiq.core.qtype import QType

__all__ = ["MAX_PACKED_BITS", "code_dtype", "pack", "packed_size_bytes", "unpack"]

MAX_PACKED_BITS = 32

_CHUNK_BYTES = 1 << 17  # of lanes; with two or three temporaries this stays in a 1 MiB L2 cache

_Words = NDArray[np.uint64]


def packed_size_bytes(count: int, bits: int) -> int:
    """Return the bytes that ``count`` packed codes take: ``ceil(count * bits / 8)``.

    Example:
        >>> packed_size_bytes(5, 3)
        2
    """
    return (count * bits + 7) // 8


def code_dtype(qtype: QType) -> np.dtype[Any]:
    """Return the smallest numpy dtype that holds every code of a type.

    Example:
        >>> code_dtype(QType(3, signed=False)), code_dtype(QType(9, signed=True))
        (dtype('uint8'), dtype('int16'))
    """
    return np.dtype(f"<{'i' if qtype.signed else 'u'}{_lane_bytes(qtype.bits)}").newbyteorder("=")


def pack(codes: NDArray[Any], qtype: QType) -> NDArray[np.uint8]:
    """Pack integer codes densely, first code in the lowest bits.

    Args:
        codes: Integers, any shape and integer dtype; read in row-major order.
        qtype: Their type, at most 32 bits.

    Returns:
        ``packed_size_bytes(codes.size, qtype.bits)`` bytes.

    Raises:
        QuantError: Not integers, more than 32 bits, or a code outside the type.

    Example:
        >>> pack(np.array([1, -2, 3]), QType(4, signed=True)).tolist()
        [225, 3]
    """
    _check_width(qtype)
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        raise QuantError(
            f"pack {qtype}: codes must be integers, got dtype {codes.dtype}. Round and convert them first."
        )
    flat = np.ascontiguousarray(codes).reshape(-1)
    bits = qtype.bits
    lane = _lane_bytes(bits)
    packed = np.empty(packed_size_bytes(flat.size, bits), dtype=np.uint8)
    step = _CHUNK_BYTES // lane
    for start in range(0, flat.size, step):
        chunk = flat[start : start + step]
        _check_range(chunk, qtype, codes, start)
        if qtype.bipolar:
            chunk = chunk > 0
        lanes = np.empty(-(-chunk.size // 8) * 8, dtype=f"<u{lane}")
        lanes[chunk.size :] = 0
        np.copyto(lanes[: chunk.size], chunk, casting="unsafe")
        out = packed[start * bits // 8 : packed_size_bytes(start + chunk.size, bits)]
        out[:] = _squeeze(lanes, bits)[: out.size]
    return packed


def unpack(buffer: NDArray[np.uint8], qtype: QType, count: int) -> NDArray[Any]:
    """Return the codes of a packed buffer, the inverse of `pack`.

    Args:
        buffer: Exactly ``packed_size_bytes(count, qtype.bits)`` bytes.
        qtype: Type of the codes, at most 32 bits.
        count: Number of codes.

    Returns:
        ``[count]`` codes of dtype `code_dtype`.

    Raises:
        QuantError: Wrong length, bits set after the last code, or a code that a narrow type leaves out.

    Example:
        >>> unpack(np.array([225, 3], dtype=np.uint8), QType(4, signed=True), 3)
        array([ 1, -2,  3], dtype=int8)
    """
    _check_width(qtype)
    data = np.ascontiguousarray(buffer, dtype=np.uint8).reshape(-1)
    bits = qtype.bits
    if count < 0 or data.size != packed_size_bytes(count, bits):
        raise QuantError(
            f"unpack {qtype}: {count} codes take {packed_size_bytes(count, bits)} bytes, got {data.size}. "
            "Pass the whole buffer and the count it was packed with."
        )
    if count * bits % 8 and int(data[-1]) >> (count * bits % 8):
        raise QuantError(
            f"unpack {qtype}: bits are set after the last of {count} codes. The buffer is not packed data."
        )
    lane = _lane_bytes(bits)
    codes = np.empty(count, dtype=code_dtype(qtype))
    step = _CHUNK_BYTES // lane
    for start in range(0, count, step):
        size = min(step, count - start)
        lanes = _spread(data[start * bits // 8 : packed_size_bytes(start + size, bits)], bits, size)
        out = codes[start : start + size]
        if qtype.bipolar:
            np.left_shift(lanes, 1, out=lanes)
            np.subtract(lanes.view(np.int8), 1, out=out)
        elif qtype.signed and bits < 8 * lane:
            # Sign extension: flip the sign bit, then take its weight away, both within the lane.
            sign = lanes.dtype.type(1 << (bits - 1))
            np.bitwise_xor(lanes, sign, out=lanes)
            np.subtract(lanes, sign, out=out.view(lanes.dtype))
        else:
            out[:] = lanes.view(out.dtype)
        if qtype.narrow:
            _check_range(out, qtype, codes, start)
    return codes


def _lane_bytes(bits: int) -> int:
    """Return the bytes of the smallest lane that holds a code: 1, 2, 4 or 8."""
    return 1 if bits <= 8 else 2 if bits <= 16 else 4 if bits <= 32 else 8


class _Steps(NamedTuple):
    """How codes of one width become whole bytes.

    Attributes:
        merges: ``(bits, width)`` before each joining of neighbouring lanes.
        bits: Bits of a lane afterwards.
        width: Its width, 8 to 64.
        n_words: Words that are joined into one item (1 if lanes already hold whole bytes).
        item_bytes: Bytes of an item; ``bits * n_words / 8``.
    """

    merges: tuple[tuple[int, int], ...]
    bits: int
    width: int
    n_words: int
    item_bytes: int


@cache
def _steps(bits: int) -> _Steps:
    merges, width = [], 8 * _lane_bytes(bits)
    while bits % 8 and width < 64:
        merges.append((bits, width))
        bits, width = 2 * bits, 2 * width
    n_words = 8 // math.gcd(bits, 8)
    return _Steps(tuple(merges), bits, width, n_words, bits * n_words // 8)


def _squeeze(lanes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return the low ``bits`` of each lane back to back; overwrites. The number of lanes is a multiple of 8."""
    steps = _steps(bits)
    words = lanes.view("<u8")
    spare = np.empty_like(words)
    for low_bits, width in steps.merges:
        low = _mask(low_bits, 2 * width)
        np.right_shift(words, np.uint64(width - low_bits), out=spare)
        np.bitwise_and(words, np.uint64(low), out=words)
        np.bitwise_and(spare, np.uint64(low << low_bits), out=spare)
        np.bitwise_or(words, spare, out=words)
    if steps.n_words > 1:
        words = _join(words.reshape(-1, steps.n_words), steps.bits)
    size, stride = steps.item_bytes, steps.width // 8 if steps.n_words == 1 else 8 * words.shape[1]
    if size == stride:
        return words.view(np.uint8)
    if size == 1:
        return words.view(f"<u{stride}").astype(np.uint8)
    items = np.ndarray((words.nbytes // stride,), f"V{size}", words, strides=(stride,))
    return items.copy().view(np.uint8)


def _spread(data: NDArray[np.uint8], bits: int, count: int) -> NDArray[Any]:
    """Return packed codes in lanes of their own, zero-extended; the inverse of `_squeeze`."""
    steps = _steps(bits)
    n_lanes = -(-count // 8) * 8
    if data.size != n_lanes * bits // 8:
        data = np.concatenate([data, np.zeros(n_lanes * bits // 8 - data.size, dtype=np.uint8)])
    size, n_items = steps.item_bytes, n_lanes * bits // 8 // steps.item_bytes
    stride = steps.width // 8 if steps.n_words == 1 else -(-size // 8) * 8
    if size == stride:
        words = data.copy().view("<u8")
    elif size == 1:
        words = data.astype(f"<u{stride}").view("<u8")
    else:
        words = np.zeros(n_items * stride // 8, dtype="<u8")
        items = np.ndarray((n_items,), f"V{size}", words, strides=(stride,))
        items[:] = data.view(f"V{size}")
    if steps.n_words > 1:
        words = _split(words.reshape(n_items, -1), steps.n_words, steps.bits)
    spare = np.empty_like(words)
    for low_bits, width in reversed(steps.merges):
        low = _mask(low_bits, 2 * width)
        np.left_shift(words, np.uint64(width - low_bits), out=spare)
        np.bitwise_and(words, np.uint64(low), out=words)
        np.bitwise_and(spare, np.uint64(low << width), out=spare)
        np.bitwise_or(words, spare, out=words)
    return words.view(f"<u{_lane_bytes(bits)}")[:count]


def _join(pieces: _Words, bits: int) -> _Words:
    """Concatenate the low ``bits`` of the words of each row."""
    n_rows, n_pieces = pieces.shape
    rows = np.zeros((n_rows, -(-n_pieces * bits // 64)), dtype="<u8")
    for k in range(n_pieces):
        word, shift = divmod(k * bits, 64)
        rows[:, word] |= pieces[:, k] << np.uint64(shift)
        if shift + bits > 64:
            rows[:, word + 1] |= pieces[:, k] >> np.uint64(64 - shift)
    return rows


def _split(rows: _Words, n_pieces: int, bits: int) -> _Words:
    """Cut each row into words of ``bits``, the inverse of `_join`; returned flat."""
    pieces = np.empty((rows.shape[0], n_pieces), dtype="<u8")
    for k in range(n_pieces):
        word, shift = divmod(k * bits, 64)
        np.right_shift(rows[:, word], np.uint64(shift), out=pieces[:, k])
        if shift + bits > 64:
            pieces[:, k] |= rows[:, word + 1] << np.uint64(64 - shift)
    pieces &= np.uint64((1 << bits) - 1)
    return pieces.reshape(-1)


def _mask(bits: int, width: int) -> int:
    """Return 64 bits with the low ``bits`` of every ``width`` set."""
    return sum(((1 << bits) - 1) << start for start in range(0, 64, width))


def _check_width(qtype: QType) -> None:
    """Refuse types that are never stored packed.

    Raises:
        QuantError: More than 32 bits.
    """
    if qtype.bits > MAX_PACKED_BITS:
        raise QuantError(f"packing {qtype}: at most {MAX_PACKED_BITS} bits can be packed. Narrow the tensor first.")


def _check_range(chunk: NDArray[Any], qtype: QType, codes: NDArray[Any], start: int) -> None:
    """Check the codes of one chunk, which begins at flat index ``start`` of ``codes``.

    Raises:
        QuantError: A code that the type does not have; the first is named.
    """
    dtype = np.iinfo(chunk.dtype)
    if dtype.min >= qtype.qmin and dtype.max <= qtype.qmax:
        return
    if int(chunk.min()) >= qtype.qmin and int(chunk.max()) <= qtype.qmax and not (qtype.bipolar and not chunk.all()):
        return
    wrong = (chunk < qtype.qmin) | (chunk > qtype.qmax)
    if qtype.bipolar:
        wrong |= chunk == 0
    first = int(np.argmax(wrong))
    where = tuple(int(i) for i in np.unravel_index(start + first, codes.shape))
    legal = "-1 or 1" if qtype.bipolar else f"{qtype.qmin} to {qtype.qmax}"
    raise QuantError(
        f"{qtype} has no code {int(chunk[first])} (element {list(where)} of {list(codes.shape)}); expected {legal}. "
        "Clip the codes or choose a wider type."
    )
