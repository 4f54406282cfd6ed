"""Operators that slide a window: convolutions and pools, with pads as ONNX has them. Used by `onnx_import_ops` only."""

from __future__ import annotations

from collections.abc import Sequence

from dyadiq.ir.capture_builder import Ref
from dyadiq.ir.onnx_file import DamagedError
from dyadiq.ir.onnx_import_network import Network, OnnxNode
from dyadiq.ir.shapes import pool_output_size

__all__ = ["average_pool", "conv", "max_pool"]


def conv(net: Network, node: OnnxNode) -> None:
    """A convolution.

    Raises:
        DamagedError: Windows or pads that a Graph cannot hold.
    """
    weight, bias = net.constant(node, 1, "its weight"), net.constant(node, 2, "its bias")
    if weight is None or weight.ndim != 4:
        raise DamagedError("only two-dimensional convolution is supported, with a weight [O, I, H, W]")
    x = net.x(node)
    stride, dilation = node.ints("strides", (1, 1)), node.ints("dilations", (1, 1))
    x, padding = _padded(net, node, x, weight.shape[2:], stride, dilation)
    net.call(
        node,
        "aten.conv2d.default",
        {
            "input": x,
            "weight": net.param(node.inputs[1], weight),
            "bias": None if bias is None else net.param(node.inputs[2], bias),
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": int(node.attrs.get("group", 1)),
        },
    )


def _pads(
    net: Network, node: OnnxNode, x: Ref, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """Return top, left, bottom and right.

    Raises:
        DamagedError: They are no four numbers >= 0.
    """
    mode = node.attrs.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for size, k, s, d in zip(net.shape(x)[1:], kernel, stride, dilation, strict=True):
            total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            small, large = total // 2, total - total // 2
            begins.append(small if mode == "SAME_UPPER" else large)
            ends.append(large if mode == "SAME_UPPER" else small)
        return (*begins, *ends)
    pads = node.ints("pads", (0, 0, 0, 0)) if mode == "NOTSET" else (0, 0, 0, 0)
    if len(pads) != 4 or min(pads) < 0:
        raise DamagedError(f"pads {pads}, expected four numbers >= 0")
    return pads


def _padded(
    net: Network, node: OnnxNode, x: Ref, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Ref, tuple[int, int]]:
    """Return the input and the padding of both sides; pads that differ become zeros around the input."""
    top, left, bottom, right = _pads(net, node, x, kernel, stride, dilation)
    if (top, left) == (bottom, right):
        return x, (top, left)
    pad = (left, right, top, bottom)
    return net.call(node, "aten.pad.default", {"self": x, "pad": pad}, f"{node.output} padded"), (0, 0)


def _window(node: OnnxNode) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    kernel, stride = node.ints("kernel_shape", ()), node.ints("strides", (1, 1))
    dilation = node.ints("dilations", (1, 1))
    if not len(kernel) == len(stride) == len(dilation) == 2:
        raise DamagedError("a window that is not two-dimensional")
    return kernel, stride, dilation


def max_pool(net: Network, node: OnnxNode) -> None:
    """A max pool; padding is never a maximum.

    Raises:
        DamagedError: Windows or pads that a Graph cannot hold.
    """
    kernel, stride, dilation = _window(node)
    x = net.x(node)
    top, left, bottom, right = _pads(net, node, x, kernel, stride, dilation)
    ceil_mode = bool(node.attrs.get("ceil_mode", 0))
    if (top, left) != (bottom, right):
        ceil_mode = _ceils(net.shape(x)[1:], kernel, stride, dilation, (top, left), (bottom, right))
    args = {"kernel_size": kernel, "stride": stride, "padding": (top, left), "dilation": dilation}
    net.call(node, "aten.max_pool2d.default", {"self": x, **args, "ceil_mode": ceil_mode})


def _ceils(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int],
    begin: Sequence[int], end: Sequence[int],
) -> bool:  # fmt: skip
    """Return whether pads that differ at the end mean ``ceil_mode``: padding is never a maximum, only windows count.

    Raises:
        DamagedError: The number of windows is that of no equal pads.
    """
    wanted = [
        (n + b + e - d * (k - 1) - 1) // s + 1
        for n, k, s, d, b, e in zip(size, kernel, stride, dilation, begin, end, strict=True)
    ]
    for ceil in (False, True):
        found = [
            pool_output_size(n, k, s, b, d, ceil=ceil)
            for n, k, s, d, b in zip(size, kernel, stride, dilation, begin, strict=True)
        ]
        if found == wanted:
            return ceil
    raise DamagedError(f"pads {(*begin, *end)} that differ between begin and end")


def average_pool(net: Network, node: OnnxNode) -> None:
    """An average pool.

    Raises:
        DamagedError: Windows or pads that a Graph cannot hold.
    """
    kernel, stride, dilation = _window(node)
    x = net.x(node)
    counted = bool(node.attrs.get("count_include_pad", 0))
    top, left, bottom, right = _pads(net, node, x, kernel, stride, dilation)
    padding = (top, left)
    if padding != (bottom, right):
        if not counted:
            raise DamagedError(f"pads {(top, left, bottom, right)} that differ between begin and end")
        x, padding = _padded(net, node, x, kernel, stride, dilation)
    if dilation != (1, 1):
        raise DamagedError(f"dilations {dilation}, expected none")
    net.call(
        node,
        "aten.avg_pool2d.default",
        {
            "self": x,
            "kernel_size": kernel,
            "stride": stride,
            "padding": padding,
            "ceil_mode": bool(node.attrs.get("ceil_mode", 0)),
            "count_include_pad": counted,
            "divisor_override": None,
        },
    )
