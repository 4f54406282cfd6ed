"""The call that makes a measurement of whole plans from a graph and samples, kept on disk if asked for.

For `allocate(refine_by=..., refine_guard=...)`, by the pipeline and by users. The measurement itself is `plan_loss`.
A measurement with a folder keeps every plan's losses there: interrupted and called again with the same arguments, the
search finds them and goes the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.artifact import canonical_json, read_artifact, write_artifact
from dyadiq.core.facts import NetworkFacts
from dyadiq.curvature.plan_loss import PlanLoss
from dyadiq.curvature.problem import Loss, Precision, Problem, check_parameters, widths_to_measure
from dyadiq.curvature.samples import read_samples
from dyadiq.ir.execute import Batch
from dyadiq.ir.graph import Graph
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.sites import find_sites

__all__ = ["PlanLosses", "plan_losses"]

SCHEMA = "dyadiq.plan-losses/1"


class PlanLosses:
    """Measures plans as `PlanLoss` does, which is made when the first plan is not known yet."""

    def __init__(self, problem: Problem) -> None:
        """Keep the problem; losses are kept in its ``folder``."""
        self._problem = problem
        self._base: dict[str, int] | None = None

    @cached_property
    def _measure(self) -> PlanLoss:
        return PlanLoss(self._problem)

    def __call__(self, bits: Mapping[str, int]) -> NDArray[np.float64]:
        """Return the loss of every sample, ``[N]``.

        Raises:
            ConfigError: A width that the problem does not measure.
            StorageError: The disk is full or not writable.
            ArtifactError: A kept file is damaged.
        """
        path = self._path(bits)
        if path is not None and path.exists():
            return read_artifact(path, SCHEMA)[1]["losses"]
        if self._base is not None:
            self._measure.rebase(self._base)
            self._base = None
        losses = self._measure(bits)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_artifact(path, SCHEMA, {}, {"losses": losses})
        return losses

    def rebase(self, bits: Mapping[str, int]) -> None:
        """Expect plans that differ little from this one."""
        self._base = dict(bits)

    def _path(self, bits: Mapping[str, int]) -> Path | None:
        if self._problem.folder is None:
            return None
        named = {name: bits[name] for name in self._problem.widths if name in bits}
        return self._problem.folder / f"{hashlib.sha256(canonical_json(named).encode()).hexdigest()[:32]}.safetensors"


def plan_losses(
    graph: Graph,
    batches: Iterable[Batch],
    facts: NetworkFacts,
    *,
    bits: Sequence[int] = (2, 3, 4, 6, 8),
    activation_bits: Sequence[int] = (8,),
    loss: Loss = "cross_entropy",
    precision: Precision = "float32",
    candidates: Mapping[tuple[str, int], NDArray[np.float64]] | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> PlanLosses:
    """Return a measurement of whole plans: every sample's divergence from the float network.

    Args:
        graph: A float graph, captured or canonical.
        batches: Samples; no labels are read.
        facts: Of the network, as in the table of `analyze`.
        bits: Candidate widths of weights, as for `allocate`.
        activation_bits: Candidate widths of activations, likewise.
        loss: ``cross_entropy`` (outputs are logits) or ``mse``.
        precision: Of the forward passes.
        candidates: As for `analyze`: weights as they will be rounded, and biases that move with them.
        seed: Of the values that ranges of activations are fitted to.
        folder: Where to keep losses; it must serve this one measurement. None keeps none.

    Raises:
        ConfigError: Several outputs, a width that is no width, or none.
        DataError: No batch, or an unusable one.
        QuantError: NaN or infinity among the parameters.

    Example:
        >>> from dyadiq.core.facts import QuantConfig
        >>> from dyadiq.cost.facts import network_facts
        >>> from dyadiq.ir.graph import Node, TensorInfo
        >>> infos = {"x": TensorInfo((2,)), "fc": TensorInfo((2,))}
        >>> node = Node("fc", "linear", ("x", "fc.weight"), "fc")
        >>> weight = np.array([[1.0, 0.3], [0.2, -1.0]])
        >>> graph = Graph("float", ("x",), ("fc",), (node,), infos, {"fc.weight": weight})
        >>> losses = plan_losses(graph, [np.eye(2)], network_facts(graph, QuantConfig()), bits=(2, 8))
        >>> narrow, wide = {"x": 8, "fc.weight": 2, "fc": 16}, {"x": 8, "fc.weight": 8, "fc": 16}
        >>> bool(losses(narrow).mean() > losses(wide).mean())
        True
    """
    canonical = canonicalize(graph)
    check_parameters(canonical)
    problem = Problem(
        graph=canonical,
        facts=facts,
        sites=find_sites(canonical),
        batches=read_samples(batches, precision, None, canonical.inputs).inputs,
        widths=widths_to_measure(facts, bits, activation_bits),
        loss=loss,
        precision=precision,
        seed=seed,
        candidates=candidates,
        folder=folder,
    )
    problem.require_one_output("refine")
    problem.require_samples("refine")
    return PlanLosses(problem)
