"""One function per ONNX operator: from the affine tensors it reads to the one it makes.

Used by `qonnx_import` only. A function raises `UnrepresentableError` with the reason, which is collected. To support
another operator: write a function and add one line to ``HANDLERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np

from dyadiq.ir.qonnx_import_build import Affine, UnrepresentableError
from dyadiq.ir.qonnx_import_constants import Constant, per_channel, root
from dyadiq.ir.qonnx_import_dot import conv, gemm, matmul, max_window, out_size, pad_code, window
from dyadiq.ir.qonnx_import_joins import concat, join
from dyadiq.ir.qonnx_import_linear import dequantize_linear, quantize_linear
from dyadiq.ir.qonnx_import_quant import bipolar_quant, positive, quant, snapped, trunc
from dyadiq.ir.qonnx_import_reader import Call, Reader, Value, settled
from dyadiq.ir.qonnx_import_tables import FUNCTIONS, combined, function, limited

__all__ = ["HANDLERS", "finish"]

_ZERO, _ONE = Fraction(0), Fraction(1)
_MAX_MULTIPLE = 1 << 31


def _same(call: Call) -> Value:
    value = call.inputs[0]
    if value is None:
        raise UnrepresentableError("has no input")
    return value


def _relu(call: Call) -> Value:
    return limited(call, 0.0, None) or call.tensor().clipped((_ZERO,), None)


def _clip(call: Call) -> Value:
    ends: list[tuple[Fraction] | None] = []
    for i, name in ((1, "min"), (2, "max")):
        given = call.inputs[i] if i < len(call.inputs) else None
        if given is not None:
            ends.append((Fraction(call.constant(i, f"its {name}").scalar(f"its {name}")),))
        else:
            ends.append((Fraction(float(call.attrs[name])),) if name in call.attrs else None)
    low, high = (None if end is None else float(end[0]) for end in ends)
    return limited(call, low, high) or call.tensor().clipped(*ends)


def _max(call: Call) -> Value:
    return _extreme(call, np.maximum, "maximum")


def _min(call: Call) -> Value:
    return _extreme(call, np.minimum, "minimum")


def _extreme(call: Call, constants: Callable[[Any, Any], Any], what: str) -> Value:
    if len(call.inputs) != 2:
        raise UnrepresentableError(f"the {what} of {len(call.inputs)} tensors; two are supported, one a constant")
    if (constant := _arithmetic(call, constants)) is not None:
        return constant
    left, right = call.inputs
    for value, other in ((left, right), (right, left)):
        if isinstance(value, Affine) and isinstance(other, Constant):
            limits = per_channel(other, value.shape)
            return value.clipped(limits, None) if what == "maximum" else value.clipped(None, limits)
    raise UnrepresentableError(f"takes the {what} of two tensors, which no operator of integer programs does")


def _neg(call: Call) -> Affine:
    return _times(call.tensor(), -_ONE)


def _times(value: Affine, factor: Fraction) -> Affine:
    return value.scaled((factor,) * value.channels, (_ZERO,) * value.channels)


def _arithmetic(call: Call, constants: Callable[[Any, Any], Any]) -> Constant | None:
    """Return the result if both operands are constant, computed in float32 as the executor does."""
    left, right = call.inputs[0], call.inputs[1]
    if isinstance(left, Constant) and isinstance(right, Constant):
        with np.errstate(all="ignore"):
            result = constants(left.values.astype(np.float32), right.values.astype(np.float32))
        return Constant(np.asarray(result, dtype=np.float64))
    return None


def _add(call: Call) -> Value:
    left, right = call.inputs[0], call.inputs[1]
    if (constant := _arithmetic(call, np.add)) is not None:
        return constant
    for value, other in ((left, right), (right, left)):
        if isinstance(value, Affine) and isinstance(other, Constant):
            return value.scaled((_ONE,) * value.channels, per_channel(other, value.shape))
    return combined(call, np.add, "adds") or join(call, call.tensor(0), call.tensor(1))


def _sub(call: Call) -> Value:
    left, right = call.inputs[0], call.inputs[1]
    if (constant := _arithmetic(call, np.subtract)) is not None:
        return constant
    if (made := combined(call, np.subtract, "subtracts")) is not None:
        return made
    if isinstance(right, Constant):
        value = call.tensor(0)
        return value.scaled((_ONE,) * value.channels, tuple(-v for v in per_channel(right, value.shape)))
    negative = _times(call.tensor(1), -_ONE)
    if isinstance(left, Constant):
        return negative.scaled((_ONE,) * negative.channels, per_channel(left, negative.shape))
    return join(call, call.tensor(0), positive(call.reader, negative, call.name))


def _mul(call: Call) -> Value:
    if (constant := _arithmetic(call, np.multiply)) is not None:
        return constant
    left, right = call.inputs[0], call.inputs[1]
    for value, other in ((left, right), (right, left)):
        if isinstance(value, Affine) and isinstance(other, Constant):
            return value.scaled(per_channel(other, value.shape), (_ZERO,) * value.channels)
    if (made := combined(call, np.multiply, "multiplies")) is not None:
        return made
    raise UnrepresentableError("multiplies what is no tensor")


def _div(call: Call) -> Value:
    if (constant := _arithmetic(call, np.divide)) is not None:
        return constant
    if (made := combined(call, np.divide, "divides")) is not None:
        return made
    value = call.tensor(0)
    factors = per_channel(call.constant(1, "its divisor"), value.shape)
    if not all(factors):
        raise UnrepresentableError("divides by zero")
    return value.scaled(tuple(1 / f for f in factors), (_ZERO,) * value.channels)


def _batch_norm(call: Call) -> Affine:
    value = call.tensor()
    shape = (-1, *([1] * (len(value.shape) - 1)))
    names = ("scale", "bias", "mean", "variance")
    parts = [call.constant(i + 1, f"its {n}").moved(lambda v: v.reshape(shape)) for i, n in enumerate(names)]
    gamma, beta, mean, variance = (per_channel(p, value.shape) for p in parts)
    eps = Fraction(float(call.attrs.get("epsilon", 1e-5)))
    if any(v + eps <= 0 for v in variance):
        raise UnrepresentableError("a variance that is not positive")
    factors = tuple(g / root(v + eps) for g, v in zip(gamma, variance, strict=True))
    offsets = tuple(b - m * f for b, m, f in zip(beta, mean, factors, strict=True))
    return value.scaled(factors, offsets)


# -- pooling and shapes ----------------------------------------------------------------------------


def _max_pool(call: Call) -> Affine:
    value = settled(call.reader, positive(call.reader, call.tensor(), call.name), call.name, keep_clip=True)
    kernel = _kernel(call, value)
    (stride, padding, dilation), ceil_mode = max_window(call, value, kernel)
    shape = (value.channels, *out_size(value.shape[1:], kernel, stride, padding, dilation, ceil_mode))
    assert isinstance(value.base, str)
    info = call.reader.out.tensors[value.base]
    attrs: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
    attrs |= {"dilation": dilation, "ceil_mode": ceil_mode}
    base = call.reader.out.node(
        "max_pool2d", call.name, [value.base], shape, info.qtype, info.scale, info.zero_point, **attrs
    )
    return replace(value, base=base, shape=shape)


def _kernel(call: Call, value: Affine) -> tuple[int, int]:
    kernel = tuple(int(k) for k in call.attrs.get("kernel_shape", ()))
    if len(value.shape) != 3 or len(kernel) != 2:
        raise UnrepresentableError(f"pools a tensor of shape {value.shape} with a window {kernel}")
    return kernel[0], kernel[1]


def _average_pool(call: Call) -> Affine:
    value = call.codes()
    kernel = _kernel(call, value)
    stride, padding, dilation = window(call, kernel)
    if call.attrs.get("ceil_mode", 0) or dilation != (1, 1):
        raise UnrepresentableError("averages with ceil_mode or dilation")
    if any(padding) and not call.attrs.get("count_include_pad", 0):
        raise UnrepresentableError("averages over padding that does not count. Use count_include_pad")
    return _average(call, value, kernel, stride, padding)


def _global_average_pool(call: Call) -> Affine:
    value = call.codes()
    if len(value.shape) != 3:
        raise UnrepresentableError(f"pools a tensor of shape {value.shape}")
    size = (value.shape[1], value.shape[2])
    return _average(call, value, size, size, (0, 0))


def _average(
    call: Call, value: Affine, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Affine:
    count, code = kernel[0] * kernel[1], pad_code(value, padding)
    shape = (value.channels, *out_size(value.shape[1:], kernel, stride, padding, (1, 1)))
    out, a = call.reader.out, tuple(f / count for f in value.a)
    scale = [float(f) for f in a] if len(set(a)) > 1 else float(a[0])
    bias = out.param(f"{out.fresh(call.name)}.bias", -count * code)
    attrs: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding, "pad_value": code}
    base = out.node("sum_pool2d", call.name, [str(value.base), bias], shape, scale=scale, **attrs)
    return Affine(shape, base, a, (_ZERO,) if code else value.b)


def _pad(call: Call) -> Affine:
    """Return a tensor with the code of zero around it.

    Raises:
        UnrepresentableError: The reason.
    """
    value = call.codes()
    rank, fill = 1 + len(value.shape), call.inputs[2] if len(call.inputs) > 2 else None
    given = call.attrs["pads"] if "pads" in call.attrs else call.constant(1, "its pads").values.tolist()
    pads = [int(p) for p in given]
    filled = fill.scalar("its value") if isinstance(fill, Constant) else float(call.attrs.get("value", 0.0))
    if call.attrs.get("mode", "constant") != "constant" or filled or len(pads) != 2 * rank or len(call.inputs) > 3:
        raise UnrepresentableError("pads with something else than zeros, or some axes only")
    before, after = tuple(pads[1:rank]), tuple(pads[rank + 1 :])
    a, b = (part[:1] if len(set(part)) == 1 else part for part in (value.a, value.b))
    if pads[0] or pads[rank] or min(pads) < 0 or rank != 4 or ((before[0] or after[0]) and len(a) + len(b) > 2):
        raise UnrepresentableError(f"pads {tuple(pads)}; zeros around [C, H, W] are supported")
    shape = tuple(n + first + last for n, first, last in zip(value.shape, before, after, strict=True))
    assert isinstance(value.base, str)
    info, attrs = call.reader.out.tensors[value.base], {"before": before, "after": after}
    base = call.reader.out.node(
        "pad", call.name, [value.base], shape, info.qtype, info.scale, info.zero_point, **attrs,
        pad_value=pad_code(value, (1, 1)),
    )  # fmt: skip
    return replace(value, base=base, shape=shape, a=a, b=b)


def _reshape(call: Call) -> Value:
    shape = call.constant(1, "its shape").values.astype(np.int64).ravel().tolist()
    first = call.inputs[0]
    if isinstance(first, Constant):
        return first.moved(lambda v: v.reshape(shape))
    value = call.tensor()
    sizes = [n if s == 0 else s for s, n in zip(shape[1:], value.shape, strict=False)] + shape[1 + len(value.shape) :]
    if len(sizes) == len(value.shape) and all(s in (n, -1) for s, n in zip(sizes, value.shape, strict=True)):
        return value
    if len(sizes) == 1 and sizes[0] in (-1, int(np.prod(value.shape))):
        return _flat(call, value)
    raise UnrepresentableError(f"reshapes {value.shape} to {tuple(shape)}; only flattening is supported")


def _flatten(call: Call) -> Affine:
    if call.attrs.get("axis", 1) != 1:
        raise UnrepresentableError("flattens from an axis other than 1")
    return _flat(call, call.tensor())


def _slice(call: Call) -> Affine:
    """Return every n-th row and column, as a max pool of windows of one.

    Raises:
        UnrepresentableError: Another part of the tensor.
    """
    value = settled(call.reader, positive(call.reader, call.tensor(), call.name), call.name, keep_clip=True)
    names, rank, steps = ("starts", "ends", "axes", "steps"), 1 + len(value.shape), {2: 1, 3: 1}
    given = [
        call.attrs[n] if n in call.attrs else call.constant(i, f"its {n}").values.tolist()
        for i, n in enumerate(names, start=1)
        if n in call.attrs or i < len(call.inputs)
    ]
    starts, ends, axes, strides = given + [list(range(len(given[0]))), [1] * len(given[0])][len(given) - 2 :]
    for start, end, axis, step in zip(starts, ends, axes, strides, strict=True):
        at = int(axis) % rank
        if rank != 4 or at < 2 or start != 0 or end < value.shape[at - 1] or step < 1:
            raise UnrepresentableError("takes a part; only every n-th row and column, x[:, :, ::n, ::n], is supported")
        steps[at] = int(step)
    stride = (steps[2], steps[3])
    shape = (value.channels, *(-(-n // s) for n, s in zip(value.shape[1:], stride, strict=True)))
    assert isinstance(value.base, str)
    info, attrs = call.reader.out.tensors[value.base], {"kernel": (1, 1), "stride": stride, "padding": (0, 0)}
    base = call.reader.out.node(
        "max_pool2d", call.name, [value.base], shape, info.qtype, info.scale, info.zero_point, **attrs,
        dilation=(1, 1), ceil_mode=False,
    )  # fmt: skip
    return replace(value, base=base, shape=shape)


def _squeeze(call: Call) -> Affine:
    value = call.tensor()
    if value.shape[1:] != (1, 1):
        raise UnrepresentableError(f"squeezes a tensor of shape {value.shape}; only [C, 1, 1] is supported")
    return _flat(call, value)


def _flat(call: Call, value: Affine) -> Affine:
    if len(value.shape) == 1:
        return value
    value = settled(call.reader, value, call.name, keep_clip=True)
    repeat = int(np.prod(value.shape[1:]))
    assert isinstance(value.base, str)
    info, shape = call.reader.out.tensors[value.base], (int(np.prod(value.shape)),)
    scale = None if info.scale is None else np.repeat(info.scale, repeat) if info.scale.ndim else info.scale
    base = call.reader.out.node("flatten", call.name, [value.base], shape, info.qtype, scale, info.zero_point)
    a, b = (tuple(f for f in part for _ in range(repeat)) if len(part) > 1 else part for part in (value.a, value.b))
    return replace(value, base=base, shape=shape, a=a, b=b)


def _transpose(call: Call) -> Constant:
    perm = call.attrs.get("perm")
    return call.constant(0, "a transposed tensor").moved(lambda v: np.transpose(v, perm))


def finish(reader: Reader, value: Value | None, name: str) -> str:
    """Return the program tensor of an output: codes whose scale and zero point give the real values.

    Raises:
        UnrepresentableError: Its values lie on no grid.
    """
    if not isinstance(value, Affine):
        raise UnrepresentableError("an output that does not depend on the input")
    call = Call(reader, name, (value,), {})
    if value.given or value.low is not None or value.high is not None:
        value = settled(reader, value, name)
    value = positive(reader, snapped(call, value), name)
    if isinstance(value.base, str) and len(set(value.a)) == 1 and len(set(value.b)) == 1:
        info = reader.out.tensors[value.base]
        if -value.b[0] / value.a[0] == info.zero_point and info.scale is not None and (info.scale == value.a[0]).all():
            return value.base
    codes = [b / a for a, b in zip(value.factors(), value.offsets(), strict=True)]
    gain = [c.denominator for c in codes]
    if any(g & (g - 1) or g >= _MAX_MULTIPLE for g in gain):
        raise UnrepresentableError(
            "an output that is not quantized, with an offset between its steps. Quantize the output"
        )
    dot = replace(reader.out.as_dot(value, name), name=name)
    scales = [float(a / g) for a, g in zip(value.factors(), gain, strict=True)]
    scale = scales if len(set(scales)) > 1 else scales[0]
    return reader.out.dot(dot, value.shape, gain, [int(c * g) for c, g in zip(codes, gain, strict=True)], scale)


HANDLERS: Mapping[str, Callable[[Call], Value]] = MappingProxyType(
    {
        "Add": _add,
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_norm,
        "BipolarQuant": bipolar_quant,
        "Cast": _same,
        "Clip": _clip,
        "Concat": concat,
        "Conv": conv,
        "DequantizeLinear": dequantize_linear,
        "Div": _div,
        "Dropout": _same,
        "Flatten": _flatten,
        "Gemm": gemm,
        "GlobalAveragePool": _global_average_pool,
        "Identity": _same,
        "IntQuant": quant,
        "MatMul": matmul,
        "Max": _max,
        "MaxPool": _max_pool,
        "Min": _min,
        "Mul": _mul,
        "Neg": _neg,
        "Pad": _pad,
        "Quant": quant,
        "QuantizeLinear": quantize_linear,
        "Relu": _relu,
        "Reshape": _reshape,
        "Slice": _slice,
        "Squeeze": _squeeze,
        "Sub": _sub,
        "Transpose": _transpose,
        "Trunc": trunc,
        **{operator: function(operator) for operator in FUNCTIONS},
    }
)
