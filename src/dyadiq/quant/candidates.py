"""Every weight rounded at every width as ``gptq`` would, for sensitivities: the perturbation that will really be used.

For ``analyze(candidates=...)``.
Moments are those of the float network, taken once a layer; each width starts from the ranges `quantize` would choose.
Where a layer has a bias of its own, rounding counts on moving it, and the moved bias is a candidate too.
Rounding by outputs changes which layers can take few bits: at 3 bits it moves accuracy more than the choice of bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.affine import dequantize, fit_affine
from dyadiq.core.facts import QuantConfig
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.ir.biases import weight_biases
from dyadiq.ir.execute import Batch, NamedInputs, graph_params, iterate_batches, run_node
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.moments import layer_moments
from dyadiq.quant.walk import CHUNK
from dyadiq.rounding import RoundingConfig, round_weight

__all__ = ["rounded_candidates"]


def rounded_candidates(
    graph: Graph,
    batches: Iterable[Batch],
    bits: Sequence[int],
    *,
    config: QuantConfig | None = None,
    rounding: RoundingConfig | None = None,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Return the values of every weight at every width, rounded by its layer's outputs, and of the biases with them.

    A weight that several layers share is rounded for the first. A bias stands under its own name and the weight's bits.

    Args:
        graph: A float graph, captured or canonical.
        batches: Calibration samples.
        bits: Widths.
        config: Formats without bits.
        rounding: How to round.
        seed: Of the choice of rows.
        progress: One step a layer.

    Raises:
        DataError: No batch, or an unusable one.
        QuantError: A weight that is not finite, or a group size that does not fit it.

    Example:
        >>> import torch
        >>> from dyadiq.ir.graph import Node, TensorInfo
        >>> x, y = TensorInfo((2,)), TensorInfo((1,))
        >>> node = Node("fc", "linear", ("x", "fc.weight"), "fc")
        >>> graph = Graph("float", ("x",), ("fc",), (node,), {"x": x, "fc": y}, {"fc.weight": np.array([[1.0, -0.5]])})
        >>> found = rounded_candidates(graph, [torch.tensor([[1.0, 1.0], [2.0, 1.0]])], (2, 8))
        >>> list(found), bool(abs(found["fc.weight", 8] - [[1.0, -0.5]]).max() < 0.01)
        ([('fc.weight', 2), ('fc.weight', 8)], True)
    """
    canonical, config = canonicalize(graph), config or QuantConfig()
    params = graph_params(canonical)
    chunks: list[dict[str, Tensor]] = []
    for batch in iterate_batches(batches):
        named = batch if isinstance(batch, NamedInputs) else {canonical.inputs[0]: batch}
        parts = [torch.split(value, CHUNK) for value in named.values()]
        chunks += [dict(zip(named, part, strict=True)) for part in zip(*parts, strict=True)]
    found: dict[tuple[str, int], NDArray[np.float64]] = {}
    biases = weight_biases(canonical)
    last_reader = {name: node.name for node in canonical.nodes for name in node.inputs}
    progress.start("rounded candidates", len(canonical.nodes))
    try:
        for node in canonical.nodes:
            if node.op in ("conv2d", "linear") and (node.inputs[1], bits[0]) not in found:
                seen = [values[node.inputs[0]] for values in chunks]
                bias = biases.get(node.inputs[1])
                found |= _rounded(canonical, node, bias, seen, bits, config, rounding, seed)
            for values in chunks:
                with torch.no_grad():
                    values[node.output] = run_node(node, [values[n] if n in values else params[n] for n in node.inputs])
                for name in set(node.inputs):
                    if last_reader[name] == node.name:
                        values.pop(name, None)
            progress.advance(1, node.name)
    finally:
        progress.finish()
    return found


def _rounded(
    graph: Graph,
    node: Node,
    bias: str | None,
    seen: Sequence[Tensor],
    bits: Sequence[int],
    config: QuantConfig,
    rounding: RoundingConfig | None,
    seed: int,
) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Return the values of one layer's weight, and of the bias that may move with it, at every width."""
    name = node.inputs[1]
    weight = np.asarray(graph.params[name], dtype=np.float64)
    positions = math.prod(graph.tensors[node.output].shape[1:])
    moments = layer_moments(node, weight.shape[2:], positions, seen, seen, seed=seed)
    result: dict[tuple[str, int], NDArray[np.float64]] = {}
    for width in bits:
        start = fit_affine(weight, config.weight.with_bits(width), name=name)
        found = round_weight(weight, start, moments, with_bias=bias is not None, config=rounding, name=name)
        result[name, width] = dequantize(found.codes, found.params)
        if bias is not None:
            result[bias, width] = np.asarray(graph.params[bias], dtype=np.float64) + found.bias_shift
    return result
