"""Forward Gram: the change of the outputs in the metric of the loss, and all cross terms for free.

For decision and width i and sample n, ``u_{i,n} = S_n^T (z_n(i) - z_n)`` with S from `losses`. Then

    value_i = 1/2 mean_n ||u_{i,n}||^2      ~ KL(p || p_i), for any size of perturbation of the tensor,
    matrix_ij = mean_n u_{i,n} . u_{j,n}    the interactions: loss(x) ~ 1/2 sum_ij matrix_ij over the chosen i, j.

Only forward passes: no derivative is taken. Caution: the cross terms assume that changes of the outputs add up.
On well-trained networks at large perturbations they misled a quadratic search; use them shrunk, and behind a
measured check. The diagonal is the reliable part.

Method of `dyadiq.curvature.METHODS`. Source: the Gauss-Newton form of the loss, evaluated at finite differences.
"""

from __future__ import annotations

from dyadiq.core.tables import Interactions, SampleLosses, SensitivityTable
from dyadiq.curvature.losses import UNITS, root_transposed_times
from dyadiq.curvature.outputs import PerturbedOutputs
from dyadiq.curvature.pieces import Piece
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.statistics import mean_with_stderr, to_entries

__all__ = ["gram"]


def gram(problem: Problem) -> SensitivityTable:
    """Return ``1/2 mean ||S^T dz||^2`` of every decision and width, with all interactions.

    Raises:
        DataError: Fewer than two samples, or non-finite outputs.
        ConfigError: The loss cannot take the network's output, or there are several.
    """
    problem.require_one_output("gram")
    problem.require_samples("gram")
    outputs = PerturbedOutputs(problem)

    def products(chunk: int) -> Piece:
        reference, perturbed = outputs(chunk)
        u = root_transposed_times(reference, perturbed - reference, problem.loss)
        flat = u.flatten(1).numpy()
        return {"halves": 0.5 * u.square().sum(-1).numpy(), "matrix": (flat @ flat.T)[:, :, None]}

    found = problem.chunks("forward passes", products)
    values, matrix = found["halves"], found["matrix"].sum(-1)
    return SensitivityTable(
        method="gram",
        unit=UNITS[problem.loss],
        entries=to_entries({key: mean_with_stderr(row) for key, row in zip(problem.index, values, strict=True)}),
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed_used,
        interactions=Interactions(problem.index, matrix / problem.n_samples),
        samples=SampleLosses(problem.index, values),
        notes=("interactions assume that output changes add up: shrink them and check a plan by measurement",),
    )
