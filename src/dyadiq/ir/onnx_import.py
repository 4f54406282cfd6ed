"""Import: from an ONNX file of a float network to a float Graph that computes the same.

The counterpart of `ir.capture` for networks that come as files, from torch's exporters or others. Nodes are turned into
the calls of torch that they mean (`onnx_import_ops`), so that the rules of capture, their checks and their reasons are
those of one place; no torch is imported. Constants that only say shapes are computed; the batch is dimension 0 of every
input, whatever size the file gives it.

Needs the package onnx only; nothing of the file is executed. That the graph computes what the file says is tested
against onnxruntime (tests/unit/ir/test_onnx_import.py), not at each import.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dyadiq.core.errors import CaptureError, UnknownNameError
from dyadiq.ir.capture_builder import GraphBuilder, Ref
from dyadiq.ir.check import check_graph
from dyadiq.ir.graph import Graph
from dyadiq.ir.onnx_file import (
    MAX_ELEMENTS,
    DamagedError,
    attributes,
    constant_node,
    load_onnx,
    made_twice,
    needed_nodes,
    read_constant,
)
from dyadiq.ir.onnx_import_constants import computed_constant
from dyadiq.ir.onnx_import_gelu import with_gelus
from dyadiq.ir.onnx_import_network import Network, OnnxNode, plain_name
from dyadiq.ir.onnx_import_ops import OPERATORS
from dyadiq.ir.onnx_import_orders import in_order

__all__ = ["import_onnx", "is_quantized_onnx"]

_DOMAINS = ("", "ai.onnx")
_TYPES = {1: "torch.float32", 10: "torch.float32", 11: "torch.float64"}  # of onnx.TensorProto; float16 is widened
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "Quant", "BipolarQuant", "Trunc")
_ENDS = ("Softmax", "LogSoftmax", "Sigmoid", "ArgMax", "TopK")


def import_onnx(model: str | os.PathLike[str] | bytes | Any, *, outputs: Sequence[str] = ()) -> Graph:
    """Return the Graph of a float network that is an ONNX file, for any batch size.

    Args:
        model: A file, its bytes, or an ONNX ``ModelProto``. Constants may lie in a file beside it, in its folder.
        outputs: Names of tensors to end at, if not at the model's outputs; e.g. the tensor before a Softmax.

    Raises:
        ArtifactError: Not an ONNX file, or a damaged one.
        CaptureError: Operators, constants or shapes that a Graph cannot hold; all of them are listed, with their nodes.
        UnknownNameError: No such tensor.
        MissingDependencyError: The package onnx is absent.
        GraphError: The graph is illegal, which is a bug of the import.

    Shapes:
        Inputs ``[N, features]`` or ``[N, C, H, W]``, all sizes but N given.

    Example:
        >>> from onnx import TensorProto, helper
        >>> x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in "xy")
        >>> weight = helper.make_tensor("fc.weight", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
        >>> nodes = [
        ...     helper.make_node("Gemm", ["x", "fc.weight"], ["h"], transB=1), helper.make_node("Relu", ["h"], ["y"])
        ... ]
        >>> graph = import_onnx(helper.make_model(helper.make_graph(nodes, "net", [x], [y], [weight])))
        >>> [(node.name, node.op, node.inputs) for node in graph.nodes]
        [('fc', 'linear', ('x', 'fc.weight')), ('y', 'relu', ('fc',))]
    """
    proto, where = load_onnx(model)
    graph = proto.graph
    folder = Path(model).parent if isinstance(model, (str, os.PathLike)) else None
    made = {name: node for node in graph.node for name in node.output}
    wanted = list(dict.fromkeys(outputs or [o.name for o in graph.output]))
    for name in wanted:
        if name not in made and outputs:
            raise UnknownNameError("tensor", name, made)
    net = Network(GraphBuilder(where, _input_type(graph)))
    for line in made_twice(graph):
        net.problem("graph", line)
    for tensor in graph.initializer:
        try:
            net.constants[tensor.name] = read_constant(tensor, folder)
        except DamagedError as error:
            net.problem(f"constant {tensor.name}", str(error))
    _read_inputs(net, graph)
    for node in with_gelus(needed_nodes(graph, wanted), net.constants, wanted):
        _read_node(net, node, folder)
    for name in wanted:
        if name not in net.known and name not in net.failed:
            net.problem(f"output {name}", "no node makes it")
        elif name in net.orders:
            net.problem(
                f"output {name}", "its axes are in another order than the network's. Leave out the last transpose"
            )
    ends = [Ref(name) for name in wanted if name in net.known and name not in net.constants and name not in net.orders]
    if not ends and not net.failed:
        net.problem("graph", "it has no outputs that depend on its inputs")
    meta = {"model": Path(where).stem, "source": "onnx", "producer": str(proto.producer_name)}
    result = net.builder.finish(ends, meta)
    check_graph(result)
    return result


def is_quantized_onnx(model: str | os.PathLike[str] | bytes | Any) -> bool:
    """Return whether a model holds quantizers: then it is one for `ir.qonnx_import`.

    Raises:
        ArtifactError: Not an ONNX file, or a damaged one.
        MissingDependencyError: The package onnx is absent.
    """
    proto, _ = load_onnx(model)
    return any(node.op_type in _QUANTIZERS for node in proto.graph.node)


def _input_type(graph: Any) -> str:
    """Return the type of activations: that of the first input that is no constant, float32 if there is none."""
    constants = {tensor.name for tensor in graph.initializer}
    types = [value.type.tensor_type.elem_type for value in graph.input if value.name not in constants]
    return _TYPES.get(types[0] if types else 1, "torch.float32")


def _read_inputs(net: Network, graph: Any) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        dims = [int(d.dim_value) or d.dim_param or "?" for d in tensor.shape.dim]
        sizes = [d for d in dims[1:] if isinstance(d, int) and d > 0]
        n_elements = 1
        for size in sizes:
            n_elements *= size
        where = f"input {value.name}"
        if _TYPES.get(tensor.elem_type) != net.builder.dtype:
            net.problem(where, "its type is not that of a float32 (or float64) network. Export the model in float32")
        elif len(sizes) != len(dims) - 1 or not sizes or n_elements > MAX_ELEMENTS:
            net.problem(
                where,
                f"its shape is {dims}; expected [N, features] or [N, C, H, W] with numbers for all but N, of at most "
                f"{MAX_ELEMENTS} elements",
            )
        else:
            net.builder.add_input(value.name, ("N", *sizes))
            net.known.add(value.name)
            if isinstance(dims[0], int):
                net.batches.add(dims[0])
            continue
        net.failed.add(value.name)


def _read_node(net: Network, node: Any, folder: Path | None) -> None:
    outputs = [name for name in node.output if name]
    if not outputs:
        return
    op = str(node.op_type)
    try:
        attrs = attributes(node)
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        net.problem(f"{node.name or outputs[0]} ({op})", f"damaged attributes: {error}")
        net.failed.update(outputs)
        return
    entry = OnnxNode(op, outputs[0], tuple(node.input), attrs, _path(node))
    if any(net.builder.is_failed(Ref(name)) for name in node.input):
        net.failed.update(outputs)
        return
    missing = [name for name in node.input if name and name not in net.known and name not in net.constants]
    if missing:
        if not net.failed.intersection(missing):  # else what makes them has been noted
            net.problem(entry.where, f"reads {', '.join(missing)}, which nothing before it makes")
        net.failed.update(outputs)
        return
    try:
        if op == "Constant":
            constant: NDArray[Any] | None = constant_node(attrs, folder)
        else:
            constant = computed_constant(entry, net.constants, lambda name: net.shape(Ref(name)))
        if constant is not None:
            net.constants[outputs[0]] = constant
            net.known.add(outputs[0])
            return
        if node.domain not in _DOMAINS or op not in OPERATORS:
            raise DamagedError(_unknown(entry, str(node.domain)))
        if net.orders.keys() & set(entry.inputs):
            in_order(net, entry, OPERATORS[op])
        else:
            OPERATORS[op](net, entry)
    except (DamagedError, CaptureError) as error:
        net.fail(entry, str(error))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        net.fail(entry, f"malformed: {type(error).__name__}: {error}")


def _unknown(node: OnnxNode, domain: str) -> str:
    hint = ""
    if node.op in _ENDS:
        hint = f" End the network before it: outputs=[{node.inputs[0]!r}]" if node.inputs else ""
    if node.op in _QUANTIZERS:
        hint = " The model is quantized already: dyadiq import reads it, dyadiq.ir.qonnx_import.import_qonnx"
    return f"no such operator in the float dialect{f' (domain {domain})' if domain else ''}.{hint}"


def _path(node: Any) -> str:
    """Return where a node stands in the model: by its weight's name, else by its own, as exporters write it.

    Example:
        >>> from onnx import helper
        >>> _path(helper.make_node("Relu", ["x"], ["y"], name="/layer1/layer1.0/relu/Relu"))
        'layer1.0.relu'
        >>> _path(helper.make_node("Conv", ["x", "stem.0.weight"], ["y"], name="node_conv2d"))
        'stem.0'
    """
    for name in node.input[1:2]:
        if name.endswith(".weight"):
            return plain_name(name.removesuffix(".weight"))
    parts = [part for part in str(node.name).split("/") if part]
    if len(parts) > 1:  # of TorchScript: the modules on the way, then the operator
        path: list[str] = []
        for part in parts[:-1]:
            if path and part.startswith(f"{path[-1]}."):
                path.pop()
            path.append(part)
        return plain_name(".".join(path))
    return plain_name((str(node.name) or str(node.output[0])).removeprefix("node_"))
