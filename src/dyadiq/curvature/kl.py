"""Direct KL divergence to the float network, one decision quantized at a time.

    value_i = mean_n KL(p_n || p_n(i)) = mean_n sum_c p_nc (log p_nc - log p_nc(i))

The same forward passes as `gram`, no cross terms and no assumption. Method of `dyadiq.curvature.METHODS`.
"""

from __future__ import annotations

from dyadiq.core.errors import ConfigError
from dyadiq.core.tables import SampleLosses, SensitivityTable
from dyadiq.curvature.losses import divergence
from dyadiq.curvature.outputs import PerturbedOutputs
from dyadiq.curvature.pieces import Piece
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
    outputs = PerturbedOutputs(problem)

    def divergences(chunk: int) -> Piece:
        reference, perturbed = outputs(chunk)
        return {"kl": divergence(reference, perturbed, problem.loss).numpy()}

    values = problem.chunks("forward passes", divergences)["kl"]
    return SensitivityTable(
        method="kl",
        unit="nats",
        entries=to_entries({key: mean_with_stderr(row) for key, row in zip(problem.index, values, strict=True)}),
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed_used,
        samples=SampleLosses(problem.index, values),
    )
