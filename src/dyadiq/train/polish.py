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

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.errors import QuantError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.signed_digits import count_digits, digit_grids
from dyadiq.quant.fold import Layer
from dyadiq.quant.module import QuantModule
from dyadiq.quant.write_back import has_bias, own_layers, shift_bias_, write_weight_
from dyadiq.train.evaluate import device_of, single_output
from dyadiq.zoo.data import Split

__all__ = ["DigitCosts", "PolishResult", "exchange_digits_", "polish_codes_"]

DigitCosts = Callable[[str, tuple[int, ...]], NDArray[np.float64]]
"""Cost of a digit of every weight, by name and shape."""

_CANDIDATES = 3  # other codes tried for a weight
_SHIFTS = (1 / 32, -1 / 32, 1 / 8, -1 / 8)  # of a bias, in standard deviations of what it is added to
_GROWTH = 200  # pruned weights tried at a time
_LEAST_RATIO = 1.5  # of what a new digit gains to what is lost for it; they are measured apart
_LEAST_GAIN = 2e-5  # of the mean loss; less is chance


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
    with _descent(module, split, n_samples, seed) as descent:
        descent.sweep(progress)
        return descent.result()


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
    with _descent(module, split, n_samples, seed) as descent:
        descent.exchange(digit_costs, spare)
        descent.sweep(progress)
        return descent.result()


@contextmanager
def _descent(module: QuantModule, split: Split, n_samples: int, seed: int) -> Iterator[_Descent]:
    """Yield the search on some samples; the module's mode is restored.

    Raises:
        QuantError: A weight has no limits.
    """
    for name, quantizer in module.weight_quantizers().items():
        if quantizer.max_digits is None:
            raise QuantError(
                f"{name}: no limits of signed digits, so there are no codes to choose among. Sparsify first."
            )
    index = np.sort(np.random.default_rng(seed).permutation(len(split))[:n_samples])
    device = device_of(module)
    x, y = (torch.as_tensor(values[index], device=device) for values in (split.x, split.y))
    mode, training = module.mode, module.training
    module.eval()
    module.set_mode_("fake")
    try:
        yield _Descent(module, x, y)
    finally:
        module.set_mode_(mode).train(training)


class _Move(NamedTuple):
    """Another code of one weight: loss it changes by per cost, cost of its digits, and where."""

    worth: float
    cost: float
    start: int
    at: tuple[int, ...]
    code: int


