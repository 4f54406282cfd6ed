"""The public call from a captured graph and a plan to a `QuantModule`: checks, calibration, weights.

Used by the pipeline, the public face and people's own scripts. The module itself is `module`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from dyadiq.core.errors import DataError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.plan import BitPlan
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.cost.facts import network_facts
from dyadiq.ir.execute import Batch
from dyadiq.ir.graph import Graph
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.calibrate import calibrate_activations, check_finite_params, fit_weights
from dyadiq.quant.module import QuantModule
from dyadiq.zero_shot import distill_once

__all__ = ["quantize"]


def quantize(
    graph: Graph,
    plan: BitPlan,
    calibration: Iterable[Batch] | None,
    *,
    config: QuantConfig | None = None,
    learn_scales: bool = True,
    freeze_bn: bool = True,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> QuantModule:
    """Return a module that runs a captured graph as the plan says.

    Args:
        graph: From `ir.capture`, batch norms and all.
        plan: A format for every decision (`cost.facts.network_facts`).
        calibration: Batches that the ranges of activations are taken from. None: inputs distilled from the batch
            norms of the graph (`zero_shot.distill`), those that `analyze` made if it did.
        config: Everything about quantization except the bits.
        learn_scales: Whether scales are parameters.
        freeze_bn: True: batch norms keep their statistics from the start. False: they are live in training until
            ``freeze_batchnorm_()``.
        seed: Of the samples that range methods keep, and of distilled inputs.
        progress: One step a calibration batch.

    Raises:
        ConfigError: The plan does not fit the network.
        DataError: No calibration batch, one that is no list of them, or an activation that is not finite; or None is
            given, and no inputs can be distilled.
        GraphError: The graph cannot be made canonical.
        QuantError: A parameter is not finite, or a tensor cannot be quantized as asked.

    Example:
        >>> import torch
        >>> from dyadiq.core.plan import uniform_plan
        >>> from dyadiq.ir.graph import Node, TensorInfo
        >>> x, y = TensorInfo((2,)), TensorInfo((1,))
        >>> node = Node("fc", "linear", ("x", "fc.weight"), "fc")
        >>> graph = Graph("float", ("x",), ("fc",), (node,), {"x": x, "fc": y}, {"fc.weight": np.array([[1.0, -0.5]])})
        >>> plan = uniform_plan(network_facts(graph), 4, 8)
        >>> module = quantize(graph, plan, [torch.tensor([[1.0, 0.5], [-1.0, 0.0]])])
        >>> next(iter(module.state_dict())), module.weight_quants()["fc.weight"].codes
        ('fc.weight', array([[ 7, -4]]))
    """
    if calibration is not None and (
        isinstance(calibration, (Tensor, np.ndarray)) or not isinstance(calibration, Iterable)
    ):
        raise DataError(
            f"calibration must be batches that the ranges of activations are taken from, got one "
            f"{type(calibration).__name__}. Pass a list of batches: [x]."
        )
    config = QuantConfig() if config is None else config
    check_finite_params(graph.params)
    canonical = canonicalize(graph)
    plan.check(network_facts(canonical, config))
    if calibration is None:
        calibration = distill_once(graph, seed=seed, progress=progress)
    params = fit_weights(canonical, plan.formats)
    params |= calibrate_activations(canonical, plan.formats, calibration, seed=seed, progress=progress)
    return QuantModule(graph, plan, config, params, learn_scales=learn_scales, freeze_bn=freeze_bn)
