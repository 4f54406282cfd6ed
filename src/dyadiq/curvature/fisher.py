"""The empirical Fisher information: squared gradients of the loss at the true labels, one backward pass.

    t_n = || dL_n / dv ||^2          at the label of sample n
    weight      1/2 * (mean_n t_n / n_elements) * ||Q_b(w) - w||^2,   activations as in `trace`

With labels drawn from the network's own softmax its mean would be the Gauss-Newton trace; with true labels it is that
only for a network whose probabilities are right. On training data of a network that fits them, gradients nearly vanish:
a note says so where the mean loss is below the mean entropy of the outputs. Never negative.

Method of `dyadiq.curvature.METHODS`. Sources: Kunstner et al. 2019 (what it is not); Theis et al. 2018 (its use).
"""

from __future__ import annotations

import torch

from dyadiq.core.tables import SensitivityTable
from dyadiq.curvature.block import sample_losses
from dyadiq.curvature.isotropic import activation_errors, isotropic_losses, isotropic_samples
from dyadiq.curvature.losses import UNITS, check_labels, check_outputs
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.pieces import Piece
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.sample_norms import sample_norms
from dyadiq.curvature.statistics import mean_with_stderr, to_entries

__all__ = ["fisher"]


def fisher(problem: Problem) -> SensitivityTable:
    """Return ``1/2 * mean squared gradient per element * squared error`` of every decision and width.

    Raises:
        DataError: Fewer than two samples, no labels or impossible ones, or non-finite outputs.
        ConfigError: The loss cannot take the network's output, or there are several.
    """
    problem.require_one_output("fisher")
    problem.require_samples("fisher")
    assert problem.labels is not None  # `analyze` reads them for this method
    network = Network(problem)
    given = problem.labels

    def samples(chunk: int) -> Piece:
        values = network.run([x.clone().requires_grad_() for x in problem.batches[chunk]])
        output = network.output(values)
        flat = check_outputs(output, problem.loss)
        leaf = flat.clone().requires_grad_()
        loss = sample_losses(leaf, check_labels(given[chunk], flat, problem.loss), problem.loss)
        (slope,) = torch.autograd.grad(loss.sum(), leaf)
        norms = sample_norms(problem, output, values, iter([slope]), 1)
        entropy = -(flat.softmax(1) * flat.log_softmax(1)).sum(1)
        own = {"loss": loss.detach().numpy(), "entropy": entropy.numpy()}
        return own | {f"t {name}": norm.numpy() for name, norm in norms.items()}

    found = problem.chunks("backward passes", samples)
    per_element = {name: found[f"t {name}"] / problem.facts.decision(name).n_elements for name in problem.widths}
    curvature = {name: mean_with_stderr(values) for name, values in per_element.items()}
    errors = activation_errors(problem, network)
    measured = isotropic_losses(problem, curvature, per_element, errors)
    notes = ["empirical Fisher: gradients at the true labels"]
    mean_loss, mean_entropy = float(found["loss"].mean()), float(found["entropy"].mean())
    if problem.loss == "cross_entropy" and mean_loss < mean_entropy:
        notes.append(
            f"the loss on these labels ({mean_loss:.3g} nats) is below the entropy of the outputs "
            f"({mean_entropy:.3g}): the network has fitted them, and gradients understate its curvature"
        )
    return SensitivityTable(
        method="fisher",
        unit=UNITS[problem.loss],
        entries=to_entries(measured),
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed_used,
        curvature=curvature,
        samples=isotropic_samples(problem, per_element, errors),
        notes=tuple(notes),
    )
