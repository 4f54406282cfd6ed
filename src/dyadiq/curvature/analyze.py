"""The public call of this package: check everything, then hand a `Problem` to one method.

Used by the pipeline and by users; the methods themselves are in files of their own, listed in
`dyadiq.curvature.METHODS`. Knows nothing of budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dyadiq import curvature
from dyadiq.core.errors import ConfigError, DataError, QuantError, UnknownNameError
from dyadiq.core.facts import NetworkFacts, QuantConfig
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.tables import SensitivityTable
from dyadiq.cost.facts import network_facts
from dyadiq.curvature.growth import GROWING_METHODS, StopRule, measure_until
from dyadiq.curvature.problem import (
    Loss,
    Precision,
    Problem,
    check_parameters,
    widths_to_measure,
)
from dyadiq.curvature.samples import read_samples
from dyadiq.curvature.sound import Unreached, check_finite, check_policy, first_not_finite, settle_unreached
from dyadiq.curvature.spectrum import spectra
from dyadiq.ir.biases import weight_biases
from dyadiq.ir.execute import Batch
from dyadiq.ir.graph import Graph
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.sites import find_sites
from dyadiq.zero_shot import N_IMAGES, Distilled, distill_once

__all__ = ["analyze"]

_PROBED = ("trace", "hessian_trace", "hessian_xtrace")


def analyze(
    graph: Graph,
    batches: Iterable[Batch] | None,
    method: str = "gram",
    *,
    bits: Sequence[int] = (2, 3, 4, 6, 8),
    activation_bits: Sequence[int] | None = None,
    config: QuantConfig | None = None,
    loss: Loss = "cross_entropy",
    seed: int = 0,
    n_probes: int | None = None,
    max_samples: int | None = None,
    precision: Precision = "float32",
    candidates: Mapping[tuple[str, int], NDArray[np.float64]] | None = None,
    tolerance: float = 0.02,
    unreached: Unreached = "refuse",
    stop: StopRule | None = None,
    spectrum: bool = False,
    folder: Path | None = None,
    progress: Progress = NO_PROGRESS,
    facts: NetworkFacts | None = None,
) -> SensitivityTable:
    """Measure how much the loss grows when one decision at a time is quantized.

    Under `torch.distributed` (say ``torchrun``, after ``init_process_group``) the work is shared among the processes,
    all of which call this alike; every one returns the same table, bit for bit that of a single process.

    Methods: ``gram`` (forward passes, the best predictor of the KL divergence, with cross terms), ``kl`` (the
    divergence itself, same forward passes), ``trace`` (HAWQ-V2's Omega from the exact Gauss-Newton trace),
    ``eigenvalue`` (HAWQ-V1, by Lanczos), ``data_splits`` (Q-BERT's |mean| + std of eigenvalues), ``squared_error`` (no
    curvature; weights need no data, several outputs are fine). With labels, batches ``(inputs, labels)``: ``fisher``
    (empirical), ``loss`` (difference of the loss itself), ``hessian_trace`` and ``hessian_xtrace`` (the true Hessian,
    for networks that are not piecewise linear). From thousands of samples, taken by priority until the intervals are
    narrow: ``sampled_trace``. Every entry carries its standard error over samples.
    Decisions of fixed width (network input and output) are measured at that width only.

    Args:
        graph: A float graph, captured or canonical.
        batches: Calibration data; labels are read only where a method compares with them. For a network with
            several inputs, each batch is a mapping by input name. None: inputs are distilled from the batch norms of a
            captured graph (`zero_shot.distill`), unless the method needs none.
        method: A name in `dyadiq.curvature.METHODS`.
        bits: Widths to measure for weights; empty leaves the weights out.
        activation_bits: The same for activations; None means ``bits``.
        config: Formats without bits; None means that of ``facts``, or the default one.
        loss: ``cross_entropy`` (outputs are logits ``[N, C]``; unit nats) or ``mse`` (the sum of squared
            differences of a sample's outputs).
        seed: Seed of the random probes, of the values that ``mse`` and ``percentile`` ranges of activations keep, and
            of distilled inputs.
        n_probes: For ``trace``: None for the exact trace, by one backward pass per output; a number for that many
            random-sign backward passes (unbiased, for networks with many outputs). For ``hessian_trace``: random
            probes of a block; for ``hessian_xtrace``: products with it; None for 32.
        max_samples: Read at most so many samples.
        precision: Of the forward and backward passes. Quantization and sums are always float64.
        candidates: Weights as they will be rounded, by decision and bits, for roundings other than to the nearest
            code (GPTQ, AdaRound); the perturbation measured is theirs. Widths that are absent are rounded to nearest.
            Under a bias and its weight's bits: the bias that moves with the weight (`gram`, `kl`, `loss`).
        tolerance: For ``sampled_trace``: relative half width of the 95 % intervals at which it stops drawing.
        unreached: What to do about tensors that no calibration sample reached, of which nothing is known: ``refuse``,
            or ``worst``, which counts them as sensitive as the most sensitive tensor of their kind (`sound`).
        stop: For ``gram``, ``kl``, ``trace`` and ``fisher``: take samples, in a random order, only until this rule is
            content, such as ``RegretRule({"size": "25%"}, bits=bits)``: until the plan for that budget is within 1 % of
            the best one in 95 % of bootstraps. The notes say what was reached. None: all samples.
        spectrum: Measure the whole spectrum of every weight's curvature too, for the report (`spectrum`): about 100
            products with each Gauss-Newton block, of three passes over the samples each.
        folder: Where to keep finished pieces of the measurement: called again with the same arguments after an
            interruption, it goes on, to the same numbers. It must serve this one measurement. None keeps none.
        progress: Told of each step.
        facts: Facts of the canonical graph, if known already.

    Returns:
        The table; rows in the order of execution.

    Raises:
        UnknownNameError: No such method.
        ConfigError: A width, loss, precision, policy or count out of its set; facts and config that disagree; an output
            that the loss cannot take.
        DataError: Fewer than two samples, NaN or infinity (the first such tensor is named), a wrong shape; tensors that
            the data do not reach; no data where they are needed and none can
            be distilled; or no labels, or impossible ones, where they are compared with.
        InfeasibleError: No plan meets the budget of ``stop``.
        QuantError: NaN or infinity among the parameters or candidates, or candidates of another shape.

    Example:
        >>> import numpy as np
        >>> from dyadiq.ir.graph import Node, TensorInfo
        >>> infos = {"x": TensorInfo((2,)), "fc": TensorInfo((2,))}
        >>> node = Node("fc", "linear", ("x", "fc.weight"), "fc")
        >>> weight = np.array([[1.0, 0.3], [0.2, -1.0]])
        >>> graph = Graph("float", ("x",), ("fc",), (node,), infos, {"fc.weight": weight})
        >>> table = analyze(graph, [np.array([[1.0, 0.5], [-0.5, 1.0]])], bits=(3, 8))
        >>> table.value("fc.weight", 3) > table.value("fc.weight", 8) > 0
        True
    """
    check_policy(unreached)
    if method not in curvature.METHODS:
        raise UnknownNameError("method", method, curvature.METHODS)
    if n_probes is not None and (method not in _PROBED or n_probes < 1):
        raise ConfigError(
            f"n_probes is a positive number of random probes for the methods {', '.join(map(repr, _PROBED))}, "
            f"got n_probes={n_probes} with method {method!r}. Leave it out."
        )
    if stop is not None and method not in GROWING_METHODS:
        raise ConfigError(
            f"analyze: method {method!r} cannot stop by a rule, which needs the loss of every sample. Methods that "
            f"can: {', '.join(sorted(GROWING_METHODS))}."
        )
    check_parameters(graph)
    canonical = canonicalize(graph)
    check_parameters(canonical)
    if facts is not None and config is not None and facts.config != config:
        raise ConfigError("analyze: facts were made with another config than the one given. Give only one of them.")
    if facts is None:
        facts = network_facts(canonical, config or QuantConfig())
    widths = widths_to_measure(facts, bits, bits if activation_bits is None else activation_bits)
    seen = {decision.kind for decision in facts.decisions if decision.name in widths}
    from_nothing = batches is None and (method != "squared_error" or "activation" in seen)
    labelled = method in curvature.LABELLED_METHODS
    if from_nothing and labelled:
        raise DataError(
            f"method {method!r} compares with labels, which distilled inputs do not have. Give batches as "
            "(inputs, labels), or use 'gram', 'kl' or 'trace'."
        )
    if from_nothing:
        n_images = N_IMAGES if max_samples is None else max(2, max_samples)
        batches = distill_once(graph, n_images, seed=seed, progress=progress)
    samples = read_samples(batches, precision, max_samples, canonical.inputs, labelled=labelled)
    problem = Problem(
        graph=canonical,
        facts=facts,
        sites=find_sites(canonical),
        batches=samples.inputs,
        labels=samples.labels,
        widths=widths,
        loss=loss,
        precision=precision,
        seed=seed,
        candidates=_checked_candidates(candidates, facts, canonical),
        n_probes=n_probes,
        tolerance=tolerance,
        folder=folder,
        progress=progress,
    )
    measure = curvature.METHODS[method]
    try:
        table = measure(problem) if stop is None else measure_until(problem, measure, stop)
        check_finite(table)
        found = spectra(problem) if spectrum else {}
    except DataError as err:
        where = first_not_finite(problem)
        if not where:
            raise
        raise DataError(f"{err} {where}") from err
    table = replace(settle_unreached(problem, table, unreached), spectra=found)
    unused = graph.meta.get("unused_parameters", ())
    if unused:
        note = f"the forward pass does not use {', '.join(unused)}: in no plan, and not quantized"
        table = replace(table, notes=(*table.notes, note))
    if isinstance(batches, Distilled):
        table = replace(table, notes=(*table.notes, batches.summary, *batches.notes))
    return replace(table, seed=seed) if from_nothing else table


def _checked_candidates(
    candidates: Mapping[tuple[str, int], NDArray[np.float64]] | None, facts: NetworkFacts, canonical: Graph
) -> dict[tuple[str, int], NDArray[np.float64]] | None:
    """Return the candidates in float64.

    Raises:
        QuantError: One is of another shape than its weight or bias, or not finite.
    """
    if candidates is None:
        return None
    checked, biases = {}, set(weight_biases(canonical).values())
    for (name, bits), given in candidates.items():
        value = np.asarray(given, dtype=np.float64)
        kind = "bias" if name in biases else facts.decision(name).kind
        shape = canonical.params[name].shape if name in biases else facts.decision(name).shape
        if kind == "activation" or value.shape != tuple(shape) or not np.isfinite(value).all():
            raise QuantError(
                f"candidate of {name} at {bits} bits: got shape {list(value.shape)}"
                f"{'' if np.isfinite(value).all() else ' with NaN or infinite values'}, expected finite values of "
                f"the {kind}'s shape {list(shape)}; only weights, and biases with them, have candidates."
            )
        checked[name, bits] = value
    return checked