class _Descent:
    """Values of every tensor under the choices so far; a trial computes only what lies behind it."""

    def __init__(self, module: QuantModule, x: Tensor, y: Tensor) -> None:
        self.module, self.x, self.y = module, x, y
        self.tensors, self.quantizers = module.model_tensors(), module.quantizers_by_name()
        self.nodes = module.canonical.nodes
        self.values = module.first_values((x,), self.tensors, self.quantizers)
        self.values |= self.computed(0)
        self.loss = self.before = self.loss_of(self.values)
        self.n_tried = self.n_kept = 0

    def computed(self, start: int) -> dict[str, Tensor]:
        """Return what the nodes from one on make, those that it does not reach left out."""
        made: dict[str, Tensor] = {}
        values = dict(self.values)
        for number, node in enumerate(self.nodes[start:]):
            if start and number and not any(name in made for name in node.inputs):
                continue
            made[node.output] = self.module.run_canonical_node(node, values, self.tensors, self.quantizers)
            values[node.output] = made[node.output]
        return made

    def loss_of(self, values: dict[str, Tensor]) -> float:
        return float(F.cross_entropy(values[self.module.canonical.outputs[0]], self.y))

    def result(self) -> PolishResult:
        return PolishResult(self.before, self.loss, self.n_tried, self.n_kept)

    def sweep(self, progress: Progress) -> None:
        """Choose every code and bias once more."""
        layers, _ = own_layers(self.module)
        progress.start("polish codes", len(layers))
        try:
            for start, node in enumerate(self.nodes):
                if node.name in layers:
                    # A batch norm folded forwards makes the bias depend on the weight: left as it is.
                    if not layers[node.name].input_norms:
                        self._polish_weights(start, layers[node.name])
                    if has_bias(layers[node.name]):
                        self._polish_biases(start, layers[node.name])
                    progress.advance(1, node.name)
        finally:
            progress.finish()

    def _is_better(self, start: int) -> bool:
        """Compute from a node on; take the values over if the loss is less."""
        self.n_tried += 1
        made = self.computed(start)
        loss = self.loss_of({**self.values, **made})
        if loss >= self.loss - _LEAST_GAIN:
            return False
        self.values |= made
        self.loss, self.n_kept = loss, self.n_kept + 1
        return True

    def exchange(self, digit_costs: DigitCosts, spare: float) -> None:
        """Give digits to the weights that gain most for what they cost, taking them where they are worth least."""
        layers, _ = own_layers(self.module)
        places = {start: layers[n.name] for start, n in enumerate(self.nodes) if n.name in layers}
        places = {start: layer for start, layer in places.items() if not layer.input_norms}
        costs = {start: digit_costs(layer.weight, self._codes(layer).shape) for start, layer in places.items()}
        drops, gains = self._drops(places, costs), self._gains(places, costs)
        for gain in gains:
            if gain.worth * gain.cost < _LEAST_GAIN:
                break
            taken = []
            while spare < gain.cost and drops and drops[0].worth * _LEAST_RATIO < gain.worth:
                taken.append(drops.pop(0))
                spare += taken[-1].cost
            if spare >= gain.cost and self._kept([*taken, gain], places):
                spare -= gain.cost
            else:
                spare -= sum(drop.cost for drop in taken)

    def _kept(self, moves: list[_Move], places: Mapping[int, Layer]) -> bool:
        """Make moves together; undo them unless the loss falls."""
        before, first = self.loss, min(move.start for move in moves)
        undo = [(move, self._set(places[move.start], move.at, move.code)) for move in moves]
        self._refresh(first)
        if self.loss < before - _LEAST_GAIN:
            self.n_kept += 1
            return True
        for move, code in reversed(undo):
            self._set(places[move.start], move.at, code)
        self._refresh(first)
        return False

    def _drops(self, places: Mapping[int, Layer], costs: Mapping[int, NDArray[np.float64]]) -> list[_Move]:
        """Return for every weight with digits the nearest code of one digit fewer; what is worth least first."""
        moves = []
        for start, layer in places.items():
            codes, qtype = self._codes(layer), self.module.weight_quantizers()[layer.weight].qtype
            grids = digit_grids(qtype.qmin, qtype.qmax)
            for place in np.argwhere(codes):
                at = tuple(int(i) for i in place)
                fewer = grids[int(count_digits(codes[at])) - 1]
                code = int(fewer[np.abs(fewer - codes[at]).argmin()])
                cost = float(costs[start][at] * (count_digits(codes[at]) - count_digits(code)))
                moves.append(_Move((self._measured(start, layer, at, code) - self.loss) / cost, cost, start, at, code))
        return sorted(moves)

    def _gains(self, places: Mapping[int, Layer], costs: Mapping[int, NDArray[np.float64]]) -> list[_Move]:
        """Return new weights of one digit, by what they were measured to gain for their cost, the best first."""
        moves = []
        for start, at, code in self._promising(places):
            cost = float(costs[start][at])
            loss, best = min((self._measured(start, places[start], at, c), c) for c in (code, 2 * code))
            moves.append(_Move((self.loss - loss) / cost, cost, start, at, best))
        return sorted(moves, reverse=True)

    def _promising(self, places: Mapping[int, Layer]) -> list[tuple[int, tuple[int, ...], int]]:
        """Return the pruned weights that the loss changes fastest with, each with a code of one digit downhill."""
        gradients = self._gradients(list(places.values()))
        found = []
        for start, layer in places.items():
            codes, gradient = self._codes(layer), gradients[layer.weight]
            quant = self.module.weight_quants()[layer.weight]
            scale = np.broadcast_to(quant.scale, len(codes))
            typical = float(np.median(np.abs(codes[codes != 0]))) if codes.any() else 1.0
            size = int(2 ** round(np.log2(max(typical / 2, 1.0))))  # half of what weights of this layer have
            size = min(size, (quant.qtype.qmax + 1) // 4 or 1)  # twice as much is tried, too
            for place in np.argwhere((codes == 0) & (gradient != 0)):
                at = tuple(int(i) for i in place)
                speed = abs(float(gradient[at])) * size * float(scale[at[0]])
                found.append((speed, start, at, -size if gradient[at] > 0 else size))
        return [(start, at, code) for _, start, at, code in sorted(found, reverse=True)[:_GROWTH]]

    def _gradients(self, layers: list[Layer]) -> dict[str, NDArray[np.float64]]:
        """Return the gradient of the loss by every folded weight, pruned ones included."""
        probes, handles = {}, []
        for layer in layers:
            quantizer = self.module.weight_quantizers()[layer.weight]
            probe = torch.zeros(self._codes(layer).shape, device=quantizer.scale.device, requires_grad=True)
            probes[layer.weight] = probe
            handles.append(quantizer.register_forward_hook(lambda _m, _i, out, probe=probe: out + probe))
        try:
            with torch.enable_grad():
                loss = F.cross_entropy(single_output(self.module, self.x), self.y)
                found = torch.autograd.grad(loss, list(probes.values()))
        finally:
            for handle in handles:
                handle.remove()
        return {name: g.double().cpu().numpy() for name, g in zip(probes, found, strict=True)}

    def _codes(self, layer: Layer) -> NDArray[np.int64]:
        return self.module.weight_quants()[layer.weight].codes

    def _set(self, layer: Layer, at: tuple[int, ...], code: int) -> int:
        """Give a weight a code and as many digits as it takes; return the code before."""
        quant = self.module.weight_quants()[layer.weight]
        scale = np.broadcast_to(quant.scale, len(quant.codes)).reshape(-1, *([1] * (quant.codes.ndim - 1)))
        codes, before = quant.codes.copy(), int(quant.codes[at])
        codes[at] = code
        limits = self.module.weight_quantizers()[layer.weight].max_digits
        assert limits is not None  # checked by _descent
        limits[at] = int(count_digits(code))
        write_weight_(self.module, layer, codes * scale)
        return before

    def _measured(self, start: int, layer: Layer, at: tuple[int, ...], code: int) -> float:
        """Return the loss with another code, which is taken back."""
        self.n_tried += 1
        before = self._set(layer, at, code)
        loss = self.loss_of({**self.values, **self.computed(start)})
        self._set(layer, at, before)
        return loss

    def _refresh(self, start: int) -> None:
        """Compute again what lies behind a node."""
        self.values |= self.computed(start)
        self.loss = self.loss_of(self.values)

    def _polish_weights(self, start: int, layer: Layer) -> None:
        quant = self.module.weight_quants()[layer.weight]
        limits = self.module.weight_quantizers()[layer.weight].max_digits
        assert limits is not None  # checked by polish_codes_
        scale = np.broadcast_to(quant.scale, len(quant.codes)).reshape(-1, *([1] * (quant.codes.ndim - 1)))
        codes = quant.codes.copy()
        write_weight_(self.module, layer, codes * scale)
        grids = digit_grids(quant.qtype.qmin, quant.qtype.qmax)
        for place in np.argwhere(codes):
            at = tuple(place)
            grid = grids[min(int(limits[at]), len(grids) - 1)]
            for code in _nearest(grid, int(codes[at])):
                kept, codes[at] = codes[at], code
                write_weight_(self.module, layer, codes * scale)
                if self._is_better(start):
                    break
                codes[at] = kept
        write_weight_(self.module, layer, codes * scale)

    def _polish_biases(self, start: int, layer: Layer) -> None:
        outputs = self.values[layer.node.output]
        spread = outputs.transpose(0, 1).reshape(outputs.shape[1], -1).double().std(dim=1).cpu().numpy()
        for channel in np.flatnonzero(spread):
            for share in _SHIFTS:
                shift = np.zeros(len(spread))
                shift[channel] = share * spread[channel]
                before = _copies(self.tensors, layer)
                shift_bias_(self.module, layer, shift)
                if self._is_better(start):
                    break
                for name, value in before.items():
                    self.tensors[name].copy_(value)


def _nearest(grid: NDArray[np.float64], code: int) -> list[int]:
    """Return the codes of a grid nearest to one by ratio, of its sign, itself and 0 left out."""
    others = [int(value) for value in grid if value * code > 0 and value != code]
    return sorted(others, key=lambda value: (abs(np.log2(value / code)), value))[:_CANDIDATES]


def _copies(tensors: dict[str, Tensor], layer: Layer) -> dict[str, Any]:
    """Return copies of what `shift_bias_` may change."""
    names = {
        n for node in (layer.source, *layer.norms) for n in node.inputs[1:] if n in tensors and tensors[n].ndim == 1
    }
    return {name: tensors[name].clone() for name in names}
