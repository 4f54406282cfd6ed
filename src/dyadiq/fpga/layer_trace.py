"""Layers of a float graph as adder graphs at every pair of widths: what the costs of this package are counted on.

Used by `lut_cost`, `ff_cost` and `latency_cost`. Each entry unrolls one output position of one layer: its weights,
quantized to the nearest code, its bias as one addition, and the multipliers of its requantizer where scales are no
powers of two. The same weights and widths are never traced twice: all is kept in one file of numbers.

Joins and pools have no weights; `joins` says where they are and how many additions or comparisons they take.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.affine import fit_affine, quantize
from dyadiq.core.errors import ArtifactError
from dyadiq.core.facts import LayerFacts, NetworkFacts
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.qtype import QType
from dyadiq.core.storage import atomic_write_text, make_folder, read_bytes
from dyadiq.cost.options import candidate_bits
from dyadiq.fpga.adder_graph import multiply_matrix
from dyadiq.fpga.area import estimate_luts, needed_wires
from dyadiq.fpga.limits import MAX_LUTS, check_size, guess_dot_luts
from dyadiq.fpga.netlist import Netlist, Value
from dyadiq.ir.dyadic import to_dyadic
from dyadiq.ir.graph import Graph
from dyadiq.ir.sites import find_sites

__all__ = ["Join", "LayerTrace", "TracedLayer", "joins", "multiplier_digits", "trace_layer", "traced_layers"]

_CACHE_VERSION = 2  # of what a cached number means: raise it when `area`, `netlist` or `adder_graph` count otherwise


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """One output position of a layer, up to its clip.

    Attributes:
        lut: Look-up tables.
        alive: Bits alive after each level of adders that is not the last: what a register there would hold.
    """

    lut: int
    alive: tuple[int, ...]

    @property
    def levels(self) -> int:
        """Adders in a row."""
        return len(self.alive)


@dataclass(frozen=True, slots=True)
class TracedLayer:
    """A layer with the traces of all candidate pairs ``(weight bits, input bits)``."""

    facts: LayerFacts
    traces: Mapping[tuple[int, int], LayerTrace]


@dataclass(frozen=True, slots=True)
class Join:
    """An add or a pool.

    Attributes:
        name: Node name.
        op: Its operator.
        decision: Whose width its operands have: that of the output of an add, of the input of a pool.
        n_elements: Output elements.
        n_operands: Summed or compared for one element.
    """

    name: str
    op: str
    decision: str
    n_elements: int
    n_operands: int


def trace_layer(
    weight: NDArray[np.int64], groups: int, low: int, high: int, multipliers: Sequence[int] | None = None
) -> LayerTrace:
    """Return the trace of one output position of a layer.

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
        >>> trace_layer(np.array([[1, 2], [3, -4]]), 1, 0, 15)
        LayerTrace(lut=9, alive=(8, 16, 13))
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
    wires = [value.wire for value in made if value.wire >= 0]
    return LayerTrace(estimate_luts(net, wires), _alive(net, wires))


def _alive(net: Netlist, wires: Sequence[int]) -> tuple[int, ...]:
    """Return the bits alive after each level, the addition of a bias being the last."""
    top = max((net.levels[wire] for wire in wires), default=0)
    last = dict.fromkeys(wires, top + 1)
    alive = [0] * (top + 1)
    for wire in reversed(needed_wires(net, wires)):
        op = net.ops[wire]
        for source in (op.a, op.b):
            if source >= 0:
                last[source] = max(last.get(source, 0), net.levels[wire])
        for level in range(net.levels[wire], last[wire]):
            alive[level] += net.width(wire)
    return tuple(alive)


def traced_layers(
    graph: Graph,
    facts: NetworkFacts,
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
    *,
    cache: Path | None = None,
    max_luts: int = MAX_LUTS,
    progress: Progress = NO_PROGRESS,
) -> tuple[TracedLayer, ...]:
    """Return every layer traced at every pair of candidate widths.

    Args:
        graph: Canonical float graph of the network.
        facts: Its facts, with formats.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        cache: File of numbers found before; made if missing.
        max_luts: A network of more at its narrowest widths, by a quick guess, is refused.
        progress: Told about traced entries.

    Raises:
        ConfigError: Candidates are empty or out of range.
        MissingDependencyError: da4ml is not installed.
        ProofError: A weight has more than 24 bits.
        StorageError: The cache cannot be written.
        TooLargeError: The network is too large to unroll at any candidate width.
    """
    options = candidate_bits(facts, weight_bits, activation_bits)
    integers = {
        (layer.name, bits): _quantized(graph, facts, layer, bits)
        for layer in facts.layers
        for bits in options[layer.weight]
    }
    guesses = {
        layer.name: guess_dot_luts(
            integers[layer.name, options[layer.weight][0]].values, layer.n_positions, options[layer.input][0]
        )
        for layer in facts.layers
    }
    check_size(guesses, max_luts, what="even at the narrowest candidate widths, the network")
    known = _load(cache)
    n_known = len(known)
    progress.start(
        "trace layers", sum(len(options[layer.weight]) * len(options[layer.input]) for layer in facts.layers)
    )
    traced = []
    for layer in facts.layers:
        traces = {}
        for b_w in options[layer.weight]:
            weight = integers[layer.name, b_w]
            for b_a in options[layer.input]:
                qtype = facts.config.activation.with_bits(b_a).qtype(
                    nonnegative=facts.decision(layer.input).nonnegative
                )
                multipliers = None if _is_pow2(facts) else _multipliers(facts, weight, qtype)
                traces[b_w, b_a] = _cached(known, weight.values, _groups(graph, layer), qtype, multipliers)
                progress.advance(1, layer.name)
        traced.append(TracedLayer(layer, traces))
    progress.finish()
    if cache is not None and len(known) > n_known:
        make_folder(cache.parent)
        stored = {key: [trace.lut, *trace.alive] for key, trace in known.items()}
        atomic_write_text(cache, json.dumps({"version": _CACHE_VERSION, "traces": stored}))
    return tuple(traced)


