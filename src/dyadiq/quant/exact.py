"""Runs an IntegerProgram in torch: dot products in floating point, everything else in int64. Equals the reference.

Used by `QuantModule` in exact mode, by accuracy measurements and by `verify`. Fast enough for whole test sets.
float32 holds every integer up to 2**24 and float64 up to 2**53, so a sum of products is exact in any order wherever
the proof stays below that: each layer takes the narrower type that holds its partial sums, and a program that needs
more than 53 bits is refused. Written apart from `ir.reference`, to disagree where either is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the usual name)
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.errors import GraphError, ProofError
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import IntegerProgram, effective_weight
from dyadiq.ir.proof import Bound, prove
from dyadiq.ir.reference import named_inputs

__all__ = ["ExactExecutor", "run_exact"]

_EXACT = {torch.float32: 1 << 24, torch.float64: (1 << 53) - 1}
_CACHE_ELEMENTS = 1 << 19


def run_exact(
    program: IntegerProgram, inputs: NDArray[Any] | Mapping[str, NDArray[Any]], *, chunk_size: int | None = None
) -> dict[str, NDArray[np.int64]]:
    """Return the output codes of a program, computed in torch.

    Args:
        program: The program.
        inputs: As for `ir.reference.run_reference`.
        chunk_size: Samples at once, which changes no result; None: as many as keep the largest tensor in the cache.

    Raises:
        DataError: As `ir.reference.run_reference`.
        ProofError: An accumulator may leave 53 bits, where float64 would round.
    """
    executor = ExactExecutor(program)
    arrays = named_inputs(program.graph, inputs)
    n_samples = len(next(iter(arrays.values())))
    chunk_size = chunk_size or executor.chunk_size
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in program.graph.outputs}
    for start in range(0, n_samples, chunk_size):
        chunk = {k: torch.from_numpy(v[start : start + chunk_size]) for k, v in arrays.items()}
        for name, codes in executor(chunk).items():
            parts[name].append(codes.numpy())
    return {name: np.concatenate(chunks) for name, chunks in parts.items()}


class ExactExecutor:
    """A program prepared for repeated runs on tensors.

    Raises:
        ProofError: An accumulator may leave 53 bits.
    """

    def __init__(self, program: IntegerProgram) -> None:
        """Prove the program and turn its constants into tensors.

        Raises:
            ProofError: An accumulator may leave 53 bits.
        """
        self.graph: Graph = program.graph
        bounds = prove(program)
        for name, bound in bounds.items():
            if int(bound.partial.max()) > _EXACT[torch.float64]:
                raise ProofError(f"{name}: partial sums may leave 53 bits; the exact mode computes in float64.")
        self.weights: dict[str, Tensor] = {
            node.name: torch.from_numpy(effective_weight(self.graph, node)).to(_dot_type(bounds[node.output]))
            for node in self.graph.nodes
            if node.op in ("conv2d", "linear")
        }
        self.params = {name: torch.from_numpy(np.array(value)) for name, value in self.graph.params.items()}
        largest = max(math.prod(tensor.shape) for tensor in self.graph.tensors.values())
        self.chunk_size = max(1, _CACHE_ELEMENTS // largest)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return output name to int64 codes for float64 inputs by name."""
        values: dict[str, Tensor] = dict(inputs)
        with torch.no_grad():
            for node in self.graph.nodes:
                values[node.output] = self._run(node, [values[i] for i in node.inputs if i in values])
        return {name: values[name] for name in self.graph.outputs}

    def _run(self, node: Node, x: list[Tensor]) -> Tensor:
        a = node.attrs
        if node.op == "quantize":
            return self._quantize(node, x[0])
        if node.op == "conv2d":
            weight = self.weights[node.name]
            padded = _pad(x[0].to(weight.dtype), a["padding"], a["pad_value"])
            bias = self.params[node.inputs[2]].to(weight.dtype)
            stride, dilation = tuple(a["stride"]), tuple(a["dilation"])
            return F.conv2d(padded, weight, bias, stride, 0, dilation, a["groups"]).long()
        if node.op == "linear":
            weight = self.weights[node.name]
            return F.linear(x[0].to(weight.dtype), weight, self.params[node.inputs[2]].to(weight.dtype)).long()
        if node.op == "requantize":
            shape = (1, -1, *([1] * (x[0].ndim - 2)))
            multiplier, shift = (self.params[i].reshape(shape) for i in node.inputs[1:])
            rounding = torch.where(shift > 0, torch.ones_like(shift) << (shift - 1).clamp(min=0), 0)
            return self._saturate(node, (x[0] * multiplier + rounding) >> shift)
        if node.op == "clip":
            return self._saturate(node, x[0])
        if node.op == "add":
            return torch.stack(x).sum(dim=0)
        if node.op == "concat":
            return torch.cat(x, dim=1)
        if node.op == "max_pool2d":
            pooled = F.max_pool2d(
                x[0].double(),
                tuple(a["kernel"]),
                tuple(a["stride"]),
                tuple(a["padding"]),
                tuple(a["dilation"]),
                a["ceil_mode"],
            )
            return pooled.long()
        if node.op == "sum_pool2d":
            kernel = tuple(a["kernel"])
            padded = _pad(x[0], a["padding"], a["pad_value"]).double()
            total = F.avg_pool2d(padded, kernel, tuple(a["stride"]), divisor_override=1)
            total = total.long() + self.params[node.inputs[1]]
            return total * self.params[node.inputs[2]] if len(node.inputs) > 2 else total
        if node.op == "lookup":
            return torch.take(self.params[node.inputs[1]], x[0] - a["first"])
        if node.op == "pad":
            sides = zip(reversed(a["before"]), reversed(a["after"]), strict=True)  # torch starts from the last axis
            return F.pad(x[0], [amount for side in sides for amount in side], value=a["pad_value"])
        if node.op == "flatten":
            return x[0].flatten(1)
        raise GraphError(f"{node.name}: the exact executor has no operator {node.op!r}.")

    def _quantize(self, node: Node, x: Tensor) -> Tensor:
        qtype = self.graph.tensors[node.output].qtype
        if qtype is None:
            raise GraphError(f"{node.name}: its output has no code type.")
        if qtype.bipolar:
            return torch.where(x >= 0, 1, -1)
        scale, zero_point, *grid = (self.params[i] for i in node.inputs[1:])
        if grid:
            shift, low, high = (part.reshape(1, -1, *([1] * (x.ndim - 2))) for part in grid)
            steps = torch.floor(x.double() / (scale * (1 << shift)) + 0.5)
            return torch.minimum(torch.maximum(steps, low), high).long() << shift
        return (torch.floor(x.double() / scale + 0.5) + zero_point).clamp(qtype.qmin, qtype.qmax).long()

    def _saturate(self, node: Node, wide: Tensor) -> Tensor:
        qtype = self.graph.tensors[node.output].qtype
        wide = wide + node.attrs["zero_point"]
        if qtype is not None and qtype.bipolar:
            return torch.where(wide >= 0, 1, -1)
        return wide.clamp(node.attrs["clip_min"], node.attrs["clip_max"])


def _dot_type(bound: Bound) -> torch.dtype:
    """Return the narrower floating-point type in which every partial sum of a dot product is exact."""
    return torch.float32 if int(bound.partial.max()) <= _EXACT[torch.float32] else torch.float64


def _pad(x: Tensor, padding: Any, value: int) -> Tensor:
    ph, pw = padding
    return F.pad(x, (pw, pw, ph, ph), value=value) if ph or pw else x
