"""Reads QONNX written by others (Brevitas, QKeras, HGQ, our own exporter) into an integer program.

Used by users and the command line. Needs the package onnx only; nothing of the file is executed. What the program
computes is the real arithmetic of QONNX, exactly: every scale is a rational number, every rounding is proven
(`qonnx_import_rounding`), also half to even, which costs a second rescale where ties can occur. What has no exact
integer form is refused, every node of it in one error.

Two things lie outside: executors of QONNX compute in float32, which rounds where scales are no powers of two; and
values of raw input data exactly between two codes, which the program rounds up (`docs/spec/integer-program.md`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import CaptureError, ConfigError, DyadiqError, UnknownNameError
from dyadiq.core.qtype import QType
from dyadiq.ir.check import check_graph
from dyadiq.ir.graph import TensorInfo
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.onnx_file import (
    DamagedError,
    attributes,
    constant_node,
    load_onnx,
    made_twice,
    needed_nodes,
    read_constant,
)
from dyadiq.ir.onnx_import_constants import computed_constant
from dyadiq.ir.onnx_import_network import OnnxNode
from dyadiq.ir.proof import prove
from dyadiq.ir.qonnx_import_build import MAX_CHANNELS, MAX_ELEMENTS, Affine, UnrepresentableError
from dyadiq.ir.qonnx_import_constants import Constant
from dyadiq.ir.qonnx_import_nodes import HANDLERS, finish
from dyadiq.ir.qonnx_import_reader import Call, Reader, Value

__all__ = ["import_qonnx"]

_DOMAINS = ("", "ai.onnx", "qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas", "com.microsoft")
_FUNCTIONS = ("Softmax", "LogSoftmax", "Sigmoid", "ArgMax", "Tanh", "TopK")


def import_qonnx(
    model: str | os.PathLike[str] | bytes | Any,
    *,
    outputs: Sequence[str] = (),
    input_types: Mapping[str, tuple[str, float]] | None = None,
    nearest: bool = False,
) -> IntegerProgram:
    """Return the integer program of a QONNX model, or of one with ONNX's own quantizers (QDQ).

    Args:
        model: A file, its bytes, or an ONNX ``ModelProto``.
        outputs: Names of tensors to end at, if not at the model's outputs; e.g. the tensor before a Softmax.
        input_types: Code type and scale of the data of inputs by name, e.g. ``{"x": ("int16", 2**-10)}``, for inputs
            that the model does not quantize itself. Data are rounded to that grid first.
        nearest: Whether nodes ``QuantizeLinear`` and sums whose scales, being arbitrary numbers, have no exact integer
            form may get a near one (`qonnx_import_linear`); a note names them.

    Returns:
        The program. ``provenance`` holds ``notes``, and ``outputs``: ONNX tensor to program tensor.

    Raises:
        ArtifactError: Not an ONNX file, or a damaged one.
        CaptureError: It cannot be expressed exactly; lists every node and the reason.
        ConfigError: A type given here is wrong.
        UnknownNameError: No such tensor or input.
        MissingDependencyError: The package onnx is absent.
    """
    proto, where = load_onnx(model)
    graph = proto.graph
    reader = Reader(nearest=nearest)
    problems: list[str] = []
    _read_constants(reader, graph, _folder(model), problems)
    _read_inputs(reader, graph, dict(input_types or {}), problems)
    problems += made_twice(graph)
    made = {name: node for node in graph.node for name in node.output}
    wanted = list(dict.fromkeys(outputs or [o.name for o in graph.output]))
    for name in wanted:
        if name not in made and outputs:
            raise UnknownNameError("tensor", name, made)
        if name not in made:
            problems.append(f"output {name}: no node makes it")
    failed: set[str] = set()
    for node in graph.node:
        for name in node.input:
            reader.readers.setdefault(name, []).append(node.op_type)
    for name in wanted:
        reader.readers.setdefault(name, []).append("output")
    for node in needed_nodes(graph, wanted):
        _read_node(reader, node, problems, failed)
    found: dict[str, str] = {}
    for name in wanted:
        if name in reader.values:
            try:
                found[name] = finish(reader, reader.values[name], name)
            except (UnrepresentableError, DyadiqError) as error:
                problems.append(f"output {name}: {error}")
    if problems or not found:
        listed = "".join(f"\n  {line}" for line in problems or ["it has no outputs"])
        raise CaptureError(f"{where}: {len(problems) or 1} parts cannot be expressed exactly in integers:{listed}")
    if reader.near:
        reader.note(
            f"{len(reader.near)} roundings have near integer forms, not exact ones: codes may differ by one where "
            f"values are within 2^-11 of a step of a tie: {', '.join(reader.near)}"
        )
    provenance = {"source": "qonnx", "producer": proto.producer_name, "notes": reader.notes, "outputs": found}
    program = reader.out.program(list(dict.fromkeys(found.values())), provenance)
    check_graph(program.graph)
    prove(program)
    return program


def _folder(model: Any) -> Path | None:
    """Return the folder of a model that is a file."""
    return Path(model).parent if isinstance(model, (str, os.PathLike)) else None


def _read_constants(reader: Reader, graph: Any, folder: Path | None, problems: list[str]) -> None:
    for tensor in graph.initializer:
        try:
            reader.values[tensor.name] = _constant(partial(read_constant, tensor, folder))
        except UnrepresentableError as error:
            problems.append(f"constant {tensor.name}: {error}")


def _constant(read: Callable[[], NDArray[Any]]) -> Constant:
    try:
        values = read()
        return Constant(values.astype(np.float64), dtype=values.dtype.name)
    except DamagedError as error:
        raise UnrepresentableError(str(error)) from error


def _read_inputs(reader: Reader, graph: Any, types: dict[str, tuple[str, float]], problems: list[str]) -> None:
    names = [i.name for i in graph.input if i.name not in reader.values]
    for name in types:
        if name not in names:
            raise UnknownNameError("input", name, names)
    for given in graph.input:
        if given.name in reader.values:
            continue
        dims = [int(d.dim_value) for d in given.type.tensor_type.shape.dim]
        shape = tuple(dims[1:])
        too_large = shape and (shape[0] > MAX_CHANNELS or prod(shape) > MAX_ELEMENTS)
        if len(shape) not in (1, 3) or any(d < 1 for d in shape) or too_large:
            problems.append(
                f"input {given.name}: shape {dims}; [N, features] or [N, C, H, W] is supported, with at most "
                f"{MAX_CHANNELS} channels and {MAX_ELEMENTS} elements"
            )
            continue
        reader.out.inputs.append(given.name)
        reader.out.tensors[given.name] = TensorInfo(shape)
        reader.values[given.name] = _input(reader, given.name, shape, types.get(given.name))


def _input(reader: Reader, name: str, shape: tuple[int, ...], declared: tuple[str, float] | None) -> Affine:
    zero, one = Fraction(0), Fraction(1)
    if declared is None:
        return Affine(shape, name, (one,), (zero,), given=name)
    qtype, scale = QType.parse(declared[0]), float(declared[1])
    if not 0 < scale < float("inf"):
        raise ConfigError(f"input_types: the scale of {name!r} must be positive and finite, got {scale}.")
    codes = reader.out.quantize(name, f"{name}.codes", qtype, scale, 0)
    return Affine(shape, codes, (Fraction(scale),), (zero,))


def _read_node(reader: Reader, node: Any, problems: list[str], failed: set[str]) -> None:
    where = f"{node.name or (node.output[0] if node.output else '?')} ({node.op_type})"
    if (constant := _computed(reader, node)) is not None:
        reader.values[node.output[0]] = constant
        return
    if node.domain not in _DOMAINS or (node.op_type not in HANDLERS and node.op_type != "Constant"):
        ends = node.op_type in _FUNCTIONS and len(node.input) > 0
        hint = f". End the program before it: outputs=[{node.input[0]!r}]" if ends else ""
        domain = f" of domain {node.domain}" if node.domain else ""
        problems.append(f"{where}: integer programs have no such operator{domain}{hint}")
        failed.update(node.output)
        return
    missing = [i for i in node.input if i and i not in reader.values]
    if missing:
        failed.update(node.output)
        if not failed.intersection(missing):  # else what makes them has been noted
            problems.append(f"{where}: reads {', '.join(missing)}, which nothing before it makes")
        return
    try:
        value = _call(reader, node)
    except (UnrepresentableError, DyadiqError) as error:
        problems.append(f"{where}: {error}")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        problems.append(f"{where}: malformed: {type(error).__name__}: {error}")
    else:
        reader.values[node.output[0]] = value
        return
    failed.update(node.output)


def _computed(reader: Reader, node: Any) -> Constant | None:
    """Return what a node makes of plain constants or of a shape, where that is no matter of a handler."""
    values = {n: reader.values[n] for n in node.input if n in reader.values}
    ours = node.op_type in HANDLERS and node.op_type not in ("Concat", "Slice")
    if ours or (node.op_type in HANDLERS and not all(isinstance(v, Constant) for v in values.values())):
        return None
    plain = {n: v.values.astype(v.dtype or np.float64) for n, v in values.items() if isinstance(v, Constant)}
    try:
        entry = OnnxNode(node.op_type, node.output[0], tuple(node.input), attributes(node), node.name)
        made = computed_constant(entry, plain, lambda name: reader.shape(name))
    except (DamagedError, UnrepresentableError, ArithmeticError, LookupError, TypeError, ValueError):
        return None  # it is told as an operator that there is not
    return None if made is None else Constant(made.astype(np.float64), dtype=made.dtype.name)


def _call(reader: Reader, node: Any) -> Value:
    attrs = attributes(node)
    if node.op_type == "Constant":
        return _constant(partial(constant_node, attrs))
    inputs = tuple(reader.values[i] if i else None for i in node.input)
    return HANDLERS[node.op_type](Call(reader, node.output[0], inputs, attrs))
