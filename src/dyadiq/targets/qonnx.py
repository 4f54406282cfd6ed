"""QONNX: float graphs with Quant nodes, for FPGA flows; compared in the qonnx executor.

Used through `TARGETS["qonnx"]`. The mode is chosen by the program (see `qonnx_graph` for what each emits):

    pow2    every scale and multiplier is a power of two and every zero point 0: real values, the form that
            fixed-point tools import exactly; codes are outputs divided by their scale
    dyadic  anything else: integers in float tensors, multipliers as constants m / 2^e; outputs are codes

The executor computes in float32, so integers are proven only while every sum and product stays below 2^24 steps.
`unproven` lists the nodes where that does not hold; `write` writes them with a note. It is compared from on-grid
inputs. Per-channel weight scales are fine in the executor; hls4ml 1.3 takes them on Conv only (noted by `check`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ArtifactError, VerificationError
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.proof import Bound, prove
from dyadiq.targets.base import Codes, Problems, Target, checked_feeds, require, save_bytes
from dyadiq.targets.onnx_graph import find_unpaddable_pools
from dyadiq.targets.qonnx_graph import as_pow2, build_qonnx, rounding_steps

__all__ = ["QonnxTarget", "pow2_obstacles"]

_FLOAT32_STEPS = 1 << 24
_INPUT_STEPS = 1 << 20  # on-grid inputs through a float32 division by a scale that is no power of two
_MAX_BATCH = 1024
_MAX_ELEMENTS = 1 << 25  # of all tensors of a batch together: the executor keeps them all
_SCALED_ALIKE = ("add", "clip", "concat", "max_pool2d", "pad", "flatten")


class QonnxTarget(Target):
    """The target ``qonnx``."""

    name: ClassVar[str] = "qonnx"
    filename: ClassVar[str] = "model.qonnx.onnx"
    on_grid: ClassVar[bool] = True

    def check(self, program: IntegerProgram) -> list[str]:
        """Return the mode, why it is not pow2, and what the executor or importers may round.

        Raises:
            ExportError: A pooling window that ONNX cannot pad, or a lookup table.
            ProofError: A tensor may leave its declared type.
        """
        problems = Problems(self.name)
        find_unpaddable_pools(program.graph, problems)
        for node in program.graph.nodes:
            if node.op == "lookup":
                problems.add(node, "QONNX has no operator that looks codes up. Use relu or clamp, or target onnx")
        problems.raise_if_any()
        obstacles = pow2_obstacles(program)
        notes = [f"mode {'dyadic' if obstacles else 'pow2'}"]
        if obstacles:
            notes.append(f"not pow2 because of {len(obstacles.lines)} nodes, first {obstacles.lines[0]}")
        unproven = self.unproven(program)
        if unproven:
            notes.append(f"not proven exact in float32: {'; '.join(unproven.lines)}")
        if not obstacles:
            notes += _import_notes(program.graph)
        return notes

    def unproven(self, program: IntegerProgram) -> Problems:
        """Return every node whose sums or products may leave the integers that float32 holds."""
        bounds, problems = prove(program), Problems(self.name)
        dyadic = bool(pow2_obstacles(program))
        for node in program.graph.nodes:
            top, limit = _largest(program.graph, node, bounds, dyadic), _FLOAT32_STEPS
            if node.op == "quantize" and dyadic:
                limit = _INPUT_STEPS
            if top >= limit:
                problems.add(node, f"may reach {top} steps in float32, of which only those below {limit} are proven")
        return problems

    def write(self, program: IntegerProgram, path: Path) -> list[Path]:
        """Write the cleaned model, batch 1.

        Raises:
            ExportError: As `check`.
            StorageError: The disk is full or not writable.
        """
        notes = self.check(program)
        dyadic = bool(pow2_obstacles(program))
        wrapper = require("qonnx.core.modelwrapper").ModelWrapper
        model = wrapper(build_qonnx(program, dyadic=dyadic))
        model = require("qonnx.util.cleanup").cleanup_model(model)
        graph = program.graph
        scales = {name: 1.0 if dyadic else _scale(graph, name).tolist() for name in graph.outputs}
        quantizers = {n.inputs[0]: n.output for n in graph.nodes if n.op == "quantize"}
        facts = {
            "input_scales": {i: 1.0 if dyadic else _scale(graph, q).tolist() for i, q in quantizers.items()},
            "inputs": list(graph.inputs),
            "mode": "dyadic" if dyadic else "pow2",
            "notes": notes,
            "outputs": list(graph.outputs),
            "scales": scales,
            "spec_version": program.spec_version,
        }
        model.set_metadata_prop("dyadiq", json.dumps(facts, sort_keys=True))
        return [save_bytes(self.file(path), model.model.SerializeToString(deterministic=True))]

    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Run the file in the qonnx executor, in batches.

        Raises:
            ArtifactError: No such file, or none of ours.
            DataError: Inputs missing, or of the wrong shape.
            VerificationError: The executor left the grid of integers.
        """
        runner = _Runner(self.existing_file(path))
        values = runner.run(inputs, [o.name for o in runner.model.graph.output])
        facts = runner.facts
        return {n: _codes(n, v, facts["scales"][n]) for n, v in zip(facts["outputs"], values, strict=True)}

    def input_codes(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Return what the input Quant nodes make of raw inputs.

        Raises:
            ArtifactError: No such file, or none of ours.
            DataError: Inputs missing, or of the wrong shape.
            VerificationError: The executor left the grid of integers.
        """
        runner = _Runner(self.existing_file(path))
        values = runner.run(inputs, [runner.input_quantizer(i.name) for i in runner.model.graph.input])
        scales = runner.facts["input_scales"]
        return {n: _codes(n, v, scales[n]) for n, v in zip(runner.facts["inputs"], values, strict=True)}


def pow2_obstacles(program: IntegerProgram) -> Problems:
    """Return every node that keeps a program out of mode pow2: a scale, multiplier, zero point or group factor."""
    graph, problems = program.graph, Problems("qonnx")
    for node in graph.nodes:
        for reason in _obstacles(graph, node):
            problems.add(node, reason)
    return problems


def _obstacles(graph: Graph, node: Node) -> list[str]:
    info, found = graph.tensors[node.output], []
    if info.scale is None or as_pow2(info.scale) is None:
        return [f"scale {np.ravel(_scale(graph, node.output))[0]} is no power of two"]
    if info.zero_point or node.attrs.get("zero_point") or node.attrs.get("pad_value"):
        found.append("zero point is not 0")
    if node.op in ("conv2d", "linear") and len(node.inputs) > 3:
        offset = np.asarray(graph.params[node.inputs[3]])
        if offset.any() or len(node.inputs) > 4:
            found.append("weights with zero points or group factors")
    if node.op == "sum_pool2d" and int(graph.params[node.inputs[1]]):
        found.append("bias of the pool is not 0")
    if node.op in _SCALED_ALIKE and any((_scale(graph, i) != info.scale).any() for i in node.inputs):
        found.append("inputs and output have different scales")
    if node.op == "requantize":
        multiplier, shift = (np.asarray(graph.params[i]) for i in node.inputs[1:3])
        if as_pow2(multiplier) is None:
            found.append("multiplier is no power of two")
        elif info.qtype and info.qtype.bipolar:
            pass  # only the sign counts
        elif (_scale(graph, node.inputs[0]) * 2.0**shift / multiplier != info.scale).any():
            found.append("scales of input and output disagree with the multiplier")
    return found


def _scale(graph: Graph, tensor: str) -> NDArray[np.float64]:
    scale = graph.tensors[tensor].scale
    return np.asarray(np.nan if scale is None else scale, dtype=np.float64)


def _largest(graph: Graph, node: Node, bounds: Mapping[str, Bound], dyadic: bool) -> int:
    """Return the largest magnitude, in steps, of anything the executor computes for a node."""
    bound = bounds[node.output]
    top = int(np.max(bound.product if dyadic else bound.partial))
    if node.op == "quantize":
        top += abs(graph.tensors[node.output].zero_point)
    if node.op == "clip":
        top = int(bounds[node.inputs[0]].partial.max())
    if node.op == "requantize" and not dyadic:
        top = int((bounds[node.inputs[0]].partial + rounding_steps(graph.params, node)).max())
    return top + abs(int(node.attrs.get("zero_point", 0)))


def _import_notes(graph: Graph) -> list[str]:
    wide = [n.name for n in graph.nodes if n.op == "linear" and _scale(graph, n.output).size > 1]
    return [f"hls4ml cannot import per-channel scales on MatMul: {', '.join(wide)}"] if wide else []


def _codes(name: str, values: NDArray[Any], scale: Any) -> NDArray[np.int64]:
    """Return values divided by their scale ``[]`` or ``[C]``, a power of two in both modes, so nothing is rounded.

    Raises:
        VerificationError: A value is no multiple of its scale: the executor left the grid.
    """
    step = np.asarray(scale, dtype=np.float64)
    if step.ndim == 1:
        step = step.reshape(-1, *([1] * (values.ndim - 2)))
    codes = values.astype(np.float64) / step
    off = codes != np.rint(codes)
    if off.any():
        raise VerificationError(f"qonnx: {int(off.sum())} values of {name!r} are off their grid, e.g. {codes[off][0]}.")
    return codes.astype(np.int64)


class _Runner:
    """A QONNX file, run in batches: the executor costs milliseconds a node, whatever the batch.

    Raises:
        ArtifactError: Not an ONNX file, or none of ours.
    """

    def __init__(self, file: Path) -> None:
        broken = require("google.protobuf.message").DecodeError
        try:
            proto = require("onnx").load_model_from_string(file.read_bytes())
        except broken as error:
            raise ArtifactError(f"{file}: not an ONNX file, or a damaged one: {error}. Write it again.") from error
        self.model = require("qonnx.core.modelwrapper").ModelWrapper(proto)
        stored = self.model.get_metadata_prop("dyadiq")
        if stored is None:
            raise ArtifactError(f"{file}: it was not written by Dyadiq (no 'dyadiq' metadata). Write it again.")
        self.facts = json.loads(stored)

    def input_quantizer(self, tensor: str) -> str:
        """Return the output of the Quant node that an input ends in."""
        for _ in range(5):  # at most Div, Add, Max, Min, Quant
            node = self.model.find_consumer(tensor)
            tensor = node.output[0]
            if node.op_type in ("Quant", "BipolarQuant"):
                break
        return str(tensor)

    def run(self, inputs: Mapping[str, NDArray[Any]], tensors: list[str]) -> list[NDArray[Any]]:
        """Return tensors of the model for inputs ``[N, ...]`` by their program names."""
        names = dict(zip(self.facts["inputs"], (i.name for i in self.model.graph.input), strict=True))
        shapes = {name: tuple(self.model.get_tensor_shape(own)[1:]) for name, own in names.items()}
        feeds, count = checked_feeds(shapes, inputs)
        elements = sum(int(np.prod(self.model.get_tensor_shape(v.name))) for v in self.model.graph.value_info)
        batch = max(1, min(count, _MAX_BATCH, _MAX_ELEMENTS // max(elements, 1)))
        model = self._with_batch(batch)
        execute = require("qonnx.core.onnx_exec").execute_onnx
        parts: list[list[NDArray[Any]]] = []
        for start in range(0, count, batch):
            # The last chunk is filled up with its last sample: shapes are fixed in the executor.
            at = np.minimum(np.arange(start, start + batch), count - 1)
            context = execute(model, {own: feeds[n][at].astype(np.float32) for n, own in names.items()}, True)
            parts.append([context[t][: count - start] for t in tensors])
        return [np.concatenate([part[i] for part in parts]) for i in range(len(tensors))]

    def _with_batch(self, batch: int) -> Any:
        graph = self.model.graph
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        del graph.value_info[:]
        return self.model.transform(require("qonnx.transformation.infer_shapes").InferShapes())
