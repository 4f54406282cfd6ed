"""Rules of capture for pools; see `capture_ops`, which lists them, for what a rule is."""

from __future__ import annotations

from typing import Any

from dyadiq.ir.capture_builder import Call, GraphBuilder, UnsupportedError, Value
from dyadiq.ir.shapes import pool_output_size

__all__ = ["adaptive_avg_pool2d", "avg_pool2d", "max_pool2d", "mean", "pair"]


def pair(value: Any) -> tuple[int, int]:
    """Return ``(h, w)`` from an integer, or a list of one or two.

    Raises:
        UnsupportedError: Not integers.
    """
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not all(type(item) is int for item in items):
        raise UnsupportedError(f"got {value!r}, expected integers that do not depend on the batch.")
    return (items[0], items[-1])


def max_pool2d(builder: GraphBuilder, call: Call) -> Value:
    """Return a max pool."""
    args = call.args
    attrs = {
        "kernel": pair(args["kernel_size"]),
        "stride": pair(args["stride"] or args["kernel_size"]),
        "padding": pair(args["padding"]),
        "dilation": pair(args["dilation"]),
        "ceil_mode": bool(args["ceil_mode"]),
    }
    return builder.emit(call, "max_pool2d", [builder.read(args["self"])], attrs)


def avg_pool2d(builder: GraphBuilder, call: Call) -> Value:
    """Return an average pool.

    Raises:
        UnsupportedError: A divisor of its own.
    """
    args = call.args
    x = builder.read(args["self"])
    kernel, padding = pair(args["kernel_size"]), pair(args["padding"])
    stride = pair(args["stride"] or args["kernel_size"])
    if args["divisor_override"] is not None:
        raise UnsupportedError(f"divisor_override={args['divisor_override']}, expected None.")
    attrs: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
    attrs["count_include_pad"] = bool(args["count_include_pad"]) or padding == (0, 0)
    sizes = zip(builder.own_shape(x)[1:], kernel, stride, padding, strict=False)
    if args["ceil_mode"] and any(pool_output_size(*a) != pool_output_size(*a, ceil=True) for a in sizes):
        attrs["ceil_mode"] = True
    return builder.emit(call, "avg_pool2d", [x], attrs)


def _emit_avg_pool(builder: GraphBuilder, call: Call, x: str, kernel: tuple[int, int]) -> Value:
    attrs = {"kernel": kernel, "stride": kernel, "padding": (0, 0), "count_include_pad": True}
    return builder.emit(call, "avg_pool2d", [x], attrs)


def adaptive_avg_pool2d(builder: GraphBuilder, call: Call) -> Value:
    """Return an average pool whose windows fit the output size.

    Raises:
        UnsupportedError: Windows of different sizes.
    """
    x = builder.read(call.args["self"])
    shape, wanted = builder.own_shape(x), pair(call.args["output_size"])
    if len(shape) != 3 or shape[1] % wanted[0] or shape[2] % wanted[1]:
        raise UnsupportedError(
            f"pools [N, {', '.join(map(str, shape))}] to {wanted} with windows of different sizes; "
            "expected an output size that divides the input's."
        )
    kernel = (shape[1] // wanted[0], shape[2] // wanted[1])
    return _emit_avg_pool(builder, call, x, kernel)


def mean(builder: GraphBuilder, call: Call) -> Value:
    """Return a global average pool.

    Raises:
        UnsupportedError: A mean over other dimensions.
    """
    x = builder.read(call.args["self"])
    shape = builder.own_shape(x)
    rank = len(shape) + 1
    if rank != 4 or {dim % rank for dim in call.args["dim"] or ()} != {2, 3}:
        raise UnsupportedError(
            f"averages dimensions {call.args['dim']} of rank {rank}; "
            "only a mean over H and W of [N, C, H, W] is supported."
        )
    pooled = _emit_avg_pool(builder, call, x, (shape[1], shape[2]))
    return pooled if call.args["keepdim"] else builder.reshape(call, pooled, (pooled.batch, shape[0]))
