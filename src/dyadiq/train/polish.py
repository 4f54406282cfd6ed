"""Codes of few signed digits chosen once more, one after the other, by the loss itself.

Used by `finetune` after training with `sparsify`. A weight of one digit jumps by factors of two when it crosses the
middle between its codes, and straight-through training leaves many weights there, so that the last epoch's codes are
partly chance. Coordinate descent: for every weight that has digits, in turn, the nearest other codes of its sign within
its limit; for every bias, small shifts; kept is what lowers the cross entropy on training samples. No digit is
added, so the circuit stays about as large. Source: the oscillations are those of Nagel et al. 2022 (arXiv:2203.11086);
descent by the loss over codes is what `quant.refine` does over ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.errors import QuantError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.signed_digits import digit_grids
from dyadiq.quant.fold import Layer
from dyadiq.quant.module import QuantModule
from dyadiq.quant.write_back import has_bias, own_layers, shift_bias_, write_weight_
from dyadiq.train.evaluate import device_of
from dyadiq.zoo.data import Split

__all__ = ["PolishResult", "polish_codes_"]

_CANDIDATES = 3  # other codes tried for a weight
_SHIFTS = (1 / 32, -1 / 32, 1 / 8, -1 / 8)  # of a bias, in standard deviations of what it is added to
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
        return _Descent(module, x, y).run(progress)
    finally:
        module.set_mode_(mode).train(training)


class _Descent:
    """Values of every tensor under the choices so far; a trial computes only what lies behind it."""

    def __init__(self, module: QuantModule, x: Tensor, y: Tensor) -> None:
        self.module, self.y = module, y
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

    def run(self, progress: Progress) -> PolishResult:
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
        return PolishResult(self.before, self.loss, self.n_tried, self.n_kept)

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
