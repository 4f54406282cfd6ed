"""Codes of few signed digits chosen once more, one after the other, by the loss itself.

Used by `finetune` after training with `sparsify`. A weight of one digit jumps by factors of two when it crosses the
middle between its codes, and straight-through training leaves many weights there, so that the last epoch's codes are
partly chance. Coordinate descent: for every weight that has digits, in turn, the nearest other codes of its sign within
its limit; for every bias, small shifts; kept is what lowers the cross entropy on training samples. No digit is
added, so the circuit stays about as large. Source: the oscillations are those of Nagel et al. 2022 (arXiv:2203.11086);
descent by the loss over codes is what `quant.refine` does over ranges.

Digits are exchanged as well: those whose loss costs least for what they take against those that would gain most, found
by the gradient and measured, at equal cost; what a circuit has left of its budget is spent the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.signed_digits import count_digits, digit_grids
from dyadiq.quant.fold import Layer
from dyadiq.quant.module import QuantModule
from dyadiq.quant.write_back import has_bias, own_layers, shift_bias_, write_weight_
from dyadiq.train.descent import LEAST_GAIN, Descent, Place, by_rows, descent_on
from dyadiq.zoo.data import Split

__all__ = ["DigitCosts", "PolishResult", "exchange_digits_", "nearest_others", "polish_codes_"]

DigitCosts = Callable[[str, tuple[int, ...]], NDArray[np.float64]]
"""Cost of a digit of every weight, by name and shape."""

_CANDIDATES = 3  # other codes tried for a weight
_SHIFTS = (1 / 32, -1 / 32, 1 / 8, -1 / 8)  # of a bias, in standard deviations of what it is added to
_LEAST_RATIO = 1.5  # of what a new digit gains to what is lost for it; they are measured apart


@dataclass(frozen=True, slots=True)
class PolishResult:
    """What was gained.

    Attributes:
        loss_before: Cross entropy on the samples.
        loss_after: The same afterwards, never more.
        n_tried: Candidates measured.
        n_kept: Those kept.
    """

    loss_before: float
    loss_after: float
    n_tried: int
    n_kept: int


@torch.no_grad()
def polish_codes_(
    module: QuantModule, split: Split, *, n_samples: int = 32768, seed: int = 0, progress: Progress = NO_PROGRESS
) -> PolishResult:
    """Choose codes and biases of a sparsified module in place; its mode is left as it was.

    Args:
        module: With one input and one output of logits; all its weights have limits of signed digits.
        split: Training samples.
        n_samples: How many of them are used.
        seed: Of which.
        progress: One step a layer.

    Raises:
        QuantError: A weight has no limits.
    """
    with descent_on(module, split, n_samples, seed) as descent:
        _sweep(descent, progress)
        return _result(descent)


@torch.no_grad()
def exchange_digits_(
    module: QuantModule,
    split: Split,
    digit_costs: DigitCosts,
    spare: float,
    *,
    n_samples: int = 32768,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> PolishResult:
    """Move digits between weights and spend what is left, then choose all codes once more as `polish_codes_` does.

    Args:
        module: As in `polish_codes_`.
        split: Training samples.
        digit_costs: What a digit of each weight costs.
        spare: What may be spent beyond what is spent now; nothing if negative.
        n_samples: How many samples are used.
        seed: Of which.
        progress: One step a layer.

    Raises:
        QuantError: A weight has no limits.
    """
    with descent_on(module, split, n_samples, seed) as descent:
        _exchange(descent, digit_costs, spare)
        _sweep(descent, progress)
        return _result(descent)


class _Move(NamedTuple):
    """Another code of one weight: loss it changes by per cost, cost of its digits, and where."""

    worth: float
    cost: float
    place: Place
    code: int


def _result(descent: Descent) -> PolishResult:
    return PolishResult(descent.before, descent.loss, descent.n_tried, descent.n_kept)


def _sweep(descent: Descent, progress: Progress) -> None:
    """Choose every code and bias once more."""
    (own, _), free = own_layers(descent.module), descent.layers()
    progress.start("polish codes", len(own))
    try:
        for start, node in enumerate(descent.nodes):
            if node.name in own:
                if start in free:
                    _polish_weights(descent, start, own[node.name])
                if has_bias(own[node.name]):
                    _polish_biases(descent, start, own[node.name])
                progress.advance(1, node.name)
    finally:
        progress.finish()


def _is_better(descent: Descent, start: int) -> bool:
    """Compute from a node on; take the values over if the loss is less."""
    made, loss = descent.tried(start)
    if loss >= descent.loss - LEAST_GAIN:
        return False
    descent.values |= made
    descent.loss, descent.n_kept = loss, descent.n_kept + 1
    return True


def _polish_weights(descent: Descent, start: int, layer: Layer) -> None:
    quant, limits = descent.module.weight_quants()[layer.weight], descent.limits(layer)
    codes = quant.codes.copy()
    scale = by_rows(quant.scale, codes)
    write_weight_(descent.module, layer, codes * scale)
    grids = digit_grids(quant.qtype.qmin, quant.qtype.qmax)
    for place in np.argwhere(codes):
        at = tuple(place)
        grid = grids[min(int(limits[at]), len(grids) - 1)]
        for code in nearest_others(grid, int(codes[at])):
            kept, codes[at] = codes[at], code
            write_weight_(descent.module, layer, codes * scale)
            if _is_better(descent, start):
                break
            codes[at] = kept
    write_weight_(descent.module, layer, codes * scale)


def _polish_biases(descent: Descent, start: int, layer: Layer) -> None:
    outputs = descent.values[layer.node.output]
    spread = outputs.transpose(0, 1).reshape(outputs.shape[1], -1).double().std(dim=1).cpu().numpy()
    for channel in np.flatnonzero(spread):
        for share in _SHIFTS:
            shift = np.zeros(len(spread))
            shift[channel] = share * spread[channel]
            before = _bias_tensors(descent, layer)
            shift_bias_(descent.module, layer, shift)
            if _is_better(descent, start):
                break
            for name, value in before.items():
                descent.tensors[name].copy_(value)


def _bias_tensors(descent: Descent, layer: Layer) -> dict[str, Any]:
    """Return copies of what `shift_bias_` may change."""
    tensors = descent.tensors
    nodes = (layer.source, *layer.norms)
    names = {n for node in nodes for n in node.inputs[1:] if n in tensors and tensors[n].ndim == 1}
    return {name: tensors[name].clone() for name in names}


def _exchange(descent: Descent, digit_costs: DigitCosts, spare: float) -> None:
    """Give digits to the weights that gain most for what they cost, taking them where they are worth least."""
    places = descent.layers()
    costs = {start: digit_costs(layer.weight, descent.codes(layer).shape) for start, layer in places.items()}
    drops, gains = _drops(descent, costs), _gains(descent, costs)
    for gain in gains:
        if gain.worth * gain.cost < LEAST_GAIN:
            break
        taken = []
        while spare < gain.cost and drops and drops[0].worth * _LEAST_RATIO < gain.worth:
            taken.append(drops.pop(0))
            spare += taken[-1].cost
        if spare >= gain.cost and _kept(descent, [*taken, gain], places):
            spare -= gain.cost
        else:
            spare -= sum(drop.cost for drop in taken)


def _kept(descent: Descent, moves: list[_Move], places: Mapping[int, Layer]) -> bool:
    """Make moves together; undo them unless the loss falls."""
    before, first = descent.loss, min(move.place[0] for move in moves)
    undo = [(move, descent.set_code(places[move.place[0]], move.place[1], move.code)) for move in moves]
    descent.refresh(first)
    if descent.loss < before - LEAST_GAIN:
        descent.n_kept += 1
        return True
    for move, code in reversed(undo):
        descent.set_code(places[move.place[0]], move.place[1], code)
    descent.refresh(first)
    return False


def _drops(descent: Descent, costs: Mapping[int, NDArray[np.float64]]) -> list[_Move]:
    """Return for every weight with digits the nearest code of one digit fewer; what is worth least first."""
    moves = []
    for start, layer in descent.layers().items():
        codes, qtype = descent.codes(layer), descent.module.weight_quantizers()[layer.weight].qtype
        grids = digit_grids(qtype.qmin, qtype.qmax)
        for found in np.argwhere(codes):
            place = start, tuple(int(i) for i in found)
            old = codes[place[1]]
            fewer = grids[int(count_digits(old)) - 1]
            code = int(fewer[np.abs(fewer - old).argmin()])
            cost = float(costs[start][place[1]] * (count_digits(old) - count_digits(code)))
            moves.append(_Move((descent.measured(place, layer, code) - descent.loss) / cost, cost, place, code))
    return sorted(moves)


def _gains(descent: Descent, costs: Mapping[int, NDArray[np.float64]]) -> list[_Move]:
    """Return new weights of one digit, by what they were measured to gain for their cost, the best first."""
    moves, places = [], descent.layers()
    for place, code in descent.promising():
        start, at = place
        loss, best = min((descent.measured(place, places[start], c), c) for c in (code, 2 * code))
        cost = float(costs[start][at])
        moves.append(_Move((descent.loss - loss) / cost, cost, place, best))
    return sorted(moves, reverse=True)


def nearest_others(grid: NDArray[np.float64], code: int, most: int = _CANDIDATES) -> list[int]:
    """Return the codes of a grid nearest to one by ratio, of its sign, itself and 0 left out."""
    others = [int(value) for value in grid if value * code > 0 and value != code]
    return sorted(others, key=lambda value: (abs(np.log2(value / code)), value))[:most]