def joins(graph: Graph) -> Iterator[Join]:
    """Yield the adds and pools of a canonical float graph."""
    sites = find_sites(graph)
    for node in graph.nodes:
        n_elements = math.prod(graph.tensors[node.output].shape)
        if node.op == "add":
            yield Join(node.name, node.op, sites.decision_of[node.output], n_elements, len(node.inputs))
        elif node.op in ("max_pool2d", "avg_pool2d"):
            yield Join(
                node.name, node.op, sites.decision_of[node.inputs[0]], n_elements, math.prod(node.attrs["kernel"])
            )


def multiplier_digits(facts: NetworkFacts) -> int:
    """Return the additions that a multiplier takes whose value is not known yet: a third of its bits.

    Example:
        >>> multiplier_digits(NetworkFacts((), ()))
        5
    """
    return 0 if _is_pow2(facts) else facts.config.multiplier_bits // 3


def _is_pow2(facts: NetworkFacts) -> bool:
    return facts.config.weight.scale == "pow2" and facts.config.activation.scale == "pow2"


def _groups(graph: Graph, layer: LayerFacts) -> int:
    node = next(node for node in graph.nodes if node.name == layer.name)
    return int(node.attrs.get("groups", 1))


@dataclass(frozen=True, slots=True)
class _Weight:
    """Integer weights, as `ir.integer.effective_weight` has them for a program, and their scale per channel."""

    values: NDArray[np.int64]
    scale: NDArray[np.float64]


def _quantized(graph: Graph, facts: NetworkFacts, layer: LayerFacts, bits: int) -> _Weight:
    values, name = graph.params[layer.weight], layer.weight
    params = fit_affine(values, facts.config.weight.with_bits(bits), name=name)
    weight = quantize(values, params, name=name) - params.zero_points(values.shape)
    if params.group_factor is not None:
        flat = weight.reshape(*params.group_factor.shape, -1)
        weight = np.asarray(flat * params.group_factor[:, :, None], dtype=np.int64).reshape(weight.shape)
    return _Weight(weight, np.broadcast_to(params.scale, (layer.m,)))


def _multipliers(facts: NetworkFacts, weight: _Weight, qtype: QType) -> tuple[int, ...]:
    """Return multipliers of the width that their products may have; activation scales are not known yet."""
    config, top = facts.config, float(weight.scale.max())
    reach = np.abs(weight.values).reshape(len(weight.values), -1).sum(axis=1) * max(-qtype.qmin, qtype.qmax)
    multipliers = []
    for scale, bound in zip(weight.scale.tolist(), reach.tolist(), strict=True):
        room = config.multiplier_bits if config.product_bits is None else config.product_bits - int(bound).bit_length()
        bits = max(1, min(config.multiplier_bits, room))
        multipliers.append(to_dyadic(scale / top * 2.0**-8, bits)[0])
    return tuple(multipliers)


def _cached(
    known: dict[str, LayerTrace],
    weight: NDArray[np.int64],
    groups: int,
    qtype: QType,
    multipliers: tuple[int, ...] | None,
) -> LayerTrace:
    facts = repr((weight.shape, groups, str(qtype), multipliers)).encode()
    key = hashlib.sha256(facts + weight.astype("<i8").tobytes()).hexdigest()
    if key not in known:
        # A bipolar input is one bit whose factor of two is wiring.
        low, high = (0, 1) if qtype.bipolar else (qtype.qmin, qtype.qmax)
        known[key] = trace_layer(weight, groups, low, high, multipliers)
    return known[key]


def _load(cache: Path | None) -> dict[str, LayerTrace]:
    """Return cached traces; a missing, damaged or older file is an empty cache, since it holds nothing but speed."""
    if cache is None or not cache.is_file():
        return {}
    try:
        stored = json.loads(read_bytes(cache))
    except (ArtifactError, ValueError):
        return {}
    if not isinstance(stored, Mapping) or stored.get("version") != _CACHE_VERSION:
        return {}
    return {str(key): LayerTrace(int(row[0]), tuple(map(int, row[1:]))) for key, row in stored["traces"].items()}
