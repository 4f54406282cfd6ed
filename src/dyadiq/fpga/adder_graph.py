"""Products of constant matrices and vectors as few adders: the one place that knows da4ml.

Used by `trace`. da4ml (LGPL) shares common sub-expressions of signed-digit forms; its successor alkaid will take its
place here. What it returns is replayed on our own `Netlist`, with the exact interval of every partial sum (a linear
form of the inputs, so that no interval is wider than it must be).

Source: C. Sun et al., da4ml, arXiv:2507.04535.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import MissingDependencyError, ProofError
from dyadiq.core.signed_digits import count_digits
from dyadiq.fpga.netlist import Netlist, Value, constant

__all__ = ["MAX_WEIGHT", "find_solver", "multiply_matrix"]

MAX_WEIGHT = 1 << 24  # da4ml takes float32 matrices

_INPUT, _ADD, _SUBTRACT = -1, 0, 1
_BLOCK = 96  # da4ml's time grows with the cube of the number of inputs; longer sums are made of blocks
_HARD_DEPTH = 2  # adders in a row beyond the fewest possible
_FEW_DIGITS = 500  # a matrix of no more is solved whole and as deep as it comes, in a quarter of the tries


def multiply_matrix(net: Netlist, matrix: NDArray[np.int64], values: Sequence[Value]) -> list[Value]:
    """Return ``matrix @ values``, offsets included, as adders of a netlist.

    Shapes:
        matrix ``[O, I]``, values ``I``; returns ``O`` values.

    Raises:
        MissingDependencyError: da4ml is not installed.
        ProofError: A weight has more than 24 bits.

    Example:
        >>> net = Netlist()
        >>> x = [net.input(-8, 7), net.input(0, 15)]
        >>> out = multiply_matrix(net, np.array([[3, -5], [0, 7]]), x)
        >>> net.run(np.array([[1, 2], [-8, 15]]), out).tolist()
        [[-7, 14], [-99, 105]]
    """
    matrix = np.asarray(matrix, dtype=np.int64)
    offsets = (matrix @ np.array([v.offset for v in values], dtype=np.int64)).tolist()
    rows: dict[int, NDArray[np.int64]] = {}
    for column, value in zip(matrix.T, values, strict=True):
        if value.wire >= 0 and column.any():
            scaled = column << value.shift
            rows[value.wire] = rows.get(value.wire, np.zeros_like(scaled)) + (-scaled if value.negative else scaled)
    rows = {wire: row for wire, row in rows.items() if row.any()}
    if not rows:
        return [constant(offset) for offset in offsets]
    kernel = np.stack(list(rows.values()))
    if np.abs(kernel).max() >= MAX_WEIGHT:
        raise ProofError(f"a weight of {int(np.abs(kernel).max())} has more than 24 bits. Use narrower weights.")
    wires = list(rows)
    n_blocks = -(-len(wires) // _BLOCK)
    bounds = [len(wires) * i // n_blocks for i in range(n_blocks + 1)]
    sums = _replay(net, wires[: bounds[1]], kernel[: bounds[1]])
    for start, end in pairwise(bounds[1:]):
        more = _replay(net, wires[start:end], kernel[start:end])
        sums = [net.add(x, y) for x, y in zip(sums, more, strict=True)]
    return [value.plus(offset) for value, offset in zip(sums, offsets, strict=True)]


def _replay(net: Netlist, wires: list[int], kernel: NDArray[np.int64]) -> list[Value]:
    intervals = tuple((net.ops[w].low, net.ops[w].high) for w in wires)
    first = min(net.levels[w] for w in wires)
    levels = tuple(net.levels[w] - first for w in wires)
    stages, bounds = _bounded_stages(kernel.tobytes(), kernel.shape, intervals, levels)
    known = iter(bounds)
    values = [Value(w) for w in wires]
    for stage in stages:
        values = _replay_stage(stage, values, lambda x, y: net.add(x, y, next(known)))
    return values


def _replay_stage(stage: Any, values: list[Value], add: Callable[[Value, Value], Value]) -> list[Value]:
    made: list[Value] = []
    for op in stage.ops:
        if op.opcode == _INPUT:
            value = values[op.id0]
            made.append(_scaled(value, stage.inp_shifts[op.id0], negative=False))
        elif op.opcode in (_ADD, _SUBTRACT):
            second = _scaled(made[op.id1], op.data, negative=op.opcode == _SUBTRACT)
            made.append(add(made[op.id0], second))
        else:
            raise NotImplementedError(f"da4ml used operation {op.opcode}, which no adder graph needs")
    ends = zip(stage.out_idxs, stage.out_shifts, stage.out_negs, strict=True)
    return [constant(0) if i < 0 else _scaled(made[i], shift, negative=neg) for i, shift, neg in ends]


def _scaled(value: Value, shift: int, *, negative: bool) -> Value:
    if value.wire < 0:
        return value
    return Value(value.wire, value.shift + shift, value.negative != negative)


class _Forms:
    """Wires as linear forms of the inputs, for exact intervals.

    Attributes:
        bounds: Interval of the wire of every sum so far, in order; None where a summand is a constant.
    """

    def __init__(self, net: Netlist, values: list[Value]) -> None:
        self._net = net
        self._low = np.array([net.ops[v.wire].low for v in values], dtype=np.int64)
        self._high = np.array([net.ops[v.wire].high for v in values], dtype=np.int64)
        self._forms = {v.wire: form for v, form in zip(values, np.eye(len(values), dtype=np.int64), strict=True)}
        self.bounds: list[tuple[int, int] | None] = []

    def add(self, x: Value, y: Value) -> Value:
        """Add in the netlist, the interval known from the form."""
        if x.wire < 0 or y.wire < 0:
            self.bounds.append(None)
            return self._net.add(x, y)
        if x.negative != y.negative:
            plus, minus = (y, x) if x.negative else (x, y)
            shift = minus.shift - plus.shift
            form = (self._forms[plus.wire] << max(-shift, 0)) - (self._forms[minus.wire] << max(shift, 0))
        else:
            shift = min(x.shift, y.shift)
            form = (self._forms[x.wire] << (x.shift - shift)) + (self._forms[y.wire] << (y.shift - shift))
        up, down = np.maximum(form, 0), np.minimum(form, 0)
        bounds = int(up @ self._low + down @ self._high), int(up @ self._high + down @ self._low)
        self.bounds.append(bounds)
        value = self._net.add(x, y, bounds)
        if value.wire >= 0:
            self._forms[value.wire] = form
        return value


def find_solver() -> Any:
    """Return da4ml's solver.

    Raises:
        MissingDependencyError: da4ml is not installed.
    """
    try:
        return importlib.import_module("da4ml.cmvm").solve
    except ImportError as error:
        raise MissingDependencyError("da4ml", "fpga") from error


@lru_cache(maxsize=4096)
def _bounded_stages(
    kernel: bytes, shape: tuple[int, int], intervals: tuple[tuple[int, int], ...], levels: tuple[int, ...]
) -> tuple[tuple[Any, ...], tuple[tuple[int, int] | None, ...]]:
    """Return da4ml's stages for a kernel ``[I, O]``, and the intervals of their sums in order (`_Forms.bounds`).

    A pure function, so that equal convolution windows, and layers that did not change between two circuits, are one.

    Raises:
        MissingDependencyError: da4ml is not installed.
    """
    stages, net = _solve(kernel, shape, intervals, levels), Netlist()
    values = [net.input(low, high) for low, high in intervals]
    forms = _Forms(net, values)
    for stage in stages:
        values = _replay_stage(stage, values, forms.add)
    return stages, tuple(forms.bounds)


def _solve(
    kernel: bytes, shape: tuple[int, int], intervals: tuple[tuple[int, int], ...], levels: tuple[int, ...]
) -> tuple[Any, ...]:
    """Return da4ml's stages for a kernel ``[I, O]``.

    Raises:
        MissingDependencyError: da4ml is not installed.
    """
    solve = find_solver()
    matrix = np.frombuffer(kernel, dtype=np.int64).reshape(shape)
    is_small = int(count_digits(matrix).sum()) <= _FEW_DIGITS
    return tuple(
        solve(
            matrix.astype(np.float32),
            hard_dc=-1 if is_small else _HARD_DEPTH,
            decompose_dc=0 if is_small else -2,
            search_all_decompose_dc=not is_small,
            qintervals=[(float(low), float(high), 1.0) for low, high in intervals],
            latencies=[float(level) for level in levels],
            adder_size=1,
            carry_size=-1,
        ).solutions
    )
