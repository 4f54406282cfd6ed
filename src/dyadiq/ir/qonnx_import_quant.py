"""Quant, IntQuant, BipolarQuant and Trunc: where real values become codes.

Used by `qonnx_import_nodes` only. QONNX clamps before it rounds; its bounds are integers, for which the order is all
the same. Constants are quantized in float32, as the executor does; tensors by an exact, proven rescale.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil

import numpy as np

from dyadiq.core.channel_grid import MAX_GRID_SHIFT, ChannelGrid
from dyadiq.core.qtype import MAX_BITS, QType, bits_for_range
from dyadiq.ir.qonnx_import_build import Affine, Ends, UnrepresentableError, narrowed
from dyadiq.ir.qonnx_import_constants import Constant, per_channel, quantized
from dyadiq.ir.qonnx_import_reader import Call, Reader, Value
from dyadiq.ir.qonnx_import_rounding import ROUNDING_MODES, Rescale, find_rescale, rounded

__all__ = ["bipolar_quant", "check_steps", "clip_limits", "positive", "quant", "quantize_input", "snapped", "trunc"]

_FLOAT32_DIGITS = 24
_ALIKE = Fraction(1, 1 << 22)  # a bias step and its accumulator step that are one product, rounded to float32
_ZERO, _ONE = Fraction(0), Fraction(1)


def _qtype(call: Call, bits: float) -> QType:
    signed, narrow = bool(call.attrs.get("signed", 1)), bool(call.attrs.get("narrow", 0))
    if bits != int(bits) or not 1 <= bits <= MAX_BITS:
        raise UnrepresentableError(f"a bit width of {bits}")
    if signed and bits == 1:
        raise UnrepresentableError("a signed Quant of 1 bit means bipolar to the executor. Use BipolarQuant")
    return QType(int(bits), signed=signed, narrow=narrow)


def _mode(call: Call, default: str = "ROUND") -> str:
    text = str(call.attrs.get("rounding_mode", default)).upper()
    mode = {"ROUND": "HALF_EVEN"}.get(text, text)
    if mode not in ROUNDING_MODES:
        raise UnrepresentableError(f"an unknown rounding mode {text!r}")
    return mode


def quant(call: Call) -> Value:
    """Quant and IntQuant."""
    scale, zero = call.constant(1, "its scale"), call.constant(2, "its zero point")
    qtype, mode = _qtype(call, call.constant(3, "its bit width").scalar("its bit width")), _mode(call)
    check_steps(scale)
    if isinstance(call.inputs[0], Constant):
        return quantized(call.inputs[0], scale, zero, qtype, mode)
    value, zero_point = call.tensor(), zero.scalar("its zero point")
    if value.given and not qtype.bipolar:
        steps = per_channel(scale, value.shape)
        alike = all(len(set(parts)) == 1 for parts in (steps, value.a, value.b))
        if not alike or value.ends or value.clips:
            return _quantize_channels(call, value, steps, zero_point, qtype, mode)
    return _quantize(call, scale.scalar("its scale"), zero_point, qtype, mode)


def bipolar_quant(call: Call) -> Value:
    """BipolarQuant: the sign, and +1 at zero."""
    scale, bipolar = call.constant(1, "its scale"), QType(1, signed=True, bipolar=True)
    check_steps(scale)
    if isinstance(call.inputs[0], Constant):
        return quantized(call.inputs[0], scale, Constant(np.zeros(())), bipolar, "HALF_EVEN")
    return _quantize(call, scale.scalar("its scale"), 0.0, bipolar, "HALF_EVEN")


def trunc(call: Call) -> Value:
    """Trunc of opset 2, on a tensor that is on its grid already.

    Raises:
        UnrepresentableError: The reason.
    """
    if len(call.inputs) != 6:
        raise UnrepresentableError("Trunc of opset 1, whose output scale is not given. Export with opset 2")
    step, zero = Fraction(call.constant(1, "its scale").scalar("its scale")), call.constant(2, "its zero point")
    out, bits = call.constant(4, "its output scale").scalar("its output scale"), call.constant(5, "its bit width")
    value, ratio = call.tensor(), Fraction(out) / step
    if zero.values.any() or ratio.denominator != 1 or ratio.numerator & (ratio.numerator - 1):
        raise UnrepresentableError("Trunc with a zero point, or by a factor that is no power of two")
    if any((f / step).denominator != 1 for f in (*value.a, *value.b)):
        raise UnrepresentableError("Trunc of a tensor that is not on its grid")
    return _quantize(call, out, 0.0, _qtype(call, bits.scalar("its bit width")), _mode(call, "FLOOR"))


def check_steps(scale: Constant) -> None:
    """Check the steps of a quantizer.

    Raises:
        UnrepresentableError: They are not positive and finite.
    """
    if not (np.isfinite(scale.values).all() and (scale.values > 0).all()):
        raise UnrepresentableError("a scale that is not positive and finite")


def _quantize(call: Call, scale: float, zero: float, qtype: QType, mode: str) -> Affine:
    if zero != int(zero):
        raise UnrepresentableError(f"a zero point of {zero}, which is no integer")
    value, step, zero_point = call.tensor(), Fraction(scale), int(zero)
    if value.given:
        tensor = quantize_input(call, value, step, zero_point, qtype, mode)
        return Affine(value.shape, tensor, (step,), (-step * zero_point,))
    value = positive(call.reader, snapped(call, value), call.name)
    alpha = [f / step for f in value.factors()]
    beta = [f / step + zero_point for f in value.offsets()]
    if qtype.bipolar:
        tensor = _sign(call, value, alpha, beta, qtype, scale)
        return Affine(value.shape, tensor, (step,), (_ZERO,))
    bound = call.reader.out.bound_of(value)
    limits = clip_limits(value, step, zero_point, qtype, mode)
    found = find_rescale(alpha, beta, bound.low.tolist(), bound.high.tolist(), limits, mode)
    if found is None:
        raise UnrepresentableError(
            f"rounding {mode} to {qtype} at step {scale:.9g} has no exact form here. Use a scale that is a power of "
            "two, or rounding mode ROUND or FLOOR"
        )
    if found.composed:
        call.reader.note(f"{call.name}: ties to even can occur and are computed exactly, by two rescalings")
    tensor = call.reader.out.rescale(value, call.name, found, qtype, scale, zero_point, limits)
    return Affine(value.shape, tensor, (step,), (-step * zero_point,))


def clip_limits(
    value: Affine, step: Fraction, zero_point: int, qtype: QType, mode: str, offset: int = 0
) -> tuple[int, int]:
    """Return the limits of codes: of their type, of which the offset is taken off, and of the value's clip."""
    first, last = qtype.qmin - offset, qtype.qmax - offset
    ends = [first, last]
    for i, end in enumerate((value.low, value.high)):
        if end is not None:
            ends[i] = min(max(rounded(end / step + zero_point, mode), first), last)
    return ends[0], max(ends)


