"""The loss difference at the labels, measured with one decision quantized at a time.

    d_n(b) = L_n(quantized to b bits) - L_n(float),     raw value = mean_n d_n(b)

What everybody means by sensitivity, and noisier than `kl`, because quantization also makes some samples better. Raw
means can be negative, or lower at fewer bits, and an allocation would then pay for it. So the entries of a decision
are the closest numbers (least squares, weighted by 1/stderr^2) that do not rise with bits and are never below zero;
decisions whose raw values needed that are named in the notes. Standard errors are those of the raw means.

The same forward passes as `gram` and `kl`. Method of `dyadiq.curvature.METHODS`.
Source of the fit: pool adjacent violators, Barlow et al. 1972.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dyadiq.core.tables import Sensitivity, SensitivityTable
from dyadiq.curvature.block import sample_losses
from dyadiq.curvature.losses import UNITS, check_labels
from dyadiq.curvature.outputs import PerturbedOutputs
from dyadiq.curvature.pieces import Piece
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.statistics import mean_with_stderr, to_entries

__all__ = ["falling", "loss"]


def loss(problem: Problem) -> SensitivityTable:
    """Return the mean loss difference of every decision and width, made to fall with bits and to be at least zero.

    Raises:
        DataError: Fewer than two samples, no labels or impossible ones, or non-finite outputs.
        ConfigError: The loss cannot take the network's output, or there are several.
    """
    problem.require_one_output("loss")
    problem.require_samples("loss")
    assert problem.labels is not None  # `analyze` reads them for this method
    outputs, given = PerturbedOutputs(problem), problem.labels

    def differences(chunk: int) -> Piece:
        reference, perturbed = outputs(chunk)
        target = check_labels(given[chunk], reference, problem.loss)
        before = sample_losses(reference, target, problem.loss)
        return {"change": torch.stack([sample_losses(z, target, problem.loss) - before for z in perturbed]).numpy()}

    values = problem.chunks("forward passes", differences)["change"]
    raw = to_entries({key: mean_with_stderr(row) for key, row in zip(problem.index, values, strict=True)})
    entries = {}
    for name, row in raw.items():
        fitted = falling([e.value for e in row.values()], [e.stderr for e in row.values()])
        entries[name] = {
            bits: Sensitivity(value, e.stderr) for (bits, e), value in zip(row.items(), fitted, strict=True)
        }
    corrected = [name for name, row in raw.items() if any(entries[name][b].value != e.value for b, e in row.items())]
    notes = (
        ()
        if not corrected
        else (f"raw differences were negative or rose with bits, and were fitted: {', '.join(corrected)}",)
    )
    return SensitivityTable(
        method="loss",
        unit=UNITS[problem.loss],
        entries=entries,
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed_used,
        notes=notes,
    )


def falling(values: Sequence[float], stderrs: Sequence[float]) -> list[float]:
    """Return the non-increasing, non-negative numbers closest to the given ones in weighted least squares.

    Example:
        >>> falling([3.0, 1.0, 2.0, -1.0], [1.0, 1.0, 1.0, 1.0])
        [3.0, 1.5, 1.5, 0.0]
    """
    floor = max((s for s in stderrs), default=0.0) * 1e-6
    blocks: list[tuple[float, float, int]] = []  # mean, weight, members
    for value, stderr in zip(values, stderrs, strict=True):
        block = (value, 1.0 / max(stderr, floor, 1e-150) ** 2, 1)
        while blocks and blocks[-1][0] < block[0]:
            mean, weight, members = blocks.pop()
            total = weight + block[1]
            block = (mean + (block[0] - mean) * (block[1] / total), total, members + block[2])
        blocks.append(block)
    return [max(0.0, mean) for mean, _, members in blocks for _ in range(members)]
