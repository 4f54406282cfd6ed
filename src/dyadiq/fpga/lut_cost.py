"""LUTs of every layer at every pair of widths, traced from its real quantized weights: a cost that `allocate` takes.

Used by the pipeline and the benchmarks: ``allocate(table, {"lut": 8000}, costs={"lut": lut_cost(graph, facts, ...)})``.
Reads a canonical float graph. Each entry unrolls one layer (`adder_graph`) and counts its LUTs (`area`): the adders of
one output position times the positions, and the multipliers of its requantizer, if scales are not powers of two.

Kind ``estimated``: weights are those of the float network, quantized to the nearest code; training moves them. Clips
are counted with the width of the output; joins, pools and what neighbouring windows could share are not counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.affine import AffineParams, fit_affine, quantize
from dyadiq.core.errors import ArtifactError
from dyadiq.core.facts import LayerFacts, NetworkFacts
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.qtype import QType
from dyadiq.core.storage import atomic_write_text, make_folder, read_bytes
from dyadiq.core.tables import CostTable, PairCost
from dyadiq.cost.options import candidate_bits
from dyadiq.fpga.adder_graph import multiply_matrix
from dyadiq.fpga.area import estimate_luts
from dyadiq.fpga.netlist import Netlist, Value
from dyadiq.ir.dyadic import to_dyadic
from dyadiq.ir.graph import Graph

__all__ = ["layer_luts", "lut_cost"]

_CACHE_VERSION = 1  # of what a cached number means: raise it when `area`, `netlist` or `adder_graph` count otherwise
_CLIP_OVERFLOW = 1  # LUTs of an overflow test


def layer_luts(
    weight: NDArray[np.int64], groups: int, low: int, high: int, multipliers: Sequence[int] | None = None
) -> int:
    """Return the LUTs of one output position of a layer.

    Args:
        weight: Integer weights ``[O, I/g, ...]``, zero points taken off.
        groups: Groups of the convolution; 1 for a linear layer.
        low: Smallest input code.
        high: Largest input code.
        multipliers: Of the requantizer, one per output channel; None where all scales are powers of two.

    Raises:
        MissingDependencyError: da4ml is not installed.
        ProofError: A weight has more than 24 bits.

    Example:
        >>> layer_luts(np.array([[1, 2], [3, -4]]), 1, 0, 15)
        9
    """
    net = Netlist()
    n_out = weight.shape[0] // groups
    made: list[Value] = []
    for group in range(groups):
        matrix = weight[group * n_out : (group + 1) * n_out].reshape(n_out, -1)
        made += multiply_matrix(net, matrix, [net.input(low, high) for _ in range(matrix.shape[1])])
    if multipliers is not None:
        pairs = zip(made, multipliers, strict=True)
        made = [multiply_matrix(net, np.array([[m]]), [value])[0] for value, m in pairs]
    return estimate_luts(net, [value.wire for value in made if value.wire >= 0])


def lut_cost(
    graph: Graph,
    facts: NetworkFacts,
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
    *,
    cache: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> CostTable:
    """Return the LUTs of every layer by the widths of its weight and of its input, and of clips by the output's width.

    Args:
        graph: Canonical float graph of the network.
        facts: Its facts, with formats.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        cache: File of numbers found before; made if missing. The same weights and widths are never traced twice.
        progress: Told about traced entries.

    Raises:
        ConfigError: Candidates are empty or out of range.
        MissingDependencyError: da4ml is not installed.
        ProofError: A weight has more than 24 bits.
        StorageError: The cache cannot be written.
    """
    options = candidate_bits(facts, weight_bits, activation_bits)
    known = _load(cache)
    n_known = len(known)
    progress.start("LUTs", sum(len(options[layer.weight]) * len(options[layer.input]) for layer in facts.layers))
    pairs, unary = [], {}
    for layer in facts.layers:
        table = {}
        for b_w in options[layer.weight]:
            params = fit_affine(graph.params[layer.weight], facts.config.weight.with_bits(b_w), name=layer.weight)
            weight, multipliers = _integers(graph, layer, params), _multipliers(facts, layer, params)
            for b_a in options[layer.input]:
                qtype = _code_type(facts, layer.input, b_a)
                luts = _cached_luts(known, weight, _groups(graph, layer), qtype, multipliers)
                table[b_w, b_a] = luts * layer.n_positions
                progress.advance(1, layer.name)
        pairs.append(PairCost(layer.weight, layer.input, table))
        output = facts.decision(layer.output)
        if output.fixed_bits is None:
            unary[layer.output] = {b: (b + _CLIP_OVERFLOW) * output.n_elements for b in options[layer.output]}
    progress.finish()
    if cache is not None and len(known) > n_known:
        make_folder(cache.parent)
        atomic_write_text(cache, json.dumps({"version": _CACHE_VERSION, "luts": known}))
    return CostTable(
        metric="lut",
        unit="LUT",
        kind="estimated",
        definition="LUTs of every layer fully unrolled (adder graph of its quantized weights at its input's width, "
        "requantizer, clip), counted as Yosys maps them to UltraScale+; no DSPs; joins and pools not counted",
        unary=unary,
        pairs=tuple(pairs),
    )


def _code_type(facts: NetworkFacts, name: str, bits: int) -> QType:
    return facts.config.activation.with_bits(bits).qtype(nonnegative=facts.decision(name).nonnegative)


def _groups(graph: Graph, layer: LayerFacts) -> int:
    node = next(node for node in graph.nodes if node.name == layer.name)
    return int(node.attrs.get("groups", 1))


def _integers(graph: Graph, layer: LayerFacts, params: AffineParams) -> NDArray[np.int64]:
    """Return ``(code - zero_point) * group_factor``, as `ir.integer.effective_weight` does for a program."""
    values = graph.params[layer.weight]
    weight = quantize(values, params, name=layer.weight) - params.zero_points(values.shape)
    if params.group_factor is None:
        return weight
    flat = weight.reshape(*params.group_factor.shape, -1)
    return np.asarray(flat * params.group_factor[:, :, None], dtype=np.int64).reshape(weight.shape)


def _multipliers(facts: NetworkFacts, layer: LayerFacts, params: AffineParams) -> tuple[int, ...] | None:
    """Return multipliers of the right width from the scales of the weights; activation scales are not known yet."""
    config = facts.config
    if config.weight.scale == "pow2" and config.activation.scale == "pow2":
        return None
    scales = np.broadcast_to(params.scale, (layer.m,))
    return tuple(to_dyadic(float(scale) / float(scales.max()) * 2.0**-8, config.multiplier_bits)[0] for scale in scales)


def _cached_luts(
    known: dict[str, int], weight: NDArray[np.int64], groups: int, qtype: QType, multipliers: tuple[int, ...] | None
) -> int:
    facts = repr((weight.shape, groups, str(qtype), multipliers)).encode()
    key = hashlib.sha256(facts + weight.astype("<i8").tobytes()).hexdigest()
    if key not in known:
        # A bipolar input is one bit whose factor of two is wiring.
        low, high = (0, 1) if qtype.bipolar else (qtype.qmin, qtype.qmax)
        known[key] = layer_luts(weight, groups, low, high, multipliers)
    return known[key]


def _load(cache: Path | None) -> dict[str, int]:
    """Return cached numbers; a missing, damaged or older file is an empty cache, since it holds nothing but speed."""
    if cache is None or not cache.is_file():
        return {}
    try:
        stored = json.loads(read_bytes(cache))
    except (ArtifactError, ValueError):
        return {}
    if not isinstance(stored, Mapping) or stored.get("version") != _CACHE_VERSION:
        return {}
    return {str(key): int(luts) for key, luts in stored["luts"].items()}
