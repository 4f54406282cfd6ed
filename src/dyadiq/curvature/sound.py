"""What a sensitivity table must be before anybody allocates by it: finite, and about tensors that the data reached.

Used by `analyze`, after the method. A zero is the dangerous entry: of a tensor that matters little it is a measurement,
of one that no calibration sample reached (a branch behind a closed gate, a layer whose ReLU never opened, outputs that
are saturated) it is the lack of one, and an allocation would give that tensor the fewest bits. So tensors are told
apart by their perturbation: quantization changed them, or there was nothing to change, and no sample's loss moved.

    refuse      the default: they are named, and nothing is returned
    worst       they count as sensitive as the most sensitive tensor of their kind at the same width

A dead *channel* of a reached tensor is no problem: it has the scale of the tensor (`core.affine.fit_affine`).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.core.tables import SampleLosses, Sensitivity, SensitivityTable
from dyadiq.curvature.perturb import Network, fit_activations, quantized_weight, squared_activation_error
from dyadiq.curvature.problem import Problem

__all__ = ["Unreached", "check_finite", "check_policy", "find_unreached", "first_not_finite", "settle_unreached"]

Unreached = Literal["refuse", "worst"]


def check_policy(unreached: str) -> None:
    """Check the name of a policy.

    Raises:
        ConfigError: There is none of that name.
    """
    if unreached not in get_args(Unreached):
        raise ConfigError(f"analyze: unreached must be one of {', '.join(get_args(Unreached))}, got {unreached!r}.")


def check_finite(table: SensitivityTable) -> None:
    """Check that every sensitivity is a number.

    Raises:
        DataError: NaN or infinite ones; all their tensors are named.
    """
    bad = [
        name
        for name, row in table.entries.items()
        if not np.isfinite([(s.value, s.stderr) for s in row.values()]).all()
    ]
    if bad:
        raise DataError(
            f"method {table.method!r}: the sensitivity of {', '.join(bad)} is NaN or infinite on the calibration data. "
            "Use precision 'float64'; if it stays, look at these layers' weights, or use method 'gram', which takes no "
            "derivatives."
        )


def first_not_finite(problem: Problem) -> str:
    """Return a sentence about the first tensor of the float network that is not finite; empty if all are finite."""
    network, makers = Network(problem), {node.output: node for node in problem.graph.nodes}
    first = 0
    for batch in problem.batches:
        for name, value in network.run_only(batch).items():
            bad = ~torch.isfinite(value)
            if bad.any():
                node, sample = makers.get(name), first + int(bad.flatten(1).any(1).nonzero()[0, 0])
                sizes = [f"{i} (up to {np.abs(problem.graph.params[i]).max():.3g})" for i in _parameters(problem, name)]
                made = f", made by {node.op}{' of ' + ', '.join(sizes) if sizes else ''}" if node else ""
                return f"The first tensor with such values is {name!r}{made}, at sample {sample}."
        first += len(batch[0])
    return ""


def settle_unreached(problem: Problem, table: SensitivityTable, unreached: Unreached) -> SensitivityTable:
    """Return the table with the policy carried out, and a note where it was needed.

    Raises:
        DataError: The policy is ``refuse`` and the data reached no sample's loss through some tensor; or it is
            ``worst`` and there is no tensor to compare with.
    """
    why = find_unreached(problem, table)
    if not why:
        return table
    named = ", ".join(f"{name} ({reason})" for name, reason in why.items())
    free = [d.name for d in table.facts.decisions if d.fixed_bits is None and d.name in table.entries]
    everything = (
        " These are all; perhaps the outputs are saturated (probabilities of 0 and 1)." if len(why) == len(free) else ""
    )
    if unreached == "refuse":
        raise DataError(
            f"{len(why)} of {len(free)} tensors had no effect on the loss of any of the {problem.n_samples} samples, "
            f"so that nothing was measured about them: {named}.{everything} A sensitivity of zero would give "
            "them the fewest bits. Give calibration data that reach them, or remove dead branches from the model; or "
            "say unreached='worst' to count them as sensitive as the most sensitive tensor of their kind."
        )
    kinds = {d.name: d.kind for d in table.facts.decisions}
    entries = dict(table.entries)
    for name in why:
        entries[name] = {
            bits: max(
                (
                    table.entries[other][bits]
                    for other in free
                    if other not in why and kinds[other] == kinds[name] and bits in table.entries[other]
                ),
                key=lambda entry: entry.value,
                default=Sensitivity(0.0, 0.0),
            )
            for bits in table.entries[name]
        }
        if not any(entry.value for entry in entries[name].values()):
            raise DataError(
                f"{name}: no calibration sample reached it, and there is no other {kinds[name]} that was reached to "
                f"compare it with.{everything} Give calibration data that reach it."
            )
    note = f"not reached by the calibration data, taken for as sensitive as the worst of their kind: {named}"
    return replace(table, entries=entries, samples=_without(table.samples, why), notes=(*table.notes, note))


def _without(samples: SampleLosses | None, names: Container[str]) -> SampleLosses | None:
    if samples is None:
        return None
    kept = [i for i, (name, _) in enumerate(samples.index) if name not in names]
    return SampleLosses(tuple(samples.index[i] for i in kept), samples.losses[kept])


def find_unreached(problem: Problem, table: SensitivityTable) -> dict[str, str]:
    """Return free tensors of which nothing was measured, with the reason."""
    fixed = {d.name for d in table.facts.decisions if d.fixed_bits is not None}
    still = [
        name
        for name, row in table.entries.items()
        if name not in fixed and all(entry.value == 0.0 and entry.stderr == 0.0 for entry in row.values())
    ]
    if not still:
        return {}
    silent, moved = _activations(problem, [name for name in still if name not in problem.graph.params])
    why = {}
    for name in still:
        if name in silent:
            why[name] = "zero in every sample"
        elif name in moved or (name in problem.graph.params and _is_changed(problem, name)):
            why[name] = "no effect"
    return why


def _activations(problem: Problem, names: list[str]) -> tuple[set[str], set[str]]:
    """Return which of these activations are zero in all samples, and which are changed by their fewest bits."""
    if not names:
        return set(), set()
    network = Network(problem)
    narrow = replace(problem, widths={name: problem.widths[name][:1] for name in names}, folder=None)
    ranges = {name: params for (name, _), params in fit_activations(narrow, network).items()}
    silent, moved = set(names), set()
    for batch in problem.batches:
        values = network.run_only(batch)
        silent -= {name for name in names if bool(values[name].any())}
        moved |= {name for name in names if squared_activation_error(values[name], ranges[name]).any()}
    return silent, moved


def _is_changed(problem: Problem, name: str) -> bool:
    weight = np.asarray(problem.graph.params[name], dtype=np.float64)
    return bool((quantized_weight(problem, name, problem.widths[name][0]) != weight).any())


def _parameters(problem: Problem, output: str) -> list[str]:
    return [
        i for node in problem.graph.nodes if node.output == output for i in node.inputs if i in problem.graph.params
    ]
