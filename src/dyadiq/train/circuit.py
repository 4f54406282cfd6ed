"""Codes chosen by what the circuit takes: the loss against look-up tables that are counted, not supposed.

Used by `finetune` after training with `sparsify`, where LUTs are the budget. What a digit costs on average says little
about one weight: adder graphs share sums, so that one digit fewer frees many LUTs, another none, and a third takes
more. Counting the whole circuit anew takes milliseconds for a small network, so that every change can be asked:

    accept what lowers    loss + price * LUT

for every weight with digits its removal and the nearest codes of about as many digits, for pruned weights that the loss
pulls at a first digit. Biases are left alone: a carry chain adds any constant for nothing. The price rises between
passes while the circuit is above its budget and falls while it is below. Training between passes moves what is left to
where it now belongs. Local search: a pass is never worse by that sum, and no optimum is claimed.
Source: coordinate descent as in `polish`; the count is `fpga.estimate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.signed_digits import count_digits, digit_grids
from dyadiq.quant.fold import Layer
from dyadiq.quant.module import QuantModule
from dyadiq.train.descent import LEAST_GAIN, Descent, Place, descent_on
from dyadiq.train.polish import PolishResult, nearest_others
from dyadiq.zoo.data import Split

__all__ = ["trim_circuit_"]

# LUTs that one change is hoped to free, and those of a code with more digits, which mostly takes some; what would need
# more is not counted.
_MOST_SAVED, _MORE_DIGITS_SAVED = 10, 1
_NEAREST = 2  # codes tried of each number of digits
_SAMPLE = 200  # weights that the first price is found by
_DEARER, _CHEAPER = 1.6, 1.4  # what the price is multiplied, or divided, by between passes
_CLOSE = 0.985  # of the budget: the price stays
_MORE_PASSES = 2  # times as many, while the circuit is above its budget


@torch.no_grad()
def trim_circuit_(
    module: QuantModule,
    split: Split,
    luts: Callable[[], int],
    budget: int,
    *,
    passes: int,
    between: Callable[[int], None] | None = None,
    n_samples: int = 32768,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> PolishResult:
    """Change codes of a sparsified module in place until its circuit keeps to a budget.

    Limits of digits become those of the codes. Each pass is on other samples. A circuit that is still above the budget
    after twice as many passes is left as it is: the caller counts.

    Args:
        module: With one input and one output of logits; all its weights have limits of signed digits.
        split: Training samples.
        luts: Counts the LUTs of the module's circuit as it is.
        budget: LUTs to end with.
        passes: Over all weights.
        between: Called with the number of each pass but the last, after it; may train the module within its limits.
        n_samples: Samples of a pass.
        seed: Of which, and of the order of trials.
        progress: One step a pass.

    Returns:
        The loss before, on the samples of the first pass, and after, on those of the last.

    Raises:
        QuantError: A weight has no limits.
    """
    tried = kept = done = 0
    before = after = price = 0.0
    progress.start("trim circuit", passes)
    try:
        while done < passes or (luts() > budget and done < _MORE_PASSES * passes):
            with descent_on(module, split, n_samples, seed + done) as descent:
                rng = np.random.default_rng([seed, done])
                price = price or _first_price(descent, luts(), budget, rng)
                search = _Pass(descent, luts, budget, price)
                search.run(rng)
            before = descent.before if done == 0 else before
            after, tried, kept = descent.loss, tried + descent.n_tried, kept + descent.n_kept
            done += 1
            progress.advance(1, f"{search.now} LUT, loss {after:.4f}")
            if between is not None and done < passes:
                with torch.enable_grad():
                    between(done - 1)
            price *= _DEARER if search.now > budget else 1 / _CHEAPER if search.now < _CLOSE * budget else 1.0
    finally:
        progress.finish()
    return PolishResult(before, after, tried, kept)


def _first_price(descent: Descent, luts: int, budget: int, rng: np.random.Generator) -> float:
    """Return what a LUT is worth where weights are dropped, those first that cost least, until the budget is met.

    As if every digit took as many LUTs; weights measured are a sample.
    """
    layers, places = descent.layers(), _nonzero(descent)
    n_digits = sum(int(count_digits(descent.codes(layer)).sum()) for layer in layers.values())
    sample = rng.permutation(len(places))[:_SAMPLE]
    losses = np.sort([descent.measured(places[i], layers[places[i][0]], 0) - descent.loss for i in sample])
    if not places or luts <= 0:
        return LEAST_GAIN
    share = min(max(luts - budget, 0) / luts + 1 / len(places), 1.0)
    return float(max(losses[int(share * (len(losses) - 1))], LEAST_GAIN)) * n_digits / luts


def _nonzero(descent: Descent) -> list[Place]:
    layers = descent.layers().items()
    return [(start, tuple(map(int, at))) for start, layer in layers for at in np.argwhere(descent.codes(layer))]


@dataclass
class _Pass:
    """One pass: what is tried, and what the circuit takes now."""

    descent: Descent
    luts: Callable[[], int]
    budget: int
    price: float
    now: int = 0

    def run(self, rng: np.random.Generator) -> None:
        """Try every weight once, in an order of chance."""
        self.now = self.luts()
        layers, first_digits = self.descent.layers(), dict(self.descent.promising())
        places = [*_nonzero(self.descent), *first_digits]
        for number in rng.permutation(len(places)):
            place = places[number]
            self._try_weight(place, layers[place[0]], first_digits.get(place))

    def _try_weight(self, place: Place, layer: Layer, first_digit: int | None) -> None:
        start, at = place
        old = int(self.descent.codes(layer)[at])
        codes = [first_digit, 2 * first_digit] if first_digit is not None else self._other_codes(layer, old)
        losses = sorted((self.descent.measured(place, layer, code), code) for code in codes)
        found: tuple[float, int, int] | None = None
        for loss, code in losses:
            has_more = bool(count_digits(code) > count_digits(old))
            if self._is_hopeless(loss, found, _MORE_DIGITS_SAVED if has_more else _MOST_SAVED):
                continue
            self.descent.set_code(layer, at, code)
            found = self._better(found, loss, code)
        self.descent.set_code(layer, at, old if found is None else found[2])
        self._keep(start, found)

    def _other_codes(self, layer: Layer, code: int) -> list[int]:
        """Return 0 and the nearest codes of one digit fewer, as many, and one more."""
        qtype, n_digits = self.descent.module.weight_quantizers()[layer.weight].qtype, int(count_digits(code))
        grids = digit_grids(qtype.qmin, qtype.qmax)
        counts = range(max(1, n_digits - 1), min(n_digits + 1, len(grids) - 1) + 1)
        near = [other for n in counts for other in nearest_others(grids[n], code, _NEAREST)]
        return list(dict.fromkeys([0, *near]))

    def _is_hopeless(self, loss: float, found: tuple[float, int, int] | None, most_saved: int) -> bool:
        """Return whether a change of this loss would be worse than what was found, did it free as much as is hoped."""
        least = -LEAST_GAIN if found is None else found[0]
        return loss - self.descent.loss - self.price * most_saved >= least

    def _better(self, found: tuple[float, int, int] | None, loss: float, code: int) -> tuple[float, int, int] | None:
        """Count the circuit as it is; return what was found before or this: change of the sum, LUTs, code."""
        luts = self.luts()
        change = loss - self.descent.loss + self.price * (luts - self.now)
        fits = luts <= max(self.now, self.budget)
        return (change, luts, code) if fits and change < (-LEAST_GAIN if found is None else found[0]) else found

    def _keep(self, start: int, found: tuple[float, int, int] | None) -> None:
        if found is not None:
            self.descent.refresh(start)
            self.now = found[1]
            self.descent.n_kept += 1
