"""Dot products of bits: which convolutions may run by counting ones, and what their sums are then.

Used by `weights`; the kernels are native/engine/kernels/*binary*. Inputs have two codes, ``low`` and ``low + d``, so
they are ``low + d c`` with a bit ``c``. Weights are either ``-m`` and ``m``, or 0 and ``m``, of all outputs alike.
Then, with the bits ``b`` of weights, a sum over all inputs of an output is

    sum (2 m b - m) (low + d c) = low sum w + m d (ones of b - ones of b xor c)
    sum m b (low + d c)         = low sum w + m d (ones of b and c)

where all but the last term is known before: it goes into the bias. Sums stay in int32 since counts do.

Source: Rastegari et al. 2016, XNOR-Net, section 3.2; codes that are not -1 and 1 are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.engine.layout import BLOCK

__all__ = ["BinaryWeights", "binary_weights", "pack_words", "refuse_binary"]

_WORD = 32
_MOST_SUM = 1 << 30  # half of int32
_BEFORE = 1 << 24  # what single precision may add to a sum (`single`)


@dataclass(frozen=True)
class BinaryWeights:
    """Weights as bits.

    Attributes:
        bits: ``[O, I, KH, KW]``, 0 and 1.
        both: Whether ones of ``b and c`` are counted, else of ``b xor c``.
        factor: What a count is multiplied with.
        before: By output, what is added to the bias.
    """

    bits: NDArray[np.int64]
    both: bool
    factor: int
    before: NDArray[np.int64]


def binary_weights(weight: NDArray[np.int64], codes: tuple[int, int]) -> BinaryWeights:
    """Return the bits of weights that `refuse_binary` has nothing against.

    Args:
        weight: ``[O, I, KH, KW]``.
        codes: The two codes of its input.

    Example:
        >>> found = binary_weights(np.array([[[[1]], [[-1]]]]), (0, 1))
        >>> found.bits.ravel(), found.both, found.factor, found.before
        (array([1, 0]), False, -1, array([1]))
    """
    low, step = codes[0], codes[1] - codes[0]
    most, both = int(np.abs(weight).max()), bool((weight == 0).any())
    bits = (weight > 0).astype(np.int64)
    sums, ones = (values.reshape(len(weight), -1).sum(axis=1) for values in (weight, bits))
    if both:
        return BinaryWeights(bits, True, most * step, low * sums)
    return BinaryWeights(bits, False, -most * step, low * sums + most * step * ones)


def refuse_binary(
    weight: NDArray[np.int64], bias: NDArray[np.int64], *, groups: int, codes: tuple[int, int], only_ends: bool
) -> str | None:
    """Return why a convolution of bytes cannot run by counting bits, with what is found; None: it can.

    Args:
        weight: ``[O, I/g, KH, KW]``.
        bias: By output.
        groups: Of the convolution.
        codes: Least and greatest code of its input, padding included.
        only_ends: Whether its input has no codes between these two.

    Example:
        >>> zeros, how = np.zeros(1, dtype=np.int64), {"groups": 1, "codes": (0, 1), "only_ends": True}
        >>> refuse_binary(np.array([[[[3]], [[-3]]]]), zeros, **how)
        >>> refuse_binary(np.array([[[[3]], [[-2]]]]), zeros, **how)
        'its weights are [-2, 3], expected -m and m, or 0 and m'
    """
    if groups != 1:
        return f"it has {groups} groups, expected 1"
    if not only_ends or codes[0] == codes[1]:
        return f"its input has codes from {codes[0]} to {codes[1]} and between them, expected two codes"
    values = np.unique(weight[:, :1]) if weight.size else np.zeros(0)
    if len(values) <= 2:  # the rest only where that may help
        values = np.unique(weight)
    most = int(np.abs(values).max())
    if most == 0 or not (np.isin(values, (-most, most)).all() or np.isin(values, (0, most)).all()):
        some = ", ".join(str(int(value)) for value in values[:4])
        return f"its weights are [{some}{', ...' if len(values) > 4 else ''}], expected -m and m, or 0 and m"
    found = binary_weights(weight, codes)
    n_inputs = weight[0].size
    largest = int(np.abs(bias + found.before).max()) + abs(found.factor) * n_inputs + _BEFORE
    if largest >= _MOST_SUM:
        return f"its sums may reach {largest}, expected less than {_MOST_SUM}"
    return None


def pack_words(bits: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return bits of weights as ``[block of 16 outputs][tap][word of 32 inputs][16]``, flat; the first input is bit 0.

    Shapes:
        bits ``[O, I, KH, KW]``, 0 and 1; rows of zeros fill blocks and words.

    Example:
        >>> pack_words(np.array([1, 1, 0, 1]).reshape(2, 2, 1, 1))[:3]
        array([3, 2, 0], dtype=int32)
    """
    n_out, n_in, *_ = bits.shape
    taps = np.pad(bits.reshape(n_out, n_in, -1), ((0, -n_out % BLOCK), (0, -n_in % _WORD), (0, 0)))
    words = taps.reshape(-1, BLOCK, taps.shape[1] // _WORD, _WORD, taps.shape[2])
    values = (words << np.arange(_WORD)[:, np.newaxis]).sum(axis=3)  # [block, 16, word, tap]
    ordered = np.ascontiguousarray(values.transpose(0, 3, 2, 1)).astype(np.uint32)
    return ordered.view(np.int32).ravel()
