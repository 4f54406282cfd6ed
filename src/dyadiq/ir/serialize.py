"""Graph and IntegerProgram to one file and back, exactly.

Used by the pipeline, the CLI and `targets`; imports core and the data model, no torch.
Values, dtypes, scales and every order (nodes, tensors, parameters) come back as they were; sequences inside
node attributes come back as tuples. Container and hash: `core.artifact`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.artifact import canonical_json, read_artifact, write_artifact
from dyadiq.core.errors import ArtifactError, ConfigError, GraphError
from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import SPEC_VERSION, IntegerProgram

__all__ = [
    "graph_from_payload",
    "graph_sha256",
    "graph_to_payload",
    "load_graph",
    "load_program",
    "save_graph",
    "save_program",
    "tuples_from_lists",
]

GRAPH_SCHEMA = "dyadiq.graph/1"
PROGRAM_SCHEMA = "dyadiq.program/1"

_Path = str | os.PathLike[str]
_Arrays = Mapping[str, NDArray[Any]]
_T = TypeVar("_T")


def graph_to_payload(graph: Graph) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a graph as a JSON object and arrays (``param.<name>`` and ``scale.<tensor>``).

    Example:
        >>> x, y = TensorInfo((2,)), TensorInfo((3,))
        >>> node = Node("fc", "linear", ("x", "fc.weight"), "fc")
        >>> graph = Graph("float", ("x",), ("fc",), (node,), {"x": x, "fc": y}, {"fc.weight": np.ones((3, 2))})
        >>> payload, arrays = graph_to_payload(graph)
        >>> payload["nodes"][0]["op"], list(arrays), graph_from_payload(payload, arrays).nodes == graph.nodes
        ('linear', ['param.fc.weight'], True)
    """
    arrays = {f"param.{name}": np.asarray(value) for name, value in graph.params.items()}
    arrays |= {f"scale.{name}": np.asarray(i.scale) for name, i in graph.tensors.items() if i.scale is not None}
    payload = {
        "dialect": graph.dialect,
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "nodes": [
            {
                "name": node.name,
                "op": node.op,
                "inputs": list(node.inputs),
                "output": node.output,
                "attrs": dict(node.attrs),
                "source": node.source,
            }
            for node in graph.nodes
        ],
        "tensors": [
            {
                "name": name,
                "shape": list(info.shape),
                "type": None if info.qtype is None else str(info.qtype),
                "zero_point": info.zero_point,
            }
            for name, info in graph.tensors.items()
        ],
        "params": list(graph.params),
        "param_types": [[name, str(qtype)] for name, qtype in graph.param_types.items()],
        "meta": dict(graph.meta),
    }
    return payload, arrays


def graph_from_payload(payload: Mapping[str, Any], arrays: _Arrays) -> Graph:
    """Return the graph of `graph_to_payload`; the caller turns its errors into those of a file.

    Raises:
        KeyError: A key or array is missing.
    """
    return Graph(
        dialect=payload["dialect"],
        inputs=tuple(payload["inputs"]),
        outputs=tuple(payload["outputs"]),
        nodes=tuple(
            Node(n["name"], n["op"], tuple(n["inputs"]), n["output"], tuples_from_lists(n["attrs"]), n["source"])
            for n in payload["nodes"]
        ),
        tensors={
            t["name"]: TensorInfo(
                shape=tuple(t["shape"]),
                qtype=None if t["type"] is None else QType.parse(t["type"]),
                scale=arrays.get(f"scale.{t['name']}"),
                zero_point=t["zero_point"],
            )
            for t in payload["tensors"]
        },
        params={name: arrays[f"param.{name}"] for name in payload["params"]},
        param_types={name: QType.parse(text) for name, text in payload["param_types"]},
        meta=payload["meta"],
    )


def graph_sha256(graph: Graph) -> str:
    """Return a hash of a graph: of its structure, what is known of its tensors, and its parameters.

    Example:
        >>> graph = Graph("float", (), (), (), {}, {"w": np.ones(2)})
        >>> graph_sha256(graph) == graph_sha256(graph.replace(params={"w": np.zeros(2)}))
        False
    """
    payload, arrays = graph_to_payload(graph)
    digest = hashlib.sha256(canonical_json(payload).encode("ascii"))
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_graph(path: _Path, graph: Graph) -> str:
    """Store a graph of either dialect; return its hash.

    Raises:
        ArtifactError: An attribute or array cannot be stored.
        StorageError: The disk is full or not writable.
    """
    payload, arrays = graph_to_payload(graph)
    return write_artifact(path, GRAPH_SCHEMA, payload, arrays)


def load_graph(path: _Path) -> Graph:
    """Read a graph.

    Raises:
        ArtifactError: Damaged file, wrong hash, or not a graph.
    """
    payload, arrays = read_artifact(path, GRAPH_SCHEMA)
    return _decode(path, "graph", lambda: graph_from_payload(payload, arrays))


def save_program(path: _Path, program: IntegerProgram) -> str:
    """Store an integer program with its provenance; return its hash.

    Raises:
        ArtifactError: An attribute or array cannot be stored.
        StorageError: The disk is full or not writable.
    """
    graph, arrays = graph_to_payload(program.graph)
    payload = {"spec_version": program.spec_version, "provenance": dict(program.provenance), "graph": graph}
    return write_artifact(path, PROGRAM_SCHEMA, payload, arrays)


def load_program(path: _Path) -> IntegerProgram:
    """Read an integer program.

    Raises:
        ArtifactError: Damaged file, wrong hash, not a program, or one of a newer specification.
    """
    payload, arrays = read_artifact(path, PROGRAM_SCHEMA)
    program = _decode(
        path,
        "integer program",
        lambda: IntegerProgram(
            graph_from_payload(payload["graph"], arrays), payload["spec_version"], payload["provenance"]
        ),
    )
    if not 1 <= program.spec_version <= SPEC_VERSION:
        raise ArtifactError(
            f"{path}: the program follows version {program.spec_version} of the integer specification, this Dyadiq "
            f"implements versions up to {SPEC_VERSION}. Upgrade Dyadiq, or lower the network again."
        )
    return program


def tuples_from_lists(value: Any) -> Any:
    """Return a JSON value with lists as tuples, all the way down.

    Example:
        >>> tuples_from_lists({"stride": [1, 2]})
        {'stride': (1, 2)}
    """
    if isinstance(value, dict):
        return {key: tuples_from_lists(item) for key, item in value.items()}
    return tuple(tuples_from_lists(item) for item in value) if isinstance(value, list) else value


def _decode(path: _Path, noun: str, decode: Callable[[], _T]) -> _T:
    """Run a decoder, naming the file where it fails.

    Raises:
        ArtifactError: The payload is not what the noun needs.
    """
    try:
        return decode()
    except KeyError as err:
        raise ArtifactError(f"{path}: not a valid {noun}: {err} is missing. Make the file again.") from err
    except (ConfigError, GraphError, TypeError, ValueError, AttributeError) as err:
        raise ArtifactError(f"{path}: not a valid {noun}: {err} Make the file again.") from err
