"""Calibration: scales and zero points of every decision of a plan, from weights and a few batches.

Used by `quant.quantize`. Weights are fitted as they are after folding; activations are observed in the float
network, in one pass over the batches. Network inputs are unsigned if no observed value is negative; network outputs
of 16 bits get headroom (`core.ranges`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.affine import AffineParams, fit_affine
from dyadiq.core.errors import QuantError
from dyadiq.core.format import Format
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.ranges import make_observer
from dyadiq.ir.execute import Batch, graph_params, iterate_batches, run_graph
from dyadiq.ir.graph import Graph
from dyadiq.ir.sites import find_sites

__all__ = ["calibrate_activations", "check_finite_params", "fit_weights"]


def check_finite_params(params: Mapping[str, NDArray[np.float64]]) -> None:
    """Refuse parameters that no format can hold.

    Raises:
        QuantError: A parameter is NaN or infinite; all such parameters are named.
    """
    bad = {name: int(np.count_nonzero(~np.isfinite(value))) for name, value in params.items()}
    named = [f"{name} ({count} of {params[name].size})" for name, count in bad.items() if count]
    if named:
        raise QuantError(
            f"parameters hold NaN or infinite values: {', '.join(named)}; only finite ones can be quantized. "
            "Check the checkpoint or the training run."
        )


def fit_weights(graph: Graph, formats: Mapping[str, Format]) -> dict[str, AffineParams]:
    """Return the quantizer of every weight of a canonical graph, by parameter name.

    Raises:
        QuantError: A group size that does not divide a channel, or a weight that is not finite.
    """
    names = dict.fromkeys(node.inputs[1] for node in graph.nodes if node.op in ("conv2d", "linear"))
    return {name: fit_affine(graph.params[name], formats[name], name=name) for name in names}


def calibrate_activations(
    graph: Graph,
    formats: Mapping[str, Format],
    batches: Iterable[Batch],
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> dict[str, AffineParams]:
    """Return the quantizer of every activation decision of a canonical graph, by tensor name.

    Args:
        graph: Canonical float graph.
        formats: By decision name.
        batches: At least one; see `ir.execute.Batch`.
        device: Where to run the network.
        seed: Of the samples that ``percentile`` and ``mse`` keep.
        progress: One step a batch.

    Raises:
        DataError: No batch, or an activation that is NaN or infinite (the tensor is named).
    """
    sites = find_sites(graph)
    observers = {
        name: make_observer(
            formats[name],
            nonnegative=True if name in sites.nonnegative else None if name in sites.inputs else False,
            name=name,
            seed=seed,
            answer=name in sites.outputs,
        )
        for name in sites.decisions
    }

    def observe(name: str, value: Tensor) -> None:
        if name in observers:
            observers[name].update(value.detach().cpu().numpy())

    params = graph_params(graph, device=device)
    total = len(batches) if isinstance(batches, Sized) else None
    progress.start("calibrate", total)
    try:
        with torch.no_grad():
            for x in iterate_batches(batches):
                run_graph(graph, x.to(device), params, observe)
                progress.advance()
    finally:
        progress.finish()
    return {name: observer.params() for name, observer in observers.items()}
