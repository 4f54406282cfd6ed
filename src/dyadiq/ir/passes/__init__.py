"""Passes over float graphs, one file each, and the canonical order of them.

A pass is a function from Graph to Graph that preserves what the network computes, returns a new graph, and changes
nothing when run twice. To add one: write ``passes/<name>.py``, put it into `CANONICAL_PASSES` where it belongs, and
the tests of tests/unit/ir/test_passes.py run over it. No torch.

A canonical graph has no batch norm, no dead node, and no activation that could be part of a node before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType

from dyadiq.core.errors import GraphError
from dyadiq.ir.check import check_graph
from dyadiq.ir.graph import Graph
from dyadiq.ir.passes.drop_dead import drop_dead
from dyadiq.ir.passes.fold_batchnorm import (
    convert_batchnorm,
    find_batchnorm_pairs,
    fold_batchnorm,
    fold_batchnorm_forward,
)
from dyadiq.ir.passes.fuse_activation import fuse_activation
from dyadiq.ir.passes.fuse_pad import fuse_pad
from dyadiq.ir.passes.hoist_relu import hoist_relu
from dyadiq.ir.passes.merge_steps import merge_steps

__all__ = ["CANONICAL_PASSES", "canonicalize", "find_batchnorm_pairs"]

_logger = logging.getLogger(__name__)

CANONICAL_PASSES: Mapping[str, Callable[[Graph], Graph]] = MappingProxyType(
    {
        # in this order
        "drop_dead": drop_dead,
        "merge_steps": merge_steps,
        "fuse_pad": fuse_pad,  # before batch norms are turned into convolutions that would need a padding of their own
        "fold_batchnorm": fold_batchnorm,
        "fold_batchnorm_forward": fold_batchnorm_forward,  # of what is left: on [N, C], before a linear
        "convert_batchnorm": convert_batchnorm,  # what folding left over
        "hoist_relu": hoist_relu,  # so that conv + pool + relu fuses too
        "fuse_activation": fuse_activation,  # after folding, so that conv + bn + relu is one node
    }
)


def canonicalize(graph: Graph) -> Graph:
    """Return the graph after all canonical passes, checked before the first and after each.

    Raises:
        GraphError: The graph is illegal or cannot be made canonical (then the message says why), or a pass broke it.

    Example:
        >>> from dyadiq.ir.graph import Node, TensorInfo
        >>> nodes = (Node("sum", "add", ("x", "x"), "sum"), Node("act", "relu", ("sum",), "act"))
        >>> graph = Graph("float", ("x",), ("act",), nodes, dict.fromkeys(("x", "sum", "act"), TensorInfo((4,))), {})
        >>> [(node.name, node.output, node.attrs) for node in canonicalize(graph).nodes]
        [('sum', 'act', {'activation': 'relu'})]
    """
    check_graph(graph)
    for name, run_pass in CANONICAL_PASSES.items():
        before = len(graph.nodes)
        graph = run_pass(graph)
        try:
            check_graph(graph)
        except GraphError as err:
            raise GraphError(f"after pass {name!r}: {err} This is a bug of the pass.") from err
        _logger.debug("pass %s: %d nodes, were %d", name, len(graph.nodes), before)
    return graph
