"""Add and Concat: tensors brought to one step before they are joined. Used by `qonnx_import_nodes` only."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from dyadiq.core.qtype import QType, bits_for_range
from dyadiq.ir.qonnx_import_build import Affine, Parts, UnrepresentableError
from dyadiq.ir.qonnx_import_constants import fraction_gcd
from dyadiq.ir.qonnx_import_dot import pad_code
from dyadiq.ir.qonnx_import_quant import positive
from dyadiq.ir.qonnx_import_reader import Call, Value, settled

__all__ = ["concat", "join"]

_ZERO = Fraction(0)
_MAX_MULTIPLE = 1 << 31
_INT32 = (1 << 31) - 1


def _branch(call: Call, value: Affine) -> Affine:
    """Return the value over an emitted tensor, factors positive, with zero as code 0 if its offset is a code."""
    value = settled(call.reader, positive(call.reader, settled(call.reader, value, call.name), call.name), call.name)
    code = pad_code(value, (0, 0))
    if not code:
        return value
    assert isinstance(value.base, str)
    info, bound = call.reader.out.tensors[value.base], call.reader.out.bounds[value.base]
    qtype = bits_for_range(int(bound.low.min()) - code, int(bound.high.max()) - code)
    name, ends = f"{call.name}.centred", (qtype.qmin, qtype.qmax)
    base = call.reader.out.clip(value.base, name, -code, qtype, ends, info.scale, 0)
    return replace(value, base=base, b=(_ZERO,))


def _on_step(call: Call, value: Affine, steps: tuple[Fraction, ...]) -> Affine:
    """Return the value in codes of a finer step.

    Raises:
        UnrepresentableError: The reason.
    """
    multiples = [int(f / s) for f, s in zip(value.factors(), steps, strict=True)]
    if max(multiples) >= _MAX_MULTIPLE:
        raise UnrepresentableError("joins tensors whose scales have no common step. Quantize them to one scale first")
    if set(multiples) == {1}:
        return value
    assert isinstance(value.base, str)
    base = call.reader.out.wide_multiple(value.base, call.name, multiples, [float(s) for s in steps])
    return replace(value, base=base, a=steps)


def _near_steps(
    call: Call, parts: list[Affine], steps: tuple[Fraction, ...]
) -> tuple[list[Affine], tuple[Fraction, ...]]:
    """Return parts and their common steps; where sums of these leave 32 bits and the reader may, near ones that do not.

    Each factor is moved by at most half a near step: about 2^-23 of the largest factor, for two tensors of 8 bits.
    """
    largest = []
    for part in parts:
        bound = call.reader.out.bound_of(part)
        largest.append(int(max(abs(bound.low).max(), abs(bound.high).max())))
    columns = list(zip(*(p.factors() for p in parts), strict=True))
    sums = [
        sum(f / s * n for f, n in zip(column, largest, strict=True)) for column, s in zip(columns, steps, strict=True)
    ]
    if not call.reader.nearest or max(sums) <= _INT32:
        return parts, steps
    call.reader.near.append(call.name)
    room = _INT32 - sum(largest)  # factors that are rounded up add less than one code each
    steps = tuple(sum(f * n for f, n in zip(column, largest, strict=True)) / room for column in columns)
    moved = []
    for part in parts:
        a = tuple(max(1, round(f / s)) * s for f, s in zip(part.factors(), steps, strict=True))
        b = tuple(o / f * n for o, f, n in zip(part.offsets(), part.factors(), a, strict=True))
        moved.append(replace(part, a=a, b=b))
    return moved, steps


def join(call: Call, *values: Affine) -> Affine:
    """Return the sum of tensors, on a common step.

    Raises:
        UnrepresentableError: The reason.
    """
    first = values[0]
    if any(v.shape != first.shape for v in values):
        raise UnrepresentableError(f"adds tensors of shapes {', '.join(str(v.shape) for v in values)}")
    parts = [_branch(call, v) for v in values]
    steps = tuple(fraction_gcd(column) for column in zip(*(p.factors() for p in parts), strict=True))
    parts, steps = _near_steps(call, parts, steps)
    parts = [_on_step(call, p, steps) for p in parts]
    scales = [float(s) for s in steps]
    scale = scales if len(set(scales)) > 1 else scales[0]
    base = call.reader.out.node("add", call.name, [str(p.base) for p in parts], first.shape, scale=scale)
    offsets = tuple(sum(column, start=_ZERO) for column in zip(*(p.offsets() for p in parts), strict=True))
    return Affine(first.shape, base, steps, offsets)


def concat(call: Call) -> Value:
    """Return the concatenation along channels, of codes on a common step; a quantizer behind it rounds part by part.

    Raises:
        UnrepresentableError: The reason.
    """
    if call.attrs.get("axis") not in (1, -len(call.tensor().shape)):
        raise UnrepresentableError(f"concatenates along axis {call.attrs.get('axis')}; only channels (1) are supported")
    values = [call.tensor(i) for i in range(len(call.inputs))]
    if call.reader.readers.get(call.name) == ["QuantizeLinear"] and len({(v.a, v.b) for v in values}) > 1:
        return Parts(tuple(values))
    parts = [_branch(call, value) for value in values]
    if any(p.shape[1:] != parts[0].shape[1:] for p in parts):
        raise UnrepresentableError("concatenates tensors of different sizes")
    if any(len(set(p.a)) > 1 or any(p.b) for p in parts):
        raise UnrepresentableError("concatenates tensors with steps per channel or offsets. Quantize them first")
    step = fraction_gcd([p.a[0] for p in parts])
    parts = [_on_step(call, p, (step,) * p.channels) for p in parts]
    out, bases = call.reader.out, [str(p.base) for p in parts]
    types = [out.tensors[b].qtype for b in bases]
    common = types[0]
    assert common is not None
    if len(set(types)) > 1 or any(out.tensors[b].zero_point for b in bases):
        common = bits_for_range(*(int(end) for end in _hull(types)))
        ends = (common.qmin, common.qmax)
        bases = [out.clip(b, f"{call.name}.as_{common}", 0, common, ends, float(step), 0) for b in bases]
    shape = (sum(p.shape[0] for p in parts), *parts[0].shape[1:])
    return Affine(shape, out.node("concat", call.name, bases, shape, common, float(step)), (step,), (_ZERO,))


def _hull(types: list[QType | None]) -> tuple[int, int]:
    return min(t.qmin for t in types if t), max(t.qmax for t in types if t)