def quantize_input(call: Call, value: Affine, step: Fraction, zero_point: int, qtype: QType, mode: str) -> str:
    """Emit the input quantizer: half towards plus infinity, which QONNX has only as FLOOR after half a step.

    Raises:
        UnrepresentableError: The reason.
    """
    a, b = value.a[0], value.b[0] / step + zero_point
    if a <= 0 or value.ends or value.clips or len(set(value.a)) > 1 or len(set(value.b)) > 1:
        raise UnrepresentableError("changes the input by more than one positive factor and offset before quantizing it")
    if qtype.bipolar:
        if value.b[0] != 0:
            raise UnrepresentableError("adds to the input before taking its sign")
        return call.reader.out.quantize(value.given, call.name, qtype, 1.0, 0)
    offset = _input_offset(call, value, b, mode)
    return call.reader.out.quantize(value.given, call.name, qtype, float(step / a), offset)


def _input_offset(call: Call, value: Affine, b: Fraction, mode: str) -> int:
    """Return the integer that is left of an offset in steps beside half a step.

    Raises:
        UnrepresentableError: It is none, or the rounding is not to nearest.
    """
    offset = b - Fraction(1, 2) if mode == "FLOOR" else b
    if mode not in ("FLOOR", "HALF_EVEN", "HALF_UP", "HALF_DOWN") or offset.denominator != 1:
        raise UnrepresentableError(
            f"rounds the input {value.given!r} with {mode}; the program's input quantizer rounds to nearest. Say on "
            "what grid its data are: input_types={...}"
        )
    if mode != "FLOOR":
        call.reader.note(f"{call.name}: input values exactly between two codes are rounded up, by QONNX with {mode}")
    return int(offset)


