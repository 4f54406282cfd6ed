"""Functions of single values (Sigmoid, HardSwish, Gelu ...) between quantizers: a lookup table of 256 codes.

Used by `qonnx_import_nodes` only. A function of a tensor of codes is known by its real value for each code, in float64;
arithmetic with constants, limits, and products with what else depends on the same codes (SiLU as ``x * sigmoid(x)``,
quantized in between or not) are functions of them too. The quantizer behind makes the table: for every code
``clip(round(value / s) + z)``, half to even. To support another function: a line in ``FUNCTIONS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import QType
from dyadiq.ir.activation import FUNCTIONS as _OURS
from dyadiq.ir.qonnx_import_build import Affine, Emitter, UnrepresentableError
from dyadiq.ir.qonnx_import_constants import Constant
from dyadiq.ir.qonnx_import_reader import Call, Mapped, Reader, Value, settled
from dyadiq.ir.shapes import TABLE_SIZE

__all__ = ["FUNCTIONS", "affine_codes", "combined", "emit_table", "function", "limited", "tabulated"]

_Reals = NDArray[np.float64]


def _hard_sigmoid(x: _Reals, attrs: Mapping[str, Any]) -> _Reals:
    alpha, beta = float(attrs.get("alpha", 0.2)), float(attrs.get("beta", 0.5))
    # the file has 1/6 in float32; then the function of that name is meant
    return np.clip(x / 6 + beta if np.float32(alpha) == np.float32(1 / 6) else alpha * x + beta, 0.0, 1.0)


def _leaky_relu(x: _Reals, attrs: Mapping[str, Any]) -> _Reals:
    return np.where(x >= 0, x, float(attrs.get("alpha", 0.01)) * x)


def _elu(x: _Reals, attrs: Mapping[str, Any]) -> _Reals:
    return np.where(x >= 0, x, float(attrs.get("alpha", 1.0)) * np.expm1(np.minimum(x, 0)))


def _gelu(x: _Reals, attrs: Mapping[str, Any]) -> _Reals:
    if attrs.get("approximate", "none") in ("none", b"none"):
        return _OURS["gelu"](x)
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


FUNCTIONS: Mapping[str, Callable[[_Reals, Mapping[str, Any]], _Reals]] = MappingProxyType(
    {
        "Elu": _elu,
        "Erf": lambda x, _: np.asarray(np.vectorize(math.erf)(x), dtype=np.float64),
        "Gelu": _gelu,
        "HardSigmoid": _hard_sigmoid,
        "HardSwish": lambda x, _: _OURS["hardswish"](x),
        "LeakyRelu": _leaky_relu,
        "Sigmoid": lambda x, _: _OURS["sigmoid"](x),
        "Softplus": lambda x, _: np.logaddexp(0.0, x),
        "Tanh": lambda x, _: np.asarray(np.tanh(x)),
    }
)


def function(operator: str) -> Callable[[Call], Value]:
    """Return the handler of a function."""

    def handler(call: Call) -> Value:
        value = call.inputs[0]
        if call.reader.readers.get(call.name) == ["output"]:
            name = next((n for n, known in call.reader.values.items() if known is value), "")
            raise UnrepresentableError(
                f"makes an output that is not quantized. End the program before it: outputs=[{name!r}]"
            )
        x = value if isinstance(value, Mapped) else _mapped(call, call.tensor())
        with np.errstate(all="ignore"):  # what is not finite is refused
            return x.with_reals(FUNCTIONS[operator](x.reals, call.attrs))

    return handler


def limited(call: Call, low: float | None, high: float | None) -> Mapped | None:
    """Return what a function becomes between limits; None if the input is no function."""
    x = call.inputs[0]
    return x.with_reals(np.clip(x.reals, low, high)) if isinstance(x, Mapped) else None


def combined(call: Call, operate: Callable[[_Reals, _Reals], _Reals], does: str) -> Mapped | None:
    """Return arithmetic of two inputs that is a function of codes: of functions, or a product of tensors.

    Args:
        call: The node.
        operate: What it does with real values.
        does: The same as a word.

    Returns:
        The function; None where no input is one, and no product of tensors is asked for.

    Raises:
        UnrepresentableError: Two tensors depend on different codes.
    """
    left, right = call.inputs[:2]
    tensors_count = does == "multiplies" and isinstance(left, Affine) and isinstance(right, Affine)
    if not tensors_count and not any(isinstance(x, Mapped) for x in (left, right)):
        return None
    refusal = f"{does} two tensors that depend on different codes, which no operator of integer programs does"
    if any(isinstance(x, Affine) and x.given for x in (left, right)):
        raise UnrepresentableError(refusal)
    pair = [
        x if isinstance(x, (Constant, Mapped)) else _mapped(call, call.tensor(i)) for i, x in enumerate((left, right))
    ]
    tensors = [x for x in pair if isinstance(x, Mapped)]
    root = tensors[0].base if len(tensors) == 1 else _common(call.reader, tensors[0].base, tensors[1].base)
    if root is None or any(x.shape != tensors[0].shape for x in tensors):
        raise UnrepresentableError(refusal)
    reals = []
    for x in pair:
        if isinstance(x, Mapped):
            at = _traced(call.reader, root, x.base)
            reals.append(x.reals[at - _first(call.reader.out, x.base)])
        else:
            reals.append(
                np.full(len(_codes(call.reader.out, root)), x.scalar("what is combined with a function of codes"))
            )
    with np.errstate(all="ignore"):
        made = np.asarray(operate(*reals), dtype=np.float64)
    return Mapped(tensors[0].shape, root, made)


def tabulated(call: Call, x: Mapped, step: Fraction, zero_point: int, qtype: QType) -> str:
    """Emit the table of a function, rounded to codes, and return them.

    Raises:
        UnrepresentableError: Its values are not finite.
    """
    if not np.isfinite(x.reals).all():
        raise UnrepresentableError("a function whose values are not finite for all codes")
    codes = np.clip(np.round(x.reals / float(step)) + zero_point, qtype.qmin, qtype.qmax).astype(np.int64)
    return emit_table(call.reader, call.name, x.base, x.shape, codes, (step, zero_point, qtype))


def emit_table(
    reader: Reader, name: str, base: str, shape: tuple[int, ...], codes: NDArray[np.int64],
    grid: tuple[Fraction, int, QType],
) -> str:  # fmt: skip
    """Emit a table with the code for each code of a tensor; return what it makes, of a step, zero point and type."""
    out, (step, zero_point, qtype) = reader.out, grid
    table = np.pad(codes, (0, TABLE_SIZE - len(codes)), mode="edge")
    parts = [base, out.param(f"{out.fresh(name)}.table", table)]
    tensor = out.node("lookup", name, parts, shape, qtype, float(step), zero_point, first=_first(out, base))
    reader.tables[tensor] = (base, codes)
    return tensor


def affine_codes(
    reader: Reader, value: Affine, step: Fraction, zero_point: int, qtype: QType
) -> NDArray[np.int64] | None:
    """Return what a tensor becomes when it is rounded, exactly, for each code; None where they are too many."""
    if (reals := _affine(reader, value)) is None:
        return None
    steps = [round(real / step) + zero_point for real in reals]  # of a Fraction: half to even
    return np.array([min(max(code, qtype.qmin), qtype.qmax) for code in steps], dtype=np.int64)


def _affine(reader: Reader, value: Affine) -> list[Fraction] | None:
    """Return the real value of each code; None where codes are more than 256, pending, or have steps by channel."""
    if not isinstance(value.base, str) or value.given or len(set(value.a)) > 1 or len(set(value.b)) > 1:
        return None
    reals = [value.a[0] * int(code) + value.b[0] for code in _codes(reader.out, value.base)]
    low, high = value.low, value.high
    reals = reals if low is None else [max(real, low) for real in reals]
    return (reals if high is None else [min(real, high) for real in reals]) or None


def _mapped(call: Call, value: Affine) -> Mapped:
    """Return a tensor as a function of its codes.

    Raises:
        UnrepresentableError: It has more than 256 of them, or a step per channel.
    """
    value = settled(call.reader, value, call.name, keep_clip=True)
    if (reals := _affine(call.reader, value)) is None:
        raise UnrepresentableError(
            "a function of values that are no codes of 8 bits, per tensor. Quantize its input so"
        )
    return Mapped(value.shape, str(value.base), np.array([float(real) for real in reals]))


def _codes(out: Emitter, base: str) -> NDArray[np.int64]:
    """Return all codes of a tensor; none where they are too many for a table."""
    qtype = out.tensors[base].qtype
    assert qtype is not None
    n = qtype.qmax - qtype.qmin + 1
    return np.arange(qtype.qmin, qtype.qmax + 1) if n <= TABLE_SIZE else np.zeros(0, dtype=np.int64)


def _first(out: Emitter, base: str) -> int:
    qtype = out.tensors[base].qtype
    assert qtype is not None
    return qtype.qmin


def _ancestors(reader: Reader, base: str) -> list[str]:
    found = [base]
    while found[-1] in reader.tables:
        found.append(reader.tables[found[-1]][0])
    return found


def _common(reader: Reader, left: str, right: str) -> str | None:
    """Return the nearest tensor whose codes both are functions of."""
    others = _ancestors(reader, right)
    return next((name for name in _ancestors(reader, left) if name in others), None)


def _traced(reader: Reader, root: str, base: str) -> NDArray[np.int64]:
    """Return the code of a tensor for each code of its root."""
    if base == root:
        return _codes(reader.out, root)
    before, codes = reader.tables[base]
    return codes[_traced(reader, root, before) - _first(reader.out, before)]
