"""Whether a network can be unrolled at all: its LUTs guessed in a moment, before anything is traced.

Used by `trace`, and so by target `verilog` and `estimate`, and by the costs of layers. Needs no da4ml.

A dot product takes about half an adder per non-zero signed digit of its weights (sharing finds the other half), each a
little wider than the input: ``digits / 2 * (b_a + 3)`` LUTs at every output position. Measured on pruned and full
networks of 4 dense layers at 3 to 6 bits, and on a convolutional one at 8: between half and twice what is counted after
tracing, layers of random weights within 35 %; too high for large matrices, where more is shared.
The limit is the largest part of `devices`: what fits no part is not worth hours of tracing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import TooLargeError
from dyadiq.fpga.devices import DEVICES
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import IntegerProgram, effective_weight

__all__ = ["MAX_LUTS", "check_size", "guess_dot_luts", "guess_luts", "signed_digits"]

MAX_LUTS = max(device.lut for device in DEVICES.values())
_EXTRA_BITS = 3  # of an adder beyond its input's width


def guess_luts(program: IntegerProgram) -> dict[str, int]:
    """Return roughly how many LUTs each node takes fully unrolled, between half and twice of the truth.

    Example:
        >>> from dyadiq.core.qtype import QType
        >>> from dyadiq.ir.graph import TensorInfo
        >>> node = Node("fc", "linear", ("x", "w", "b"), "y")
        >>> tensors = {"x": TensorInfo((2,), QType(5, signed=False)), "y": TensorInfo((1,), QType(9, signed=True))}
        >>> graph = Graph("integer", ("x",), ("y",), (node,), tensors, {"w": np.array([[7, 5]]), "b": np.zeros(1)})
        >>> guess_luts(IntegerProgram(graph))
        {'fc': 16}
    """
    return {node.name: _guess(program.graph, node) for node in program.graph.nodes}


def _guess(graph: Graph, node: Node) -> int:
    if node.op == "quantize":
        return 0
    shape = graph.tensors[node.output].shape
    elements = int(np.prod(shape))
    bits_in, bits_out = (_bits(graph, name) for name in (node.inputs[0], node.output))
    if node.op in ("linear", "conv2d"):
        return guess_dot_luts(effective_weight(graph, node), int(np.prod(shape[1:])), bits_in)
    if node.op == "requantize":
        digits = float(signed_digits(np.asarray(graph.params[node.inputs[1]])).mean())
        return int(elements * (max(digits - 1, 0) * (bits_in + _EXTRA_BITS) + bits_out))
    if node.op in ("max_pool2d", "sum_pool2d"):
        per_join = 2 * bits_in if node.op == "max_pool2d" else bits_in + 1
        kernel = int(np.prod(node.attrs["kernel"]))
        return elements * (kernel - 1) * per_join
    return elements * bits_out * (len(node.inputs) - 1 if node.op == "add" else int(node.op == "clip"))


def _bits(graph: Graph, tensor: str) -> int:
    qtype = graph.tensors[tensor].qtype
    return 0 if qtype is None else qtype.bits


def guess_dot_luts(weight: NDArray[np.int64], n_positions: int, input_bits: int) -> int:
    """Return ``digits / 2 * (input_bits + 3)`` for every position, digits counted in canonical signed-digit form.

    Example:
        >>> guess_dot_luts(np.array([[7, 5]]), n_positions=10, input_bits=5)
        160
    """
    return int(signed_digits(weight).sum()) * n_positions * (input_bits + _EXTRA_BITS) // 2


def signed_digits(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of non-zero digits of the canonical signed-digit forms: bits of ``x ^ 3x``.

    Example:
        >>> signed_digits(np.array([0, 1, 7, -11])).tolist()
        [0, 1, 2, 3]
    """
    magnitude = np.abs(numbers.astype(np.int64))
    digits: NDArray[np.int64] = np.bitwise_count(magnitude ^ (3 * magnitude)).astype(np.int64)
    return digits


def check_size(guesses: Mapping[str, int], max_luts: int = MAX_LUTS, *, what: str = "the program") -> None:
    """Refuse what is too large to unroll.

    Args:
        guesses: Layer or node name to LUTs.
        max_luts: The limit.
        what: Subject of the message.

    Raises:
        TooLargeError: The sum is above the limit.
    """
    total = sum(guesses.values())
    if total <= max_luts:
        return
    largest = max(guesses, key=lambda name: guesses[name])
    known = [name for name, device in DEVICES.items() if device.lut == max_luts]
    limit = f"{max_luts:,} LUTs" + (f", all that {known[0]} has" if known else "")
    raise TooLargeError(
        f"{what} cannot be unrolled: about {total:,} LUTs (a guess, right within a factor of two), "
        f"{guesses[largest]:,} of them in {largest}; the limit is {limit}. Use fewer bits, prune, make the network "
        "smaller, export to verilog_stream or to hls4ml with a reuse factor, or raise max_luts if you mean it.",
        luts=total,
        max_luts=max_luts,
    )
