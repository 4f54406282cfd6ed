"""QuantizeLinear and DequantizeLinear: ONNX's own quantizers, whose codes are tensors that other nodes may read.

Used by `qonnx_import_nodes` only. Codes are an affine tensor of step 1. ``y = clip(round(x / s) + z)`` rounds half to
even before it adds the zero point; it becomes an exact, proven rescale where there is one. Where there is none, scales
being arbitrary numbers, and the reader may take a near one, values before rounding are within 2^-11 of a step of the
right ones, so that codes differ by one at most, and only near ties; a note says at which nodes.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from dyadiq.core.errors import ConfigError
from dyadiq.core.qtype import QType
from dyadiq.ir.qonnx_import_build import Affine, Parts, UnrepresentableError
from dyadiq.ir.qonnx_import_constants import Constant
from dyadiq.ir.qonnx_import_quant import check_steps, clip_limits, positive, quantize_input, snapped
from dyadiq.ir.qonnx_import_reader import Call, Mapped, Value
from dyadiq.ir.qonnx_import_rounding import FINEST, find_rescale, nearest_rescale
from dyadiq.ir.qonnx_import_tables import affine_codes, emit_table, tabulated

__all__ = ["dequantize_linear", "quantize_linear"]

_ZERO, _ONE = Fraction(0), Fraction(1)
_TYPES = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 21: "uint4", 22: "int4"}  # of onnx.TensorProto


def quantize_linear(call: Call) -> Value:
    """QuantizeLinear, of a tensor or of a constant.

    Raises:
        UnrepresentableError: The reason.
    """
    scale, zero, qtype = call.constant(1, "its scale"), _zero(call), _qtype(call)
    check_steps(scale)
    x = call.inputs[0]
    if isinstance(x, Constant):
        scale, zero = (_along(part, x, call) for part in (scale, zero))
        with np.errstate(over="ignore"):  # what overflows is clipped
            rounded = np.round(x.values.astype(np.float32) / scale.values.astype(np.float32))
        codes = np.clip(rounded.astype(np.float64) + zero.values, qtype.qmin, qtype.qmax)
        return Constant(codes, dtype=str(qtype))
    step, zero_point = Fraction(scale.scalar("its scale")), int(zero.scalar("its zero point"))
    if isinstance(x, Mapped):
        return Affine(x.shape, tabulated(call, x, step, zero_point, qtype), (_ONE,), (_ZERO,))
    if isinstance(x, Parts):
        return _concatenated(call, x, step, zero_point, qtype)
    tensor = _tensor(call, call.tensor(), call.name, step, zero_point, qtype)
    return Affine(call.tensor().shape, tensor, (_ONE,), (_ZERO,))


def _concatenated(call: Call, x: Parts, step: Fraction, zero_point: int, qtype: QType) -> Affine:
    """Round every part to the step of the whole, which is the same as rounding the whole.

    Raises:
        UnrepresentableError: Parts of different sizes, or that cannot be rounded.
    """
    shapes = [part.shape for part in x.values]
    if len({shape[1:] for shape in shapes}) > 1:
        raise UnrepresentableError("concatenates tensors of different sizes")
    names = [_tensor(call, part, f"{call.name}.part{i}", step, zero_point, qtype) for i, part in enumerate(x.values)]
    shape = (sum(s[0] for s in shapes), *shapes[0][1:])
    base = call.reader.out.node("concat", call.name, names, shape, qtype, float(step), zero_point)
    return Affine(shape, base, (_ONE,), (_ZERO,))


def dequantize_linear(call: Call) -> Value:
    """DequantizeLinear, of codes or of a constant.

    Raises:
        UnrepresentableError: The reason.
    """
    scale, zero, x = call.constant(1, "its scale"), _zero(call), call.inputs[0]
    check_steps(scale)
    if isinstance(x, Constant):
        scale, zero = (_along(part, x, call) for part in (scale, zero))
        if (x.values != np.round(x.values)).any():
            raise UnrepresentableError("takes numbers for codes that are no integers")
        codes = (x.values - zero.values).astype(np.int64)
        steps = np.broadcast_to(scale.values, codes.shape)
        return Constant(codes * steps, codes, steps, None)
    step, zero_point = Fraction(scale.scalar("its scale")), int(zero.scalar("its zero point"))
    value = call.tensor()
    return value.scaled((step,) * value.channels, (-step * zero_point,) * value.channels)


def _zero(call: Call) -> Constant:
    """Return the zero point, 0 if it is left out.

    Raises:
        UnrepresentableError: It is no integer.
    """
    if len(call.inputs) < 3 or call.inputs[2] is None:
        return Constant(np.zeros(()))
    zero = call.constant(2, "its zero point")
    if (zero.values != np.round(zero.values)).any():
        raise UnrepresentableError("its zero point is no integer")
    return zero


def _qtype(call: Call) -> QType:
    """Return the type of the codes: that of the zero point, or the attribute's, or uint8.

    Raises:
        UnrepresentableError: It is none of at most 16 bits.
    """
    given = call.inputs[2] if len(call.inputs) > 2 else None
    name = given.dtype if isinstance(given, Constant) else _TYPES.get(int(call.attrs.get("output_dtype", 0) or 2), "")
    try:
        qtype = QType.parse(name)
    except ConfigError as error:
        raise UnrepresentableError(f"codes of type {name or call.attrs.get('output_dtype')!r}") from error
    if qtype.bits > 16:
        raise UnrepresentableError(f"codes of type {name!r}; at most 16 bits are supported")
    return qtype


def _along(part: Constant, x: Constant, call: Call) -> Constant:
    """Return a scale or zero point so that it broadcasts against a constant: one number, or one along the axis.

    Raises:
        UnrepresentableError: It has another number of entries than the axis, or there are blocks of them.
    """
    if part.values.size == 1:
        return part.moved(lambda v: v.reshape(()))
    axis, rank = int(call.attrs.get("axis", 1)), x.values.ndim
    if part.values.ndim != 1 or not -rank <= axis < rank or part.values.size != x.values.shape[axis]:
        raise UnrepresentableError(
            f"{part.values.shape} scales or zero points along axis {axis} of a constant of shape {x.values.shape}"
        )
    shape = [1] * rank
    shape[axis] = -1
    return part.moved(lambda v: v.reshape(shape))


def _tensor(call: Call, value: Affine, name: str, step: Fraction, zero_point: int, qtype: QType) -> str:
    """Emit the rounding of a tensor and return the codes.

    Raises:
        UnrepresentableError: It has no exact form, and no near one may be taken or is there.
    """
    if value.given:
        return quantize_input(call, value, step, zero_point, qtype, "HALF_EVEN")
    source, codes = value.base, affine_codes(call.reader, value, step, zero_point, qtype)
    value = positive(call.reader, snapped(call, value), name)
    alpha = [f / step for f in value.factors()]
    beta = [b / step for b in value.offsets()]
    bound = call.reader.out.bound_of(value)
    limits = clip_limits(value, step, 0, qtype, "HALF_EVEN", zero_point)
    ends = (bound.low.tolist(), bound.high.tolist(), limits)
    found = find_rescale(alpha, beta, *ends, "HALF_EVEN", finest=0 if call.reader.nearest else FINEST)
    if codes is not None and found is None:  # a table is exact for all scales
        return emit_table(call.reader, name, str(source), value.shape, codes, (step, zero_point, qtype))
    if (
        call.reader.nearest and codes is None and (found is None or max(found.gain) > 1)
    ):  # weights stay as narrow as they are
        near = nearest_rescale(alpha, beta, *ends)
        if near is not None and (found is None or max(near.gain) < max(found.gain)):
            found = near
            call.reader.near.append(name)
    if found is None:
        raise UnrepresentableError(
            f"rounding to {qtype} at step {float(step):.9g} has no exact form here. Use scales that are powers of two, "
            "or allow near ones (nearest=True; --nearest)"
        )
    both = (limits[0] + zero_point, limits[1] + zero_point)
    tensor = call.reader.out.rescale(value, name, found, qtype, float(step), zero_point, both, zero_point)
    if codes is not None:
        call.reader.tables[tensor] = (str(source), codes)
    return tensor
