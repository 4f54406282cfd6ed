"""Building and running ONNX models: the small common ground of the targets `onnx`, `qonnx` and `qdq`.

Knows names, constants and sessions; nothing of quantization. Packages `onnx` and `onnxruntime` are imported
when used (extra ``onnx``). The IR version is fixed low, so that older runtimes read what newer packages write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dyadiq.core.errors import ArtifactError
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import IntegerProgram
from dyadiq.targets.base import Codes, Problems, checked_feeds, require

__all__ = ["IR_VERSION", "OnnxBuilder", "OnnxModel", "find_unpaddable_pools", "output_facts", "pool_window"]

IR_VERSION = 10  # onnxruntime 1.18 and later; enough for opset 21
_BATCH = "N"


class OnnxBuilder:
    """Collects nodes and constants of one model; every tensor gets a unique name.

    Attributes:
        opset: Version of the standard operators.
    """

    def __init__(self, opset: int) -> None:
        """Start an empty model."""
        self.opset = opset
        self._onnx = require("onnx")
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._constants: dict[tuple[Any, ...], Any] = {}
        self._domains: set[str] = set()
        self._count = 0

    def _fresh(self, hint: str) -> str:
        self._count += 1
        return f"{hint}/{self._count}"

    def _elem_type(self, dtype: DTypeLike) -> int:
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def constant(self, values: Any, dtype: DTypeLike, hint: str = "const") -> str:
        """Return the name of an initializer with these values; equal constants are stored once."""
        array = np.ascontiguousarray(values, dtype=dtype).reshape(np.shape(values))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._onnx.numpy_helper.from_array(array, self._fresh(hint))
        return str(self._constants[key].name)

    def raw_constant(self, values: NDArray[Any], elem_type: int, hint: str) -> str:
        """Return the name of an initializer of a type numpy does not have (4-bit integers)."""
        tensor = self._onnx.helper.make_tensor(
            self._fresh(hint), elem_type, values.shape, values.astype(np.int64).ravel().tolist()
        )
        self._constants[tensor.name,] = tensor
        return str(tensor.name)

    def node(
        self, op: str, inputs: Sequence[str], *, hint: str, output: str | None = None, domain: str = "", **attrs: Any
    ) -> str:
        """Add a node and return the name of its output."""
        name = self._fresh(f"{hint}/{op}")
        result = output or name
        made = self._onnx.helper.make_node(op, list(inputs), [result], name=name, domain=domain, **attrs)
        self._nodes.append(made)
        self._domains.add(domain)
        return result

    def cast(self, tensor: str, dtype: DTypeLike, *, hint: str, output: str | None = None) -> str:
        """Add a Cast."""
        return self.node("Cast", [tensor], hint=hint, output=output, to=self._elem_type(dtype))

    def input(self, name: str, dtype: DTypeLike, shape: tuple[int, ...], batch: int | str = _BATCH) -> str:
        """Declare a model input ``[batch, *shape]``."""
        info = self._onnx.helper.make_tensor_value_info(name, self._elem_type(dtype), [batch, *shape])
        self._inputs.append(info)
        return name

    def output(self, name: str, dtype: DTypeLike, shape: tuple[int, ...], batch: int | str = _BATCH) -> str:
        """Declare a model output ``[batch, *shape]``."""
        info = self._onnx.helper.make_tensor_value_info(name, self._elem_type(dtype), [batch, *shape])
        self._outputs.append(info)
        return name

    def model(self, name: str, metadata: Mapping[str, Any], *, full_check: bool = True) -> Any:
        """Return the ModelProto, checked by onnx.

        Args:
            name: Name of the graph.
            metadata: JSON-able facts; stored under ``dyadiq.<key>``.
            full_check: Also run shape inference (off for models with operators of other domains).
        """
        helper = self._onnx.helper
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(self._domains - {""})]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="dyadiq")
        for key, value in metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = f"dyadiq.{key}", json.dumps(value, sort_keys=True)
        self._onnx.checker.check_model(model, full_check=full_check)
        return model


def output_facts(program: IntegerProgram) -> dict[str, Any]:
    """Return scale and zero point of every program output, JSON-able: what a reader needs to get real values."""
    facts = {}
    for name in program.graph.outputs:
        info = program.graph.tensors[name]
        scale = np.asarray(1.0 if info.scale is None else info.scale, dtype=np.float64)
        facts[name] = {"scale": scale.tolist(), "zero_point": info.zero_point}
    return facts


def pool_window(graph: Graph, node: Node) -> tuple[list[int], list[int]]:
    """Return ONNX pads ``[h_begin, w_begin, h_end, w_end]`` of a max_pool2d and how far its last window reaches.

    End pads reach exactly as far as the last window does, which makes ``ceil_mode`` explicit: runtimes disagree on it.
    """
    a = node.attrs
    in_hw, out_hw = (graph.tensors[name].shape[1:] for name in (node.inputs[0], node.output))
    windows = zip(out_hw, a["stride"], a["dilation"], a["kernel"], strict=True)
    reach = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in windows]
    end = [max(0, r - n - p) for r, n, p in zip(reach, in_hw, a["padding"], strict=True)]
    return [*a["padding"], *end], reach


def find_unpaddable_pools(graph: Graph, problems: Problems) -> None:
    """Note every max_pool2d whose pads reach beyond its kernel, which runtimes refuse."""
    for node in graph.nodes:
        if node.op == "max_pool2d":
            pads, _ = pool_window(graph, node)
            kernel = [*node.attrs["kernel"], *node.attrs["kernel"]]
            if any(p >= k for p, k in zip(pads, kernel, strict=True)):
                reason = f"pads {pads} reach beyond kernel {kernel[:2]}. Use ceil_mode=False, or a smaller dilation"
                problems.add(node, reason)


class OnnxModel:
    """A model file in onnxruntime on one CPU thread.

    Raises:
        ArtifactError: onnxruntime refuses the file.
    """

    def __init__(self, file: Path) -> None:
        """Load the file.

        Raises:
            ArtifactError: onnxruntime refuses the file.
        """
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        errors = runtime.capi.onnxruntime_pybind11_state
        try:
            self._session = runtime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
        except (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph, errors.NotImplemented) as error:
            raise ArtifactError(f"{file}: onnxruntime cannot load it: {error}") from error
        inputs = self._session.get_inputs()
        self.shapes = {i.name: tuple(i.shape[1:]) for i in inputs}
        self._dtypes = {i.name: np.dtype({"tensor(double)": "f8", "tensor(float)": "f4"}[i.type]) for i in inputs}
        stored = self._session.get_modelmeta().custom_metadata_map
        self.metadata = {k.removeprefix("dyadiq."): json.loads(v) for k, v in stored.items() if k.startswith("dyadiq.")}

    def run(self, inputs: Mapping[str, NDArray[Any]], chunk: int = 256) -> dict[str, NDArray[Any]]:
        """Return outputs by name for inputs ``[N, ...]``; chunks bound memory and change no result."""
        feeds, count = checked_feeds(self.shapes, inputs)
        names = [o.name for o in self._session.get_outputs()]
        parts = []
        for start in range(0, count, chunk):
            fed = {k: v[start : start + chunk].astype(self._dtypes[k]) for k, v in feeds.items()}
            parts.append(self._session.run(names, fed))
        return {name: np.concatenate([p[i] for p in parts]) for i, name in enumerate(names)}

    def run_codes(self, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Return outputs as int64 codes."""
        return {name: values.astype(np.int64) for name, values in self.run(inputs).items()}
