"""From a canonical float graph and quantized tensors to an IntegerProgram.

Used by `quant.lower` (which takes codes and scales out of a QuantModule) and by cost probes. No torch.

What is decided here, and nowhere else: integer biases (scale ``s_w * s_x``, zero points folded in), dyadic
multipliers, the single rescale of every branch of an add or concat, and the proven types of accumulators.
The rules are those of docs/spec/integer-program.md; quantization sites come from `ir.sites`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ProofError, QuantError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.qtype import QType, bits_for_range
from dyadiq.ir.activation import FUNCTIONS, Limits, find_limits
from dyadiq.ir.average import average_windows
from dyadiq.ir.dyadic import to_dyadic
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import NARROW_BIAS, WIDE_BIAS, IntegerProgram, effective_weight
from dyadiq.ir.proof import Bound, accumulator_type, node_bound
from dyadiq.ir.quantized import ActivationQuant, WeightQuant, clip_bounds, limit_code
from dyadiq.ir.shapes import TABLE_SIZE
from dyadiq.ir.sites import Sites, find_sites

__all__ = ["lower_graph"]

_MAX_BIAS = 1 << 48  # leaves room for sums below 2^53, the limit of executors in float64
_PROOF_BITS = 62


def lower_graph(
    graph: Graph,
    weights: Mapping[str, WeightQuant],
    activations: Mapping[str, ActivationQuant],
    config: QuantConfig,
) -> IntegerProgram:
    """Return the integer program of a canonical graph.

    Args:
        graph: Float dialect, batch norm folded, relu fused.
        weights: By parameter name.
        activations: By decision name (`ir.sites.find_sites`).
        config: ``multiplier_bits`` and ``product_bits`` are read here.

    Raises:
        GraphError: The graph is not canonical.
        QuantError: A tensor has no quantizer, or scales that cannot be joined by a dyadic ratio.
        ProofError: No multiplier keeps a product below ``2**product_bits``.
    """
    sites = find_sites(graph)
    _check_complete(graph, sites, weights, activations)
    builder = _Builder(graph, sites, weights, activations, config)
    for name in graph.inputs:
        builder.lower_input(name)
    for node in graph.nodes:
        builder.lower_node(node)
    return builder.program()


def _check_complete(
    graph: Graph, sites: Sites, weights: Mapping[str, WeightQuant], activations: Mapping[str, ActivationQuant]
) -> None:
    needed = {n.inputs[1] for n in graph.nodes if n.op in ("conv2d", "linear")}
    missing = sorted(needed - set(weights)) + sorted(set(sites.decisions) - set(activations))
    if missing:
        raise QuantError(f"no quantizer for {', '.join(missing)}. Every weight and activation decision needs one.")
    for name, act in activations.items():
        if not (math.isfinite(act.scale) and act.scale > 0):
            raise QuantError(f"{name}: its scale must be positive and finite, got {act.scale!r}.")
    for name, weight in weights.items():
        if not (np.isfinite(weight.scale).all() and (weight.scale > 0).all()):
            raise QuantError(f"{name}: all its scales must be positive and finite.")


class _Builder:
    """Collects integer nodes in order, with the bound of every tensor made so far."""

    def __init__(
        self,
        source: Graph,
        sites: Sites,
        weights: Mapping[str, WeightQuant],
        activations: Mapping[str, ActivationQuant],
        config: QuantConfig,
    ) -> None:
        self.source, self.sites, self.weights = source, sites, weights
        self.activations, self.config = activations, config
        self.nodes: list[Node] = []
        self.tensors: dict[str, TensorInfo] = {}
        self.params: dict[str, NDArray[np.int64] | NDArray[np.float64]] = {}
        self.param_types: dict[str, QType] = {}
        self.bounds: dict[str, Bound] = {}
        self.codes: dict[str, str] = {}  # float tensor -> integer tensor that holds its codes or accumulator
        self.acc_scale: dict[str, NDArray[np.float64]] = {}  # wide float tensor -> scale of its accumulator
        self.worst_ratio = (0.0, "")  # relative error of a dyadic number, and its node

    # -- small pieces ------------------------------------------------------------------------------

    def act(self, tensor: str) -> ActivationQuant:
        return self.activations[self.sites.decision_of[tensor]]

    def partial_graph(self) -> Graph:
        return Graph("integer", self.source.inputs, (), (), self.tensors, self.params, self.param_types)

    def emit(self, node: Node, info: TensorInfo) -> str:
        """Add a node; a tensor without a type gets the accumulator type that its proof asks for."""
        self.nodes.append(node)
        self.tensors[node.output] = info
        bound = node_bound(self.partial_graph(), node, self.bounds)
        if info.qtype is None:
            self.tensors[node.output] = TensorInfo(info.shape, accumulator_type(bound), info.scale, info.zero_point)
        self.bounds[node.output] = bound
        return node.output

    def param(self, name: str, values: NDArray[np.int64] | int) -> str:
        self.params[name] = np.asarray(values, dtype=np.int64)
        return name

    def bias(self, name: str, values: NDArray[np.int64] | int) -> str:
        """Store biases, of a type that follows from the config: a product below 2^31 has a bias below 2^31."""
        if self.config.product_bits is None or self.config.product_bits > NARROW_BIAS.bits - 1:
            self.param_types[name] = WIDE_BIAS
        return self.param(name, values)

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.source.tensors[tensor].shape

    def info(self, tensor: str) -> TensorInfo:
        act = self.act(tensor)
        return TensorInfo(self.shape(tensor), act.qtype, np.asarray(act.scale, dtype=np.float64), act.zero_point)

    # -- requantization ----------------------------------------------------------------------------

    def dyadic(self, name: str, ratio: NDArray[np.float64], partial: NDArray[np.int64]) -> tuple[str, str]:
        """Store multipliers and shifts for ratios ``[C]`` or ``[1]``, narrowed until the product proof holds."""
        top = np.broadcast_to(partial, (len(ratio) if len(ratio) > 1 else len(partial),))
        if len(ratio) == 1:
            top = np.asarray([top.max()])
        pairs = [self._narrowed(name, float(r), int(p)) for r, p in zip(ratio, top, strict=True)]
        error = max(abs(math.ldexp(m, -e) / r - 1.0) for (m, e), r in zip(pairs, ratio.tolist(), strict=True))
        self.worst_ratio = max(self.worst_ratio, (error, name))
        return (
            self.param(f"{name}.multiplier", np.array([m for m, _ in pairs])),
            self.param(f"{name}.shift", np.array([e for _, e in pairs])),
        )

    def _narrowed(self, name: str, ratio: float, partial: int) -> tuple[int, int]:
        limit = _PROOF_BITS if self.config.product_bits is None else self.config.product_bits
        for bits in range(self.config.multiplier_bits, 0, -1):
            multiplier, shift = to_dyadic(ratio, bits)
            product = partial * multiplier + (1 << (shift - 1) if shift else 0)
            if product < 1 << limit:
                return multiplier, shift
        raise ProofError(
            f"{name}: an accumulator of magnitude {partial} times any multiplier leaves {limit} bits. "
            "Use fewer weight or activation bits, or a larger product_bits (None if all targets compute in integers)."
        )

    def requantize(
        self, source: str, ratio: NDArray[np.float64], target: str, node_name: str, limits: Limits | None
    ) -> None:
        """Rescale an accumulator or codes to the format of a decision and store them as ``target``."""
        act, info = self.act(target), self.info(target)
        self.codes[target] = self._requantize_to(source, ratio, act, info, target, node_name, limits)

    def _requantize_to(
        self,
        source: str,
        ratio: NDArray[np.float64],
        act: ActivationQuant,
        info: TensorInfo,
        output: str,
        node_name: str,
        limits: Limits | None,
    ) -> str:
        if act.qtype.bipolar:  # the sign of the exact value: no scale, no rounding
            ratio = np.ones_like(ratio)
        multiplier, shift = self.dyadic(node_name, ratio, self.bounds[source].partial)
        attrs = {"zero_point": act.zero_point, **clip_bounds(output, act, limits)}
        return self.emit(Node(node_name, "requantize", (source, multiplier, shift), output, attrs), info)

    def centred(self, tensor: str) -> str:
        """Return the codes of a tensor with zero point 0, subtracting it where there is one."""
        source, act = self.codes[tensor], self.act(tensor)
        if act.symmetric and act.zero_point == 0:
            return source
        name = f"{source}:centred"
        if name not in self.tensors:
            low, high = act.qtype.qmin - act.zero_point, act.qtype.qmax - act.zero_point
            attrs = {"zero_point": -act.zero_point, "clip_min": low, "clip_max": high}
            info = TensorInfo(self.shape(tensor), bits_for_range(low, high), np.asarray(act.scale))
            self.emit(Node(name, "clip", (source,), name, attrs), info)
        return name

    # -- operators ---------------------------------------------------------------------------------

    def lower_input(self, name: str) -> None:
        act = self.activations[name]
        self.tensors[name] = TensorInfo(self.shape(name))
        output = f"{name}:codes"
        self.params[f"{name}.scale"] = np.asarray(act.scale, dtype=np.float64)
        zero_point = self.param(f"{name}.zero_point", act.zero_point)
        inputs = [name, f"{name}.scale", zero_point]
        if act.grid is not None:
            act.grid.check_within(act.qtype, self.shape(name)[0])
            inputs += [self.param(f"{name}.{part}", getattr(act.grid, part)) for part in ("shift", "low", "high")]
        node = Node(output, "quantize", tuple(inputs), output)
        self.codes[name] = self.emit(node, self.info(name))

    def lower_node(self, node: Node) -> None:
        if node.op in ("conv2d", "linear"):
            self._lower_dot_product(node)
        elif node.op == "avg_pool2d":
            self._lower_average(node)
        elif node.op == "lookup":
            self._lower_lookup(node)
        elif node.op == "add":
            self._lower_add(node)
        elif node.op == "concat":
            self._lower_concat(node)
        else:
            self._lower_pass_through(node)

    def _finish_accumulator(self, node: Node, acc: str, scale: NDArray[np.float64]) -> None:
        """Requantize an accumulator at its site, or leave it to the join that reads it."""
        if node.output in self.sites.wide:
            self.codes[node.output], self.acc_scale[node.output] = acc, scale
            return
        ratio = scale / self.act(node.output).scale
        self.requantize(acc, ratio, node.output, f"{node.name}:requantize", find_limits(node))

    def _lower_dot_product(self, node: Node) -> None:
        x, weight_name = node.inputs[0], node.inputs[1]
        act, weight = self.act(x), self.weights[weight_name]
        n_out = weight.codes.shape[0]
        self.param(weight_name, weight.codes)
        self.param_types[weight_name] = weight.qtype
        inputs = [self.codes[x], weight_name, f"{node.name}:bias"]
        if not weight.qtype.signed or weight.zero_point.any() or weight.group_factor is not None:
            inputs.append(self.param(f"{weight_name}.zero_point", weight.zero_point))
        if weight.group_factor is not None:
            inputs.append(self.param(f"{weight_name}.group_factor", weight.group_factor))
        scale = weight.scale * act.scale  # float64, one rounding
        attrs = {k: node.attrs[k] for k in ("stride", "padding", "dilation", "groups") if k in node.attrs}
        if node.op == "conv2d":
            attrs["pad_value"] = act.zero_point
        acc = f"{node.output}:acc"
        lowered = Node(node.name, node.op, tuple(inputs), acc, attrs, node.source)
        effective = effective_weight(self.partial_graph(), lowered).reshape(n_out, -1)
        real = self.source.params[node.inputs[2]] if len(node.inputs) > 2 else np.zeros(n_out)
        steps = np.floor(np.asarray(real, dtype=np.float64) / scale + 0.5)
        if not np.isfinite(steps).all() or np.abs(steps).max() >= _MAX_BIAS:
            worst = int(np.argmax(np.abs(steps)))
            raise QuantError(
                f"{node.name}: the bias of channel {worst} is {steps[worst]:.3g} steps of weight scale times input "
                "scale, more than 48 bits. The weights of this channel are far smaller than its bias; use fewer weight "
                "or input bits (coarser steps), or granularity 'tensor'."
            )
        bias = steps.astype(np.int64) - act.zero_point * effective.sum(axis=1)
        self.bias(f"{node.name}:bias", bias)
        info = TensorInfo(self.shape(node.output), None, np.asarray(scale if len(scale) > 1 else scale[0]))
        self._finish_accumulator(node, self.emit(lowered, info), scale)

    def _lower_average(self, node: Node) -> None:
        x = node.inputs[0]
        act, source = self.act(x), self.codes[x]
        windows = average_windows(node, self.shape(x)[1:], self.shape(node.output)[1:])
        if any(windows.overhang):
            if act.qtype.bipolar:
                raise QuantError(f"{node.name}: bipolar codes have no zero for windows that hang over. Use more bits.")
            padded = f"{node.name}:padded"
            shape = tuple(n + more for n, more in zip(self.shape(x), (0, *windows.overhang), strict=True))
            around = {"before": (0, 0, 0), "after": (0, *windows.overhang), "pad_value": act.zero_point}
            info = TensorInfo(shape, act.qtype, np.asarray(act.scale), act.zero_point)
            source = self.emit(Node(padded, "pad", (source,), padded, around), info)
        bias = self.bias(f"{node.name}:bias", -math.prod(node.attrs["kernel"]) * act.zero_point)
        inputs = [source, bias]
        if windows.factor is not None:
            inputs.append(self.param(f"{node.name}.factor", windows.factor))
        attrs = {k: node.attrs[k] for k in ("kernel", "stride", "padding")} | {"pad_value": act.zero_point}
        scale = np.asarray([act.scale / windows.divisor])
        lowered = Node(node.name, "sum_pool2d", tuple(inputs), f"{node.output}:acc", attrs, node.source)
        acc = self.emit(lowered, TensorInfo(self.shape(node.output), None, scale.reshape(())))
        self._finish_accumulator(node, acc, scale)

    def _lower_lookup(self, node: Node) -> None:
        source, target = self.act(node.inputs[0]), self.act(node.output)
        if source.qtype.qmax - source.qtype.qmin >= TABLE_SIZE:
            raise QuantError(
                f"{node.name}: looks up codes of {source.qtype.bits} bits, a table has {TABLE_SIZE} entries. "
                f"Use at most 8 bits for {self.sites.decision_of[node.inputs[0]]!r}."
            )
        last = source.qtype.qmax - source.qtype.qmin
        codes = source.qtype.qmin + np.minimum(np.arange(TABLE_SIZE), last)
        values = FUNCTIONS[node.attrs["function"]]((codes - source.zero_point) * source.scale)
        if target.qtype.bipolar:
            table = np.where(values >= 0, 1, -1)
        else:
            steps = np.floor(values / target.scale + 0.5) + target.zero_point
            table = np.clip(steps, target.qtype.qmin, target.qtype.qmax)
        name = self.param(f"{node.name}.table", table.astype(np.int64))
        attrs = {"first": source.qtype.qmin}
        lowered = Node(node.name, "lookup", (self.codes[node.inputs[0]], name), node.output, attrs, node.source)
        self.codes[node.output] = self.emit(lowered, self.info(node.output))

    def _lower_add(self, node: Node) -> None:
        act = self.act(node.output)
        branches = [self._wide_branch(node, i, tensor, act) for i, tensor in enumerate(node.inputs)]
        total = f"{node.output}:sum"
        self.emit(
            Node(node.name, "add", tuple(branches), total, {}, node.source),
            TensorInfo(self.shape(node.output), None, np.asarray(act.scale)),
        )
        attrs = {"zero_point": act.zero_point, **clip_bounds(node.output, act, find_limits(node))}
        clip = Node(f"{node.name}:clip", "clip", (total,), node.output, attrs)
        self.codes[node.output] = self.emit(clip, self.info(node.output))

    def _branch_ratio(self, tensor: str, act: ActivationQuant) -> tuple[str, NDArray[np.float64], Limits | None]:
        """Return the integer tensor of a branch, its ratio to the join's scale, and the limits that are still due."""
        if tensor in self.sites.wide:
            producer = self.source.producer(tensor)
            limits = None if producer is None else find_limits(producer)
            return self.codes[tensor], self.acc_scale[tensor] / act.scale, limits
        return self.centred(tensor), np.asarray([self.act(tensor).scale / act.scale]), None

    def _wide_branch(self, node: Node, position: int, tensor: str, act: ActivationQuant) -> str:
        """Rescale one branch of an add to the output's scale, zero point 0, without clipping."""
        source, ratio, limits = self._branch_ratio(tensor, act)
        name = f"{node.name}:branch{position}"
        multiplier, shift = self.dyadic(name, ratio, self.bounds[source].partial)
        bound = self.bounds[source]
        m, e = (self.params[p].astype(np.int64) for p in (multiplier, shift))
        rounding = np.where(e > 0, np.int64(1) << np.maximum(e - 1, 0), 0)
        low = int(((bound.low * m + rounding) >> e).min())
        high = int(((bound.high * m + rounding) >> e).max())
        if limits is not None:
            bottom, top = (limit_code(limit, act.scale) for limit in limits)
            low, high = (int(np.clip(value, bottom, top)) for value in (low, high))
        attrs = {"zero_point": 0, "clip_min": low, "clip_max": high}
        info = TensorInfo(self.shape(tensor), bits_for_range(min(low, -1), max(high, 0)), np.asarray(act.scale))
        return self.emit(Node(name, "requantize", (source, multiplier, shift), name, attrs), info)

    def _lower_concat(self, node: Node) -> None:
        act = self.act(node.output)
        if len(node.inputs) == 1:  # the same values on another grid (ir.residuals)
            source, ratio, limits = self._branch_ratio(node.inputs[0], act)
            self.requantize(source, ratio, node.output, node.name, limits)
            return
        branches = []
        for position, tensor in enumerate(node.inputs):
            source, ratio, limits = self._branch_ratio(tensor, act)
            name = f"{node.name}:branch{position}"
            info = TensorInfo(self.shape(tensor), act.qtype, np.asarray(act.scale), act.zero_point)
            branches.append(self._requantize_to(source, ratio, act, info, name, name, limits))
        output = Node(node.name, "concat", tuple(branches), node.output, {}, node.source)
        self.codes[node.output] = self.emit(output, self.info(node.output))

    def _lower_pass_through(self, node: Node) -> None:
        source, act = self.codes[node.inputs[0]], self.act(node.output)
        limits = find_limits(node)
        if limits is not None:
            attrs = {"zero_point": 0, **clip_bounds(node.output, act, limits)}
            lowered = Node(node.name, "clip", (source,), node.output, attrs, node.source)
        elif node.op == "pad":
            if act.qtype.bipolar:
                raise QuantError(f"{node.output}: bipolar codes have no zero to pad with. Use more bits.")
            attrs = {"before": node.attrs["before"], "after": node.attrs["after"], "pad_value": act.zero_point}
            lowered = Node(node.name, "pad", (source,), node.output, attrs, node.source)
        else:
            lowered = Node(node.name, node.op, (source,), node.output, dict(node.attrs), node.source)
        self.codes[node.output] = self.emit(lowered, self.info(node.output))

    def program(self) -> IntegerProgram:
        error, name = self.worst_ratio
        graph = Graph(
            "integer",
            self.source.inputs,
            self.source.outputs,
            tuple(self.nodes),
            self.tensors,
            self.params,
            self.param_types,
            {**self.source.meta, "worst_ratio_error": {"relative": error, "node": name}},
        )
        return IntegerProgram(graph)
