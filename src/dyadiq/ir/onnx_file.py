"""Reads ONNX files as data: checked before anything looks at their meaning, nothing of them is executed.

Used by `onnx_import` (float networks) and `qonnx_import` (quantized ones). Needs the package onnx only. Whatever the
bytes are, the outcome is a model or a typed error: names that are no text, constants larger than their data, data in
files outside the model's folder, nodes in a circle, names made twice.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ArtifactError, MissingDependencyError

__all__ = [
    "MAX_ELEMENTS",
    "DamagedError",
    "attributes",
    "constant_node",
    "load_onnx",
    "made_twice",
    "needed_nodes",
    "read_constant",
]

MAX_ELEMENTS = 1 << 28
_MAX_MODEL_BYTES = 1 << 31  # protobuf takes no larger ones


class DamagedError(Exception):
    """Why a constant cannot be read."""


def load_onnx(model: str | os.PathLike[str] | bytes | Any) -> tuple[Any, str]:
    """Return an ONNX ``ModelProto`` and what to call it in messages.

    Args:
        model: A file, its bytes, or a ``ModelProto``.

    Raises:
        ArtifactError: Not an ONNX file, or a damaged one.
        MissingDependencyError: The package onnx is absent.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError("onnx", "onnx") from error
    if isinstance(model, onnx.ModelProto):
        return model, "model"
    where = "model"
    if not isinstance(model, bytes):
        where = os.fspath(model)
        try:
            if Path(where).stat().st_size >= _MAX_MODEL_BYTES:
                raise ArtifactError(
                    f"{where}: larger than an ONNX file can be, 2 GB. Keep its data in a file beside it."
                )
            model = Path(where).read_bytes()
        except OSError as error:
            raise ArtifactError(f"{where}: cannot be read: {error.strerror}.") from error
    try:
        proto = onnx.load_model_from_string(model)
    except DecodeError as error:
        raise ArtifactError(f"{where}: not an ONNX file, or a damaged one: {error}.") from error
    if not proto.graph.node:
        raise ArtifactError(f"{where}: the ONNX file has no nodes. Is it an ONNX model?")
    named = [*proto.graph.input, *proto.graph.output, *proto.graph.initializer, *proto.graph.node]
    texts = [i.name for i in named]
    for node in proto.graph.node:
        texts += [node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute)]
    if not all(isinstance(text, str) for text in texts):  # protobuf gives bytes for what is not UTF-8
        raise ArtifactError(f"{where}: a damaged ONNX file: names that are no text.")
    return proto, where


def read_constant(tensor: Any, folder: Path | None = None) -> NDArray[Any]:
    """Return the numbers of a ``TensorProto``: real, finite, of its own type.

    Args:
        tensor: The constant.
        folder: That data outside the model must lie in; None: they must lie in the model.

    Raises:
        DamagedError: Too large, damaged, no real numbers, or data in a file that is not this folder's.
    """
    from onnx import numpy_helper

    if any(d < 0 for d in tensor.dims) or prod(tensor.dims) > MAX_ELEMENTS:
        raise DamagedError(f"its shape {list(tensor.dims)}")
    if tensor.external_data or tensor.data_location:
        tensor = _with_external_data(tensor, folder)
    try:
        given = np.asarray(numpy_helper.to_array(tensor))
        if given.dtype.kind in "cOSU":
            raise DamagedError(f"it holds values of type {given.dtype}, which are no real numbers")
        with np.errstate(all="ignore"):
            finite = bool(np.isfinite(given.astype(np.float64)).all())
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"its data are damaged: {error}") from error
    if not finite:
        raise DamagedError("it holds values that are not finite")
    return given


def _with_external_data(tensor: Any, folder: Path | None) -> Any:
    """Return a constant with the bytes of its file, which must be a plain one inside the model's folder.

    Raises:
        DamagedError: Anything else.
    """
    from onnx import TensorProto, helper

    if folder is None:
        raise DamagedError("its data lie in another file. Save the model in one file")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    root = folder.resolve()
    path = (root / location).resolve()
    if not location or Path(location).is_absolute() or root not in path.parents:
        raise DamagedError(f"its data lie in {location!r}, which is not inside the model's folder")
    try:
        offset = int(entries.get("offset", 0))
        n_bytes = prod(tensor.dims) * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        length = int(entries.get("length", n_bytes))
        if not path.is_file() or offset < 0 or length != n_bytes or offset + length > path.stat().st_size:
            raise DamagedError(f"its data, {length} bytes from {offset} of {location!r}, are not there")
        with path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"its data in {location!r} cannot be read: {error}") from error
    return TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=data, name=tensor.name)


def made_twice(graph: Any) -> list[str]:
    """Return a line for every name that more than one constant or node has; an input may have a constant's name."""
    names = [tensor.name for tensor in graph.initializer]
    names += [name for node in graph.node for name in node.output if name]
    given = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    counts = Counter([*names, *given])
    return [f"tensor {name}: made {count} times; names must be unique" for name, count in counts.items() if count > 1]


def needed_nodes(graph: Any, wanted: Iterable[str]) -> list[Any]:
    """Return the nodes that the wanted tensors depend on, in the file's order."""
    needed, kept = set(wanted), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]


def attributes(node: Any) -> dict[str, Any]:
    """Return the attributes of a node by name, texts as text."""
    from onnx import helper

    found = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return found


def constant_node(attrs: Mapping[str, Any], folder: Path | None = None) -> NDArray[Any]:
    """Return the numbers of a node ``Constant``.

    Raises:
        DamagedError: It has none.
    """
    if "value" in attrs:
        return read_constant(attrs["value"], folder)
    numbers: Sequence[Any] = [
        attrs[name] for name in ("value_float", "value_floats", "value_int", "value_ints") if name in attrs
    ]
    if len(numbers) != 1:
        raise DamagedError("a constant without a number")
    return np.asarray(numbers[0])
