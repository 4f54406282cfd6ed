"""Transposes of ONNX files, followed until they mean nothing: none is made. Used by `onnx_import` only.

A tensor whose axes a file has in another order is kept as it was, and its order remembered: a transpose back ends it,
functions of single values keep it, a linear layer behind a flatten takes its weights in that order. Where the file
moves axes of size 1 only, it is a reshape. What else reads such a tensor is refused.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from dyadiq.ir.capture_builder import Ref
from dyadiq.ir.onnx_file import DamagedError
from dyadiq.ir.onnx_import_network import Network, OnnxNode, Order, Rule

__all__ = ["in_order", "transpose"]

_KEEP = (
    "Cast", "Clip", "Dropout", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Relu", "Sigmoid", "Tanh",
)  # fmt: skip


def transpose(net: Network, node: OnnxNode) -> None:
    """Follow a transpose.

    Raises:
        DamagedError: It moves the batch.
    """
    name = node.inputs[0]
    order = net.orders.get(name, Order(name, tuple(range(len(net.shape(net.x(node)))))))
    rank = len(order.axes) + 1
    perm = node.ints("perm", range(rank)[::-1])
    if sorted(perm) != list(range(rank)) or perm[0] != 0:
        raise DamagedError(f"transposes by {list(perm)}, which moves the batch")
    if order.features:  # of a vector, which stays
        net.orders[node.output] = order
        net.known.add(node.output)
        return
    axes = tuple(order.axes[p - 1] for p in perm[1:])
    shape = net.builder.view(Ref(order.base)).shape
    if [a for a in axes if shape[a] > 1] == [a for a in range(len(shape)) if shape[a] > 1]:
        sizes = ("N", *(shape[a] for a in axes))
        net.call(node, "aten.view.default", {"self": Ref(order.base)}, "", sizes)
        return
    net.orders[node.output] = Order(order.base, axes)
    net.known.add(node.output)


def in_order(net: Network, node: OnnxNode, rule: Rule) -> None:
    """Apply a rule to what it reads in another order.

    Raises:
        DamagedError: It means something else there.
    """
    order = net.orders[next(name for name in node.inputs if name in net.orders)]
    if node.op == "Transpose":
        transpose(net, node)
    elif node.op in _KEEP:
        output = f"{node.output} in order"
        rule(net, replace(node, inputs=(order.base, *node.inputs[1:]), output=output))
        net.orders[node.output] = replace(order, base=output)
        net.known.add(node.output)
    elif node.op in ("Flatten", "Reshape") and len(order.axes) > 1:
        output = f"{node.output} in order"
        shape = net.builder.view(Ref(order.base)).shape
        rule(net, replace(node, inputs=(order.base, *node.inputs[1:]), output=output))
        if net.builder.view(Ref(output)).shape != (math.prod(shape),):
            raise DamagedError(
                f"reshapes a tensor with its axes in the order {_told(order)}; only flattening is supported"
            )
        places = np.arange(math.prod(shape)).reshape(shape).transpose(order.axes).ravel()
        net.orders[node.output] = Order(output, (0,), tuple(places.tolist()))
        net.known.add(node.output)
    elif node.op in ("Gemm", "MatMul") and order.features and node.inputs[0] in net.orders:
        net.features[order.base] = order.features
        rule(net, replace(node, inputs=(order.base, *node.inputs[1:])))
    else:
        raise DamagedError(
            f"reads a tensor with its axes in the order {_told(order)}. Export the network with its channels first; "
            "tf2onnx: --inputs-as-nchw"
        )


def _told(order: Order) -> Any:
    return ["N", *order.axes] if not order.features else "of a transposed tensor that was flattened"