def _quantize_channels(
    call: Call, value: Affine, steps: tuple[Fraction, ...], zero: float, qtype: QType, mode: str
) -> Affine:
    """Emit an input quantizer whose channels have steps or limits of their own.

    Raises:
        UnrepresentableError: The reason.
    """
    if zero != int(zero):
        raise UnrepresentableError(f"a zero point of {zero}, which is no integer")
    if any(a <= 0 for a in value.factors()):
        raise UnrepresentableError("changes the input by a factor that is not positive before quantizing it")
    widths = [step / a for step, a in zip(steps, value.factors(), strict=True)]
    base = min(widths)
    ratios = [width / base for width in widths]
    if any(r.denominator != 1 or r.numerator & (r.numerator - 1) or r > 1 << MAX_GRID_SHIFT for r in ratios):
        raise UnrepresentableError(
            f"quantizes the channels of input {value.given!r} with steps whose ratios are no powers of two up to "
            f"2^{MAX_GRID_SHIFT}. Use such steps"
        )
    shifts = [r.numerator.bit_length() - 1 for r in ratios]
    lows: list[int] = []
    highs: list[int] = []
    offsets: list[Fraction] = []
    for i, (step, b) in enumerate(zip(steps, value.offsets(), strict=True)):
        offset = _input_offset(call, value, b / step + int(zero), mode)
        low, high = _reached(value, i)
        for found, end, limit in ((lows, low, qtype.qmin), (highs, high, qtype.qmax)):
            code = limit if end is None else rounded(end / step + int(zero), mode)
            found.append(min(max(code, qtype.qmin), qtype.qmax) - offset)
        offsets.append(step * (offset - int(zero)))
    codes = [end << shift for ends in (lows, highs) for end, shift in zip(ends, shifts, strict=True)]
    fits = qtype.qmin <= min(codes) and max(codes) <= qtype.qmax
    carried = qtype if fits else bits_for_range(min(codes), max(codes))
    grid = ChannelGrid(np.array(shifts), np.array(lows), np.array(highs))
    tensor = call.reader.out.quantize(value.given, call.name, carried, float(base), 0, grid)
    factors = tuple(step / (1 << shift) for step, shift in zip(steps, shifts, strict=True))
    uniform = len(set(factors)) == 1 and len(set(offsets)) == 1
    a, b_ = (factors[:1], tuple(offsets[:1])) if uniform else (factors, tuple(offsets))
    return Affine(value.shape, tensor, a, b_)


def _reached(value: Affine, channel: int) -> Ends:
    """Return the smallest and the largest value that a channel of clipped input data can have; None for any."""
    return narrowed((value.low, value.high), value.ends[channel]) if value.ends else (value.low, value.high)


def positive(reader: Reader, value: Affine, name: str) -> Affine:
    """Return the value with positive factors: signs go into the weights, and a factor of 0 makes them 0."""
    factors = value.factors()
    if all(f > 0 for f in factors):
        return value
    dot = reader.out.as_dot(value, name)
    signs = np.array([(f > 0) - (f < 0) for f in factors], dtype=np.int64)
    weight = dot.weight * signs.reshape(-1, *([1] * (dot.weight.ndim - 1)))
    a = tuple(abs(f) or _ONE for f in factors)
    return replace(value, base=replace(dot, weight=weight, qtype=None), a=a)


def snapped(call: Call, value: Affine) -> Affine:
    """Return the value with biases on the accumulator's grid where float32 rounding alone kept them off it."""
    offsets, moved = [], False
    for a, b in zip(value.factors(), value.offsets(), strict=True):
        steps = b / a if a else _ZERO
        near = round(steps)
        coarse = a.numerator.bit_length() > _FLOAT32_DIGITS  # a product of two scales, itself no float32
        if coarse and steps != near and abs(steps - near) <= abs(steps) * _ALIKE:
            moved = True
            offsets.append(near * a)
        else:
            offsets.append(b)
    if moved:
        call.reader.note(f"{call.name}: bias steps equal the product of scales up to float32 rounding; taken as equal")
    return replace(value, b=tuple(offsets)) if moved else value


def _sign(call: Call, value: Affine, alpha: list[Fraction], beta: list[Fraction], qtype: QType, scale: float) -> str:
    if value.low is not None or value.high is not None:
        raise UnrepresentableError("takes the sign of a clipped tensor")
    first = [ceil(-b / a) for a, b in zip(alpha, beta, strict=True)]  # smallest code whose value is not negative
    count = len(first)
    r = Rescale((1,) * count, tuple(-c for c in first), (1,) * count, (0,) * count)
    return call.reader.out.rescale(value, call.name, r, qtype, scale, 0, (-1, 1))
