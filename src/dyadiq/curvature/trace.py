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
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.tables import Sensitivity, SensitivityTable
from dyadiq.curvature.losses import UNITS, check_outputs, root_column, root_times
from dyadiq.curvature.perturb import Network, fit_activations, squared_activation_error
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.squared_error import squared_weight_error
from dyadiq.curvature.statistics import mean_with_stderr, to_entries
from dyadiq.curvature.weight_gradient import squared_norm, weight_gradient

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
    traces: dict[str, list[NDArray[np.float64]]] = {name: [] for name in problem.widths}
    errors: dict[tuple[str, int], list[NDArray[np.float64]]] = {key: [] for key in ranges}
    generator = torch.Generator().manual_seed(problem.seed)
    problem.progress.start("backward passes", len(problem.batches))
    for batch in problem.batches:
        values = network.run([x.clone().requires_grad_() for x in batch])
        for name, samples in _sample_traces(problem, network.output(values), values, generator).items():
            traces[name].append(samples.numpy() / problem.facts.decision(name).n_elements)
        for key, params in ranges.items():
            errors[key].append(squared_activation_error(values[key[0]], params))
        problem.progress.advance()
    problem.progress.finish()

    per_element = {name: np.concatenate(parts) for name, parts in traces.items()}
    curvature = {name: mean_with_stderr(samples) for name, samples in per_element.items()}
    measured: dict[tuple[str, int], Sensitivity] = {}
    for name, bits in problem.index:
        if (name, bits) in errors:
            measured[name, bits] = mean_with_stderr(0.5 * per_element[name] * np.concatenate(errors[name, bits]))
        else:
            half = 0.5 * squared_weight_error(problem, name, bits)
            measured[name, bits] = Sensitivity(half * curvature[name].value, half * curvature[name].stderr)
    notes = () if problem.n_probes is None else (f"traces estimated with {problem.n_probes} random probes per sample",)
    return SensitivityTable(
        method="trace",
        unit=UNITS[problem.loss],
        entries=to_entries(measured),
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed_used,
        curvature=curvature,
        notes=notes,
    )


def _sample_traces(
    problem: Problem, output: Tensor, values: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Return t_n of every decision to measure, ``[n]`` each, in float64."""
    graph = problem.graph
    users = {name: [node for node in graph.nodes if name in node.inputs] for name in problem.weights}
    tensors = sorted({node.output for nodes in users.values() for node in nodes} | set(problem.activations))
    sources = [values[name] for name in tensors]
    flat = check_outputs(output, problem.loss)
    traces = {name: torch.zeros(len(flat), dtype=torch.float64) for name in problem.widths}
    vectors, n_vectors, weight_of_one = _directions(problem, flat, generator)
    for i, vector in enumerate(vectors):
        gradients = dict(
            zip(
                tensors,
                torch.autograd.grad(
                    output,
                    sources,
                    grad_outputs=vector.to(output.dtype).reshape(output.shape),
                    retain_graph=i + 1 < n_vectors,
                    allow_unused=True,
                    materialize_grads=True,
                ),
                strict=True,
            )
        )
        for name in problem.activations:
            traces[name] += weight_of_one * gradients[name].to(torch.float64).square().flatten(1).sum(1)
        for name, nodes in users.items():
            shape = graph.params[name].shape
            parts = []
            for node in nodes:
                delta = gradients[node.output]
                if node.attrs.get("activation") == "relu":
                    delta = delta * (values[node.output] > 0)
                parts.append((node, shape, values[node.inputs[0]].detach(), delta))
            if len(parts) == 1:
                norms = squared_norm(*parts[0])
            else:  # One weight in several places: its gradient is the sum of theirs.
                total = torch.stack([weight_gradient(*part) for part in parts]).to(torch.float64).sum(0)
                norms = total.square().flatten(1).sum(1)
            traces[name] += weight_of_one * norms
    return traces


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
