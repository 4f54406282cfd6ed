"""Direct KL divergence to the float network, one decision quantized at a time.

    value_i = mean_n KL(p_n || p_n(i)) = mean_n sum_c p_nc (log p_nc - log p_nc(i))

The same forward passes as `gram`, no cross terms and no assumption. Method of `dyadiq.curvature.METHODS`.
"""

from __future__ import annotations

import numpy as np

from dyadiq.core.errors import ConfigError
from dyadiq.core.tables import SensitivityTable
from dyadiq.curvature.losses import divergence
from dyadiq.curvature.outputs import perturbed_outputs
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.statistics import mean_with_stderr, to_entries

__all__ = ["kl"]


def kl(problem: Problem) -> SensitivityTable:
    """Return the mean KL divergence of every decision and width, in nats.

    Raises:
        DataError: Fewer than two samples, or non-finite outputs.
        ConfigError: The loss is not the cross-entropy, or cannot take the network's output, or there are several.
    """
    problem.require_one_output("kl")
    problem.require_samples("kl")
    if problem.loss != "cross_entropy":
        raise ConfigError(f"method 'kl' compares class probabilities, got loss {problem.loss!r}. Use method 'gram'.")
    rows = []
    for reference, perturbed in perturbed_outputs(problem):
        rows.append(divergence(reference, perturbed, problem.loss).numpy())
    values = np.concatenate(rows, axis=1)
    return SensitivityTable(
        method="kl",
        unit="nats",
        entries=to_entries({key: mean_with_stderr(row) for key, row in zip(problem.index, values, strict=True)}),
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed_used,
    )
