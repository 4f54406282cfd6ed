"""HAWQ-V2's Omega from the exact Gauss-Newton trace of every weight and activation, by C backward passes.

Per sample n, with S from `losses` and J_n the Jacobian of the outputs with respect to one tensor v of the network,

    t_n = tr(J_n^T S_n S_n^T J_n) = sum_c || J_n^T S_n[:, c] ||^2,          one backward pass per output c.

In a piecewise-linear network (ReLU, max pooling, folded batch norm, residuals) this is exactly the trace of the
Hessian block of v, whatever the labels (unless one weight is read by several layers in a row: then it is the
Gauss-Newton part), and it is never negative; no double backward pass, no random probes. Then

    curvature   mean_n t_n / n_elements(v)                       "mean trace per element"
    Omega_w  =  1/2 * (mean_n t_n / n_elements) * ||Q_b(w) - w||^2
    Omega_a  =  1/2 * mean_n (t_n / n_elements) * ||Q_b(a_n) - a_n||^2

The papers write Omega without the factor 1/2; it is kept here so that the unit is that of the loss (nats): Omega is
the expected second-order loss increase for an isotropic perturbation of that size. Halves change no allocation.

With ``n_probes`` the columns are replaced by ``S_n r_n``, random signs r_n of every sample: unbiased, and the
standard error over samples holds the error of the probes too.

Method of `dyadiq.curvature.METHODS`. Sources: Dong et al. 2020 (HAWQ-V2), eq. for Omega; Dangel et al. 2020 (BackPACK).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dyadiq.core.tables import SensitivityTable
from dyadiq.curvature.isotropic import isotropic_losses, isotropic_samples
from dyadiq.curvature.losses import UNITS, check_outputs, root_column, root_times
from dyadiq.curvature.perturb import Network, fit_activations, squared_activation_error
from dyadiq.curvature.pieces import Piece
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.sample_norms import sample_norms
from dyadiq.curvature.statistics import mean_with_stderr, to_entries

__all__ = ["trace"]


def trace(problem: Problem) -> SensitivityTable:
    """Return ``1/2 * mean trace per element * ||perturbation||^2`` of every decision and width.

    Raises:
        DataError: Fewer than two samples, or non-finite outputs.
        ConfigError: The loss cannot take the network's output, or there are several.
    """
    problem.require_one_output("trace")
    problem.require_samples("trace")
    network = Network(problem)
    ranges = fit_activations(problem, network)

    def samples(chunk: int) -> Piece:
        rng = torch.Generator().manual_seed(int(np.random.SeedSequence([problem.seed, chunk]).generate_state(1)[0]))
        values = network.run([x.clone().requires_grad_() for x in problem.batches[chunk]])
        output = network.output(values)
        vectors, n_vectors, weight_of_one = _directions(problem, check_outputs(output, problem.loss), rng)
        norms = sample_norms(problem, output, values, vectors, n_vectors)
        piece = {f"t {name}": weight_of_one * norm.numpy() for name, norm in norms.items()}
        for (name, bits), params in ranges.items():
            piece[f"e {name} {bits}"] = squared_activation_error(values[name], params)
        return piece

    found = problem.chunks("backward passes", samples)
    per_element = {name: found[f"t {name}"] / problem.facts.decision(name).n_elements for name in problem.widths}
    errors = {(name, bits): found[f"e {name} {bits}"] for name, bits in ranges}
    curvature = {name: mean_with_stderr(samples) for name, samples in per_element.items()}
    measured = isotropic_losses(problem, curvature, per_element, errors)
    notes = () if problem.n_probes is None else (f"traces estimated with {problem.n_probes} random probes per sample",)
    return SensitivityTable(
        method="trace",
        unit=UNITS[problem.loss],
        entries=to_entries(measured),
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed_used,
        curvature=curvature,
        samples=isotropic_samples(problem, per_element, errors),
        notes=notes,
    )


def _directions(problem: Problem, flat: Tensor, generator: torch.Generator) -> tuple[Iterator[Tensor], int, float]:
    """Return the vectors to send backward, their number, and the weight of one in the sum."""
    if problem.n_probes is None:
        n_outputs = flat.shape[1]
        return (root_column(flat, c, problem.loss) for c in range(n_outputs)), n_outputs, 1.0
    signs = (
        torch.randint(0, 2, flat.shape, generator=generator, dtype=torch.int64).to(torch.float64) * 2 - 1
        for _ in range(problem.n_probes)
    )
    return (root_times(flat, sign, problem.loss) for sign in signs), problem.n_probes, 1.0 / problem.n_probes
