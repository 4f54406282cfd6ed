"""MatMul, Gemm and Conv: dot products of codes with weight codes, pending until their rounding is known.

Used by `qonnx_import_nodes` only. Steps that differ between inputs are folded into the weights where they have a common
measure; offsets of the inputs become offsets of the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.ir.qonnx_import_build import Affine, Dot, UnrepresentableError
from dyadiq.ir.qonnx_import_constants import Constant, fraction_gcd, per_channel, weights
from dyadiq.ir.qonnx_import_reader import Call, Value

__all__ = ["conv", "gemm", "matmul", "max_window", "out_size", "pad_code", "window"]

_ZERO, _ONE = Fraction(0), Fraction(1)
_MAX_MULTIPLE = 1 << 20
Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def _dot(
    call: Call, x: Affine, weight: Constant, op: str, shape: tuple[int, ...], attrs: Mapping[str, Any], groups: int = 1
) -> Affine:
    """Return a pending dot product of codes with weight codes, ``weight`` being ``[O, I, ...]``."""
    codes, steps, qtype = weights(weight)
    a, b = x.factors(), x.offsets()
    per_group = len(a) // groups
    starts = [o // (len(codes) // groups) * per_group for o in range(len(codes))]
    uniform = len(set(a)) == 1 and bool((steps.reshape(len(steps), -1) == steps.reshape(len(steps), -1)[:, :1]).all())
    factors, offsets = [], []
    if not uniform:
        codes, qtype = codes.copy(), None
    for o, start in enumerate(starts):
        row = steps[o].reshape(steps.shape[1], -1)
        if uniform:
            factors.append(Fraction(float(row.flat[0])) * a[0])
        else:
            factors.append(_common_step(codes, o, row, a[start : start + per_group]))
        sums = (codes[o] if uniform else weights(weight)[0][o]).reshape(steps.shape[1], -1) * row
        offsets.append(_exact_offset(sums, b[start : start + per_group]))
    assert isinstance(x.base, str)
    return Affine(shape, Dot(op, x.base, codes, attrs, call.name, qtype), tuple(factors), tuple(offsets))


def _exact_offset(terms: NDArray[np.float64], b: tuple[Fraction, ...]) -> Fraction:
    if not any(b):
        return _ZERO
    return sum((Fraction(float(t)) * o for row, o in zip(terms, b, strict=True) for t in row), start=_ZERO)


def _common_step(codes: NDArray[np.int64], o: int, row: NDArray[np.float64], a: tuple[Fraction, ...]) -> Fraction:
    """Bring the weights of one output to one step, changing ``codes[o]``; return the step.

    Raises:
        UnrepresentableError: They have none.
    """
    products = [[Fraction(float(s)) * f for s in line] for line, f in zip(row, a, strict=True)]
    step = fraction_gcd([p for line in products for p in line])
    multiples = np.array([[int(p / step) for p in line] for line in products], dtype=object)
    if multiples.max() > _MAX_MULTIPLE:
        raise UnrepresentableError("weight or input scales of one output that have no common step. Use one per tensor")
    codes[o] = codes[o] * multiples.astype(np.int64).reshape(codes[o].shape)
    return step


def _with_bias(call: Call, value: Affine, bias: Value | None, factor: Fraction = _ONE) -> Affine:
    if bias is None:
        return value
    if not isinstance(bias, Constant):
        raise UnrepresentableError("its bias must be a constant")
    shaped = bias.moved(lambda v: v.reshape(-1, *([1] * (len(value.shape) - 1))))
    offset = tuple(factor * v for v in per_channel(shaped, value.shape))
    return value.scaled((_ONE,) * value.channels, offset)


def matmul(call: Call) -> Affine:
    """MatMul of a vector with constant weights ``[I, O]``.

    Raises:
        UnrepresentableError: The reason.
    """
    return _linear(call, call.constant(1, "its second factor").moved(np.transpose))


def gemm(call: Call) -> Affine:
    """Gemm: ``alpha * x @ w + beta * bias``.

    Raises:
        UnrepresentableError: The reason.
    """
    if call.attrs.get("transA", 0):
        raise UnrepresentableError("Gemm with transA")
    weight = call.constant(1, "its second factor")
    value = _linear(call, weight if call.attrs.get("transB", 0) else weight.moved(np.transpose))
    value = value.scaled((Fraction(float(call.attrs.get("alpha", 1.0))),) * value.channels, (_ZERO,) * value.channels)
    bias = call.inputs[2] if len(call.inputs) > 2 else None
    return _with_bias(call, value, bias, Fraction(float(call.attrs.get("beta", 1.0))))


def _linear(call: Call, weight: Constant) -> Affine:
    x = call.codes()
    if len(x.shape) != 1 or weight.values.ndim != 2 or weight.values.shape[1] != x.channels:
        raise UnrepresentableError(f"multiplies a tensor of shape {x.shape} by weights {weight.values.shape}")
    return _dot(call, x, weight, "linear", (weight.values.shape[0],), {})


def conv(call: Call) -> Affine:
    """Conv in two dimensions.

    Raises:
        UnrepresentableError: The reason.
    """
    x, weight = call.codes(), call.constant(1, "its weight")
    groups = int(call.attrs.get("group", 1))
    if len(x.shape) != 3 or weight.values.ndim != 4 or weight.values.shape[1] * groups != x.channels:
        raise UnrepresentableError(f"convolves a tensor of shape {x.shape} with weights {weight.values.shape}")
    stride, padding, dilation = window(call, weight.values.shape[2:])
    shape = (weight.values.shape[0], *out_size(x.shape[1:], weight.values.shape[2:], stride, padding, dilation))
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    value = _dot(call, x, weight, "conv2d", shape, {**attrs, "pad_value": pad_code(x, padding)}, groups)
    return _with_bias(call, value, call.inputs[2] if len(call.inputs) > 2 else None)


def pad_code(x: Affine, padding: tuple[int, int]) -> int:
    """Return the code of real zero, which padding needs.

    Raises:
        UnrepresentableError: No code stands for zero.
    """
    codes = {-b / a for a, b in zip(x.factors(), x.offsets(), strict=True)}
    if len(codes) == 1 and (code := codes.pop()).denominator == 1:
        return int(code)
    if any(padding):
        raise UnrepresentableError("pads a tensor that has no code for zero")
    return 0


def window(call: Call, kernel: tuple[int, ...]) -> Window:
    """Return stride, padding and dilation of a sliding window.

    Raises:
        UnrepresentableError: The pads differ between begin and end, or are left to the runtime.
    """
    if call.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnrepresentableError(f"auto_pad={call.attrs['auto_pad']}. Export with explicit pads")
    pads = tuple(int(p) for p in call.attrs.get("pads", (0, 0, 0, 0)))
    stride, dilation = (tuple(int(v) for v in call.attrs.get(k, (1, 1))) for k in ("strides", "dilations"))
    if len(kernel) != 2 or len(pads) != 4 or len(stride) != 2 or len(dilation) != 2:
        raise UnrepresentableError("a window that is not two-dimensional")
    if min(*kernel, *stride, *dilation) < 1 or min(pads) < 0:
        raise UnrepresentableError(f"a window {tuple(kernel)}, stride {stride}, dilation {dilation}, pads {pads}")
    if pads[:2] != pads[2:]:
        raise UnrepresentableError(f"pads {pads} that differ between begin and end")
    return (stride[0], stride[1]), (pads[0], pads[1]), (dilation[0], dilation[1])


def max_window(call: Call, value: Affine, kernel: tuple[int, int]) -> tuple[Window, bool]:
    """Return the window, and whether the last ones may reach beyond the padding.

    Padding never is the maximum, so pads at the end may differ from those at the begin where the number of windows is
    that of equal ones: their values are not read. Our exporter writes ``ceil_mode`` so.

    Raises:
        UnrepresentableError: The windows are not ours.
    """
    pads, ceil_mode = tuple(int(p) for p in call.attrs.get("pads", (0, 0, 0, 0))), bool(call.attrs.get("ceil_mode", 0))
    if len(pads) != 4 or pads[:2] == pads[2:] or ceil_mode or min(pads) < 0:
        return window(call, kernel), ceil_mode
    even = replace(call, attrs={**call.attrs, "pads": pads[:2] * 2})
    stride, padding, dilation = window(even, kernel)
    size, span = value.shape[1:], [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    spans = [n + b + e - w for n, b, e, w in zip(size, pads[:2], pads[2:], span, strict=True)]
    counts = tuple(rest // s + 1 for rest, s in zip(spans, stride, strict=True))
    for mode in (False, True):
        if min(spans) >= 0 and counts == out_size(size, kernel, stride, padding, dilation, mode):
            return (stride, padding, dilation), mode
    return window(call, kernel), ceil_mode


def out_size(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, int], padding: tuple[int, int],
    dilation: tuple[int, int], ceil_mode: bool = False,
) -> tuple[int, int]:  # fmt: skip
    """Return height and width of what a sliding window makes.

    Raises:
        UnrepresentableError: The window is larger than the tensor.
    """
    out = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        span = n + 2 * p - d * (k - 1) - 1
        if span < 0:
            raise UnrepresentableError(f"a window of {k} over a tensor of {n}")
        steps = -(-span // s) if ceil_mode else span // s
        if ceil_mode and steps * s >= n + p:  # the last window must start inside the input or its begin padding
            steps -= 1
        out.append(steps + 1)
    return out[0], out[1]
