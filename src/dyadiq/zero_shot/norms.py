"""What the batch norms of a captured graph remember: per statistics, the tensors that really feed them.

Used by `distill`. Read from the graph, not from the order of modules, so batch norm before a layer, after a join, or
called at several places is paired with what it saw in training. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import DataError
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.passes.drop_dead import drop_dead

__all__ = ["Remembered", "find_remembered", "statistics_graph"]


@dataclass(frozen=True, eq=False)
class Remembered:
    """The running statistics of one batch norm.

    Attributes:
        name: Name of its running mean.
        tensors: What it normalizes; several where one module is called several times.
        mean: ``[C]``, float64.
        var: ``[C]``, float64, without eps.
        eps: What the batch norm adds to the variance.
    """

    name: str
    tensors: tuple[str, ...]
    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    eps: float


def find_remembered(graph: Graph) -> tuple[Remembered, ...]:
    """Return the statistics of every batch norm, in order of execution.

    Raises:
        DataError: There are none to work with: no batch norm, folded ones, never trained ones, negative variances or
            values that are not finite; says what to do instead.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> inputs = ("x", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        >>> values = {"bn.weight": [1.0], "bn.bias": [0.0], "bn.running_mean": [3.0], "bn.running_var": [4.0]}
        >>> graph = Graph("float", ("x",), ("bn",), (Node("bn", "batch_norm", inputs, "bn", {"eps": 1e-5}),),
        ...               dict.fromkeys(("x", "bn"), TensorInfo((1,))), {k: np.array(v) for k, v in values.items()})
        >>> [(found.name, found.tensors, found.mean) for found in find_remembered(graph)]
        [('bn.running_mean', ('x',), array([3.]))]
    """
    nodes: dict[tuple[str, str], list[Node]] = {}
    for node in graph.nodes:
        if node.op == "batch_norm":
            nodes.setdefault((node.inputs[3], node.inputs[4]), []).append(node)
    if not nodes:
        raise DataError(_why_there_are_none(graph))
    found = []
    for (mean_name, var_name), readers in nodes.items():
        mean, var = (np.asarray(graph.params[name], dtype=np.float64) for name in (mean_name, var_name))
        for name, values, bad in (
            (mean_name, mean, ~np.isfinite(mean)),
            (var_name, var, ~np.isfinite(var) | (var < 0)),
        ):
            if bad.any():
                raise DataError(
                    f"{name}: channel {int(np.argmax(bad))} is {values[np.argmax(bad)]}, expected finite statistics"
                    f"{' of at least 0' if name == var_name else ''}. Repair or retrain the model, or give batches."
                )
        tensors = tuple(dict.fromkeys(node.inputs[0] for node in readers))
        found.append(Remembered(mean_name, tensors, mean, var, float(readers[0].attrs["eps"])))
    if all((one.mean == 0).all() and (one.var == 1).all() for one in found):
        raise DataError(
            f"none of the {len(found)} batch norms was ever trained: every running mean is 0 and every variance 1, "
            "so they remember nothing of the data. Load the trained weights, or give batches."
        )
    return tuple(found)


def _why_there_are_none(graph: Graph) -> str:
    instead = (
        "Give a few real samples as batches (16 to 64 are enough to start with); or, for weights alone, "
        "method='squared_error' with activation_bits=(), which needs no data."
    )
    if any("activation" in node.attrs for node in graph.nodes):
        return (
            "data-free calibration needs the batch norms of the network, and this graph has none: it is canonical, and "
            f"canonical graphs have them folded into weights. Give the graph as `capture` returned it. {instead}"
        )
    return (
        "data-free calibration needs batch norms, whose running statistics are all that a network remembers of its "
        f"training data; this one has none. {instead}"
    )


def statistics_graph(graph: Graph, remembered: tuple[Remembered, ...]) -> Graph:
    """Return the part of the graph that makes the tensors of these batch norms; its outputs are those tensors.

    The network input comes out as well where a batch norm reads it directly.
    """
    wanted = tuple(dict.fromkeys(tensor for one in remembered for tensor in one.tensors))
    return drop_dead(graph.replace(outputs=wanted))
