"""Where activations are quantized, and which tensors are one decision.

Used by cost (facts), curvature, quant and lowering, so that all of them mean the same thing.
Works on a canonical float graph (batch norm folded, relu fused); values play no part.

Rules (docs/spec/integer-program.md, section "Quantization sites"):
- every graph input, and every output of conv2d, linear, add, concat, avg_pool2d and lookup, is a site;
- max_pool2d, pad, flatten and a relu or clamp left alone keep codes, scale and decision of their input;
- a conv2d, linear or avg_pool2d whose only consumer is an add or concat is *wide*: its accumulator
  is rescaled once, straight to the format of that add or concat (its own relu or clamp becomes the clip
  of that rescale), and it is no decision of its own;
- a tensor with several consumers is one decision, because it is quantized once, where it is made;
- decisions of network inputs and outputs have fixed widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dyadiq.core.errors import GraphError
from dyadiq.ir.activation import find_limits, is_nonnegative_activation
from dyadiq.ir.graph import Graph

__all__ = ["PASS_THROUGH_OPS", "SITE_OPS", "Sites", "find_clipped", "find_looked_up", "find_sites"]

SITE_OPS = ("conv2d", "linear", "add", "concat", "avg_pool2d", "lookup")
PASS_THROUGH_OPS = ("max_pool2d", "pad", "flatten", "relu", "clamp")
_ACCUMULATOR_OPS = ("conv2d", "linear", "avg_pool2d")
_JOIN_OPS = ("add", "concat")


@dataclass(frozen=True, slots=True)
class Sites:
    """Quantization sites of one graph.

    Attributes:
        decisions: Names of the tensors that are quantized, in order of execution.
        decision_of: Tensor name to the decision whose codes it carries; wide tensors are absent.
        wide: Tensors that stay accumulators until the join that reads them.
        inputs: Decisions of network inputs.
        outputs: Decisions of network outputs.
        nonnegative: Decisions whose real values are >= 0 by construction (after a relu).
    """

    decisions: tuple[str, ...]
    decision_of: Mapping[str, str]
    wide: frozenset[str]
    inputs: frozenset[str]
    outputs: frozenset[str]
    nonnegative: frozenset[str]


def find_sites(graph: Graph) -> Sites:
    """Return the quantization sites of a canonical float graph.

    Raises:
        GraphError: The graph still holds a batch norm, or an output that is an unquantized input.
    """
    decisions: list[str] = list(graph.inputs)
    decision_of = {name: name for name in graph.inputs}
    wide: set[str] = set()
    nonnegative: set[str] = set()  # tensors
    for node in graph.nodes:
        if node.op == "batch_norm":
            raise GraphError(
                f"{node.name}: batch norm must be folded before quantization sites are looked for. "
                "Call canonicalize(graph) first."
            )
        if node.op in PASS_THROUGH_OPS:
            source = graph.activations(node)[0]
            decision_of[node.output] = decision_of[source]
            if is_nonnegative_activation(node) or (source in nonnegative and node.op != "clamp"):
                nonnegative.add(node.output)
            continue
        inherited = node.op in ("concat", "avg_pool2d", "add") and all(
            i in nonnegative for i in graph.activations(node)
        )
        if is_nonnegative_activation(node) or (inherited and find_limits(node) is None):
            nonnegative.add(node.output)
        readers = graph.consumers(node.output)
        if (
            node.op in _ACCUMULATOR_OPS
            and node.output not in graph.outputs
            and len(readers) == 1
            and readers[0].op in _JOIN_OPS
            and readers[0].inputs.count(node.output) == 1
        ):
            wide.add(node.output)
            continue
        decisions.append(node.output)
        decision_of[node.output] = node.output
    outputs = frozenset(decision_of[name] for name in graph.outputs)
    if outputs & set(graph.inputs):
        raise GraphError("a network output is a network input; there is nothing to quantize.")
    return Sites(
        decisions=tuple(decisions),
        decision_of=decision_of,
        wide=frozenset(wide),
        inputs=frozenset(graph.inputs),
        outputs=outputs,
        nonnegative=frozenset(nonnegative & set(decisions)),
    )


def find_clipped(graph: Graph, sites: Sites) -> frozenset[str]:
    """Return the decisions whose codes must hold a zero; lowering refuses bipolar codes there, which have none.

    These are the decisions of nodes with a fused activation, of what lone ones read, of concats that a wide branch with
    one ends in, and of what is padded by a node of its own.

    Example:
        >>> from dyadiq.ir.graph import Node, TensorInfo
        >>> nodes = (Node("sum", "add", ("x", "x"), "sum"), Node("act", "relu", ("sum",), "act"))
        >>> graph = Graph("float", ("x",), ("act",), nodes, dict.fromkeys(("x", "sum", "act"), TensorInfo((4,))), {})
        >>> find_clipped(graph, find_sites(graph))
        frozenset({'sum'})
    """
    clipped = set()
    for node in graph.nodes:
        if node.op != "pad" and find_limits(node) is None:
            continue
        if node.output not in sites.wide:
            clipped.add(sites.decision_of[node.output])
            continue
        (join,) = graph.consumers(node.output)
        if join.op == "concat":  # An add takes its branches wide and clips only its own relu.
            clipped.add(sites.decision_of[join.output])
    return frozenset(clipped)


def find_looked_up(graph: Graph, sites: Sites) -> frozenset[str]:
    """Return the decisions whose codes a lookup table reads, and which are therefore at most 8 bits wide.

    Example:
        >>> from dyadiq.ir.graph import Node, TensorInfo
        >>> node = Node("act", "lookup", ("x",), "act", {"function": "silu"})
        >>> graph = Graph("float", ("x",), ("act",), (node,), dict.fromkeys(("x", "act"), TensorInfo((4,))), {})
        >>> find_looked_up(graph, find_sites(graph))
        frozenset({'x'})
    """
    return frozenset(sites.decision_of[node.inputs[0]] for node in graph.nodes if node.op == "lookup")
